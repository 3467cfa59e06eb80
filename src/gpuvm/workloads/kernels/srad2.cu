// SRAD2: speckle reducing anisotropic diffusion of an image, version 2 of Rodinia: 16 x 16 tiles in shared
// memory. `coefficients` computes the derivatives and the diffusion coefficient of every pixel, `update`
// diffuses.
#define TILE 16

extern "C" __global__ void coefficients(float *east, float *west, float *north, float *south,
                                        const float *image, float *coefficient, int columns, int rows,
                                        float speckle)
{
    __shared__ float tile[TILE][TILE];
    int tx = threadIdx.x, ty = threadIdx.y;
    int row = blockIdx.y * TILE + ty, column = blockIdx.x * TILE + tx;
    int at = row * columns + column;

    float here = image[at];
    tile[ty][tx] = here;
    __syncthreads();

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

    coefficient[at] = fminf(fmaxf(c, 0.0f), 1.0f);
    east[at] = e;
    west[at] = w;
    south[at] = s;
    north[at] = n;
}

extern "C" __global__ void update(const float *east, const float *west, const float *north,
                                  const float *south, float *image, const float *coefficient, int columns,
                                  int rows, float lambda)
{
    __shared__ float tile[TILE][TILE];
    int tx = threadIdx.x, ty = threadIdx.y;
    int row = blockIdx.y * TILE + ty, column = blockIdx.x * TILE + tx;
    int at = row * columns + column;

    float here = coefficient[at];
    tile[ty][tx] = here;
    __syncthreads();

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
