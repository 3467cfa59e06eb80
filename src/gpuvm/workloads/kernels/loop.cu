// LOOP: one thread steps a 32-bit xorshift generator n times; each step needs the one before, so nothing
// can be skipped.
extern "C" __global__ void loop(unsigned int *state, unsigned int n)
{
    unsigned int x = *state;
#pragma unroll 1
    for (unsigned int i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
    }
    *state = x;
}
