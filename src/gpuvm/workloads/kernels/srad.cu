// SRAD: speckle reducing anisotropic diffusion of an ultrasound image, version 1 of Rodinia: one thread a
// pixel, image stored column after column, neighbours through index tables, statistics of the whole image
// by a reduction.
#define THREADS 512

extern "C" __global__ void extract(int count, float *image)
{
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count)
        image[i] = expf(image[i] / 255.0f);
}

extern "C" __global__ void prepare(int count, const float *image, float *sums, float *squares)
{
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count) {
        float pixel = image[i];
        sums[i] = pixel;
        squares[i] = pixel * pixel;
    }
}

// One level of the reduction: of `count` values, `stride` apart, each block leaves its sum in the place of
// its first.
extern "C" __global__ void reduce(int count, int stride, float *sums, float *squares)
{
    __shared__ float sum[THREADS];
    __shared__ float square[THREADS];
    int tx = threadIdx.x;
    int i = blockIdx.x * THREADS + tx;
    sum[tx] = i < count ? sums[i * stride] : 0.0f;
    square[tx] = i < count ? squares[i * stride] : 0.0f;
    __syncthreads();
#pragma unroll 1
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (tx < half) {
            sum[tx] += sum[tx + half];
            square[tx] += square[tx + half];
        }
        __syncthreads();
    }
    if (tx == 0) {
        sums[i * stride] = sum[0];
        squares[i * stride] = square[0];
    }
}

extern "C" __global__ void srad(int rows, int count, const int *above, const int *below, const int *right,
                                const int *left, float *north, float *south, float *east, float *west,
                                float speckle, float *coefficient, const float *image)
{
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= count)
        return;
    int column = i / rows, row = i - column * rows;
    float here = image[i];
    float n = image[above[row] + rows * column] - here;
    float s = image[below[row] + rows * column] - here;
    float w = image[row + rows * left[column]] - here;
    float e = image[row + rows * right[column]] - here;

    float gradient = (n * n + s * s + w * w + e * e) / (here * here);
    float laplacian = (n + s + w + e) / here;
    float spread = 1.0f + 0.25f * laplacian;
    float variation = (0.5f * gradient - 0.0625f * laplacian * laplacian) / (spread * spread);
    float c = 1.0f / (1.0f + (variation - speckle) / (speckle * (1.0f + speckle)));

    north[i] = n;
    south[i] = s;
    west[i] = w;
    east[i] = e;
    coefficient[i] = fminf(fmaxf(c, 0.0f), 1.0f);
}

extern "C" __global__ void srad2(int rows, int count, const int *below, const int *right, const float *north,
                                 const float *south, const float *east, const float *west, float lambda,
                                 const float *coefficient, float *image)
{
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= count)
        return;
    int column = i / rows, row = i - column * rows;
    float here = coefficient[i];
    float s = coefficient[below[row] + rows * column];
    float e = coefficient[row + rows * right[column]];
    float divergence = here * north[i] + s * south[i] + here * west[i] + e * east[i];
    image[i] += 0.25f * lambda * divergence;
}

extern "C" __global__ void compress(int count, float *image)
{
    int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < count)
        image[i] = logf(image[i]) * 255.0f;
}
