// MMUL: c = a * b, n x n unsigned words modulo 2^32, one thread an element of c: a warp reads one word of a
// and a row of b.
extern "C" __global__ void mmul(const unsigned int *a, const unsigned int *b, unsigned int *c, int n)
{
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row < n && column < n) {
        unsigned int sum = 0;
        for (int k = 0; k < n; k++)
            sum += a[row * n + k] * b[k * n + column];
        c[row * n + column] = sum;
    }
}
