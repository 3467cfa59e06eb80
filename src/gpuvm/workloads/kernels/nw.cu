// NW: Needleman-Wunsch scores by tiles of 16 x 16 along anti-diagonals of tiles, which are independent of
// each other. `upper` runs the anti-diagonals that grow, `lower` those that shrink; within a tile 16
// threads do the same by cells.
#define TILE 16

__device__ static void score_tile(const int *similarity, int *score, int width, int penalty, int tile_x,
                                  int tile_y)
{
    __shared__ int cell[TILE + 1][TILE + 1];
    __shared__ int match[TILE][TILE];
    int tx = threadIdx.x;
    int corner = width * TILE * tile_y + TILE * tile_x;
    int first = corner + width + 1;

    if (tx == 0)
        cell[0][0] = score[corner];
#pragma unroll 4
    for (int y = 0; y < TILE; y++)
        match[y][tx] = similarity[first + y * width + tx];
    cell[tx + 1][0] = score[corner + (tx + 1) * width];
    cell[0][tx + 1] = score[corner + tx + 1];
    __syncthreads();

#pragma unroll 1
    for (int wave = 0; wave < 2 * TILE - 1; wave++) {
        int y = wave - tx;
        if (y >= 0 && y < TILE) {
            int diagonal = cell[y][tx] + match[y][tx];
            int left = cell[y + 1][tx] - penalty;
            int above = cell[y][tx + 1] - penalty;
            cell[y + 1][tx + 1] = max(diagonal, max(left, above));
        }
        __syncthreads();
    }

#pragma unroll 4
    for (int y = 0; y < TILE; y++)
        score[first + y * width + tx] = cell[y + 1][tx + 1];
}

extern "C" __global__ void upper(const int *similarity, int *score, int width, int penalty, int diagonal)
{
    score_tile(similarity, score, width, penalty, blockIdx.x, diagonal - 1 - blockIdx.x);
}

extern "C" __global__ void lower(const int *similarity, int *score, int width, int penalty, int diagonal,
                                 int tiles)
{
    score_tile(similarity, score, width, penalty, blockIdx.x + tiles - diagonal, tiles - 1 - blockIdx.x);
}
