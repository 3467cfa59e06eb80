// FMADD: c = a + b, n x n floats, one thread an element.
extern "C" __global__ void fmadd(const float *a, const float *b, float *c, int n)
{
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row < n && column < n) {
        int at = row * n + column;
        c[at] = a[at] + b[at];
    }
}
