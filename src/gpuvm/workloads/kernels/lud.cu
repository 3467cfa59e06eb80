// LUD: blocked LU decomposition in place, without pivoting, in tiles of 16 x 16. For each diagonal tile:
// `diagonal` factors it, `perimeter` solves the tiles right of and below it, `internal` updates the rest. L
// has a unit diagonal.
#define TILE 16

extern "C" __global__ void diagonal(float *m, int n, int offset)
{
    __shared__ float tile[TILE][TILE + 1];
    int lane = threadIdx.x;
    float *corner = m + offset * n + offset;

#pragma unroll 1
    for (int i = 0; i < TILE; i++)
        tile[i][lane] = corner[i * n + lane];
    __syncthreads();

#pragma unroll 1
    for (int i = 0; i < TILE - 1; i++) {
        if (lane > i) {
            // Column i of L: each thread its row.
            float sum = tile[lane][i];
#pragma unroll 1
            for (int j = 0; j < i; j++)
                sum -= tile[lane][j] * tile[j][i];
            tile[lane][i] = sum / tile[i][i];
        }
        __syncthreads();
        if (lane > i) {
            // Row i + 1 of U: each thread its column.
            float sum = tile[i + 1][lane];
#pragma unroll 1
            for (int j = 0; j <= i; j++)
                sum -= tile[i + 1][j] * tile[j][lane];
            tile[i + 1][lane] = sum;
        }
        __syncthreads();
    }

#pragma unroll 1
    for (int i = 1; i < TILE; i++)
        corner[i * n + lane] = tile[i][lane];
}

extern "C" __global__ void perimeter(float *m, int n, int offset)
{
    __shared__ float factored[TILE][TILE];
    __shared__ float right[TILE][TILE];
    __shared__ float below[TILE][TILE + 1];
    int lane = threadIdx.x & (TILE - 1);
    int side = threadIdx.x / TILE;
    int away = (blockIdx.x + 1) * TILE;
    float *corner = m + offset * n + offset;

#pragma unroll 1
    for (int i = side; i < TILE; i += 2) {
        factored[i][lane] = corner[i * n + lane];
        right[i][lane] = corner[i * n + away + lane];
        below[i][lane] = corner[(away + i) * n + lane];
    }
    __syncthreads();

    if (side == 0) {
#pragma unroll 1
        for (int i = 1; i < TILE; i++) {
            float sum = right[i][lane];
#pragma unroll 1
            for (int j = 0; j < i; j++)
                sum -= factored[i][j] * right[j][lane];
            right[i][lane] = sum;
        }
    } else {
#pragma unroll 1
        for (int i = 0; i < TILE; i++) {
            float sum = below[lane][i];
#pragma unroll 1
            for (int j = 0; j < i; j++)
                sum -= below[lane][j] * factored[j][i];
            below[lane][i] = sum / factored[i][i];
        }
    }
    __syncthreads();

#pragma unroll 1
    for (int i = side; i < TILE; i += 2) {
        corner[i * n + away + lane] = right[i][lane];
        corner[(away + i) * n + lane] = below[i][lane];
    }
}

extern "C" __global__ void internal(float *m, int n, int offset)
{
    __shared__ float right[TILE][TILE];
    __shared__ float below[TILE][TILE];
    int tx = threadIdx.x, ty = threadIdx.y;
    int row = offset + (blockIdx.y + 1) * TILE + ty;
    int column = offset + (blockIdx.x + 1) * TILE + tx;

    right[ty][tx] = m[(offset + ty) * n + column];
    below[ty][tx] = m[row * n + offset + tx];
    __syncthreads();

    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < TILE; i++)
        sum += below[ty][i] * right[i][tx];
    m[row * n + column] -= sum;
}
