// BP: one training step of the input-to-hidden layer. Weights are (inputs + 1) x (16 + 1), row 0 and unit 0
// are the bias. A block of 16 x 16 threads holds the weights from 16 inputs to the 16 hidden units.
#define UNITS 16

extern "C" __global__ void forward(const float *input, float *weights, float *partial)
{
    __shared__ float node[UNITS];
    __shared__ float product[UNITS][UNITS];
    int tx = threadIdx.x, ty = threadIdx.y;
    int unit = blockIdx.y * UNITS + ty + 1;
    int at = unit * (UNITS + 1) + tx + 1;

    if (tx == 0)
        node[ty] = input[unit];
    __syncthreads();
    product[ty][tx] = weights[at] * node[ty];
    __syncthreads();

    // Sum over the block's inputs, by halves: row 0 ends with the sums.
#pragma unroll
    for (int stride = 1; stride < UNITS; stride *= 2) {
        if (ty % (2 * stride) == 0)
            product[ty][tx] += product[ty + stride][tx];
        __syncthreads();
    }

    // As in Rodinia the reduced products replace the weights, which the host therefore sends again.
    weights[at] = product[ty][tx];
    if (ty == 0)
        partial[blockIdx.y * UNITS + tx] = product[0][tx];
}

extern "C" __global__ void adjust(const float *delta, const float *input, float *weights, float *previous,
                                  float rate, float momentum)
{
    int tx = threadIdx.x, ty = threadIdx.y;
    int unit = blockIdx.y * UNITS + ty + 1;
    int at = unit * (UNITS + 1) + tx + 1;
    float change = rate * delta[tx + 1] * input[unit] + momentum * previous[at];
    weights[at] += change;
    previous[at] = change;

    if (ty == 0 && blockIdx.y == 0) {
        float bias = rate * delta[tx + 1] + momentum * previous[tx + 1];
        weights[tx + 1] += bias;
        previous[tx + 1] = bias;
    }
}
