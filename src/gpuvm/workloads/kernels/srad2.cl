// SRAD2: speckle reducing anisotropic diffusion of an image, version 2 of Rodinia: 16 x 16 tiles in shared
// memory. `coefficients` computes the derivatives and the diffusion coefficient of every pixel, `update`
// diffuses.
#define TILE 16

__kernel void coefficients(__global float *east, __global float *west, __global float *north,
                           __global float *south, __global const float *image, __global float *coefficient,
                           int columns, int rows, float speckle)
{
    __local float tile[TILE][TILE];
    int tx = get_local_id(0), ty = get_local_id(1);
    int row = get_group_id(1) * TILE + ty, column = get_group_id(0) * TILE + tx;
    int at = row * columns + column;

    float here = image[at];
    tile[ty][tx] = here;
    barrier(CLK_LOCAL_MEM_FENCE);

    // A neighbour outside the tile comes from memory, one outside the image is the pixel itself.
    float n, s, w, e;
    if (ty > 0)
        n = tile[ty - 1][tx];
    else
        n = image[row > 0 ? at - columns : at];
    if (ty < TILE - 1)
        s = tile[ty + 1][tx];
    else
        s = image[row < rows - 1 ? at + columns : at];
    if (tx > 0)
        w = tile[ty][tx - 1];
    else
        w = image[column > 0 ? at - 1 : at];
    if (tx < TILE - 1)
        e = tile[ty][tx + 1];
    else
        e = image[column < columns - 1 ? at + 1 : at];
    n -= here;
    s -= here;
    w -= here;
    e -= here;

    float gradient = (n * n + s * s + w * w + e * e) / (here * here);
    float laplacian = (n + s + w + e) / here;
    float spread = 1.0f + 0.25f * laplacian;
    float variation = (0.5f * gradient - 0.0625f * laplacian * laplacian) / (spread * spread);
    float c = 1.0f / (1.0f + (variation - speckle) / (speckle * (1.0f + speckle)));

    coefficient[at] = fmin(fmax(c, 0.0f), 1.0f);
    east[at] = e;
    west[at] = w;
    south[at] = s;
    north[at] = n;
}

__kernel void update(__global const float *east, __global const float *west, __global const float *north,
                     __global const float *south, __global float *image, __global const float *coefficient,
                     int columns, int rows, float lambda)
{
    __local float tile[TILE][TILE];
    int tx = get_local_id(0), ty = get_local_id(1);
    int row = get_group_id(1) * TILE + ty, column = get_group_id(0) * TILE + tx;
    int at = row * columns + column;

    float here = coefficient[at];
    tile[ty][tx] = here;
    barrier(CLK_LOCAL_MEM_FENCE);

    float s, e;
    if (ty < TILE - 1)
        s = tile[ty + 1][tx];
    else
        s = coefficient[row < rows - 1 ? at + columns : at];
    if (tx < TILE - 1)
        e = tile[ty][tx + 1];
    else
        e = coefficient[column < columns - 1 ? at + 1 : at];
    float divergence = here * north[at] + s * south[at] + here * west[at] + e * east[at];
    image[at] += 0.25f * lambda * divergence;
}
