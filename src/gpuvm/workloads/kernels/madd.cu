// MADD: c = a + b, n x n unsigned words, one thread an element.
extern "C" __global__ void madd(const unsigned int *a, const unsigned int *b, unsigned int *c, int n)
{
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row < n && column < n) {
        int at = row * n + column;
        c[at] = a[at] + b[at];
    }
}
