// NN: Euclidean distance of every record's position to a target.
struct Position {
    float latitude;
    float longitude;
};

extern "C" __global__ void euclid(const Position *positions, float *distances, int count, float latitude,
                                  float longitude)
{
    int record = blockDim.x * (gridDim.x * blockIdx.y + blockIdx.x) + threadIdx.x;
    if (record < count) {
        float dy = latitude - positions[record].latitude;
        float dx = longitude - positions[record].longitude;
        distances[record] = sqrtf(dy * dy + dx * dx);
    }
}
