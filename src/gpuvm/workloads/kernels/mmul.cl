// MMUL: c = a * b, n x n unsigned words modulo 2^32, one thread an element of c: a warp reads one word of a
// and a row of b.
__kernel void mmul(__global const unsigned int *a, __global const unsigned int *b, __global unsigned int *c,
                   int n)
{
    int column = get_global_id(0);
    int row = get_global_id(1);
    if (row < n && column < n) {
        unsigned int sum = 0;
        for (int k = 0; k < n; k++)
            sum += a[row * n + k] * b[k * n + column];
        c[row * n + column] = sum;
    }
}
