// LUD: blocked LU decomposition in place, without pivoting, in tiles of 16 x 16. For each diagonal tile:
// `diagonal` factors it, `perimeter` solves the tiles right of and below it, `internal` updates the rest. L
// has a unit diagonal.
#define TILE 16

__kernel void diagonal(__global float *m, int n, int offset)
{
    __local float tile[TILE][TILE + 1];
    int lane = get_local_id(0);
    __global float *corner = m + offset * n + offset;

#pragma unroll 1
    for (int i = 0; i < TILE; i++)
        tile[i][lane] = corner[i * n + lane];
    barrier(CLK_LOCAL_MEM_FENCE);

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
        barrier(CLK_LOCAL_MEM_FENCE);
        if (lane > i) {
            // Row i + 1 of U: each thread its column.
            float sum = tile[i + 1][lane];
#pragma unroll 1
            for (int j = 0; j <= i; j++)
                sum -= tile[i + 1][j] * tile[j][lane];
            tile[i + 1][lane] = sum;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

#pragma unroll 1
    for (int i = 1; i < TILE; i++)
        corner[i * n + lane] = tile[i][lane];
}

__kernel void perimeter(__global float *m, int n, int offset)
{
    __local float factored[TILE][TILE];
    __local float right[TILE][TILE];
    __local float below[TILE][TILE + 1];
    int lane = get_local_id(0) & (TILE - 1);
    int side = get_local_id(0) / TILE;
    int away = (get_group_id(0) + 1) * TILE;
    __global float *corner = m + offset * n + offset;

#pragma unroll 1
    for (int i = side; i < TILE; i += 2) {
        factored[i][lane] = corner[i * n + lane];
        right[i][lane] = corner[i * n + away + lane];
        below[i][lane] = corner[(away + i) * n + lane];
    }
    barrier(CLK_LOCAL_MEM_FENCE);

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
    barrier(CLK_LOCAL_MEM_FENCE);

#pragma unroll 1
    for (int i = side; i < TILE; i += 2) {
        corner[i * n + away + lane] = right[i][lane];
        corner[(away + i) * n + lane] = below[i][lane];
    }
}

__kernel void internal(__global float *m, int n, int offset)
{
    __local float right[TILE][TILE];
    __local float below[TILE][TILE];
    int tx = get_local_id(0), ty = get_local_id(1);
    int row = offset + (get_group_id(1) + 1) * TILE + ty;
    int column = offset + (get_group_id(0) + 1) * TILE + tx;

    right[ty][tx] = m[(offset + ty) * n + column];
    below[ty][tx] = m[row * n + offset + tx];
    barrier(CLK_LOCAL_MEM_FENCE);

    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < TILE; i++)
        sum += below[ty][i] * right[i][tx];
    m[row * n + column] -= sum;
}
