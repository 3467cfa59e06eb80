// NN: Euclidean distance of every record's position to a target.
typedef struct {
    float latitude;
    float longitude;
} Position;

__kernel void euclid(__global const Position *positions, __global float *distances, int count, float latitude,
                     float longitude)
{
    int record = get_global_id(0);
    if (record < count) {
        float dy = latitude - positions[record].latitude;
        float dx = longitude - positions[record].longitude;
        distances[record] = sqrt(dy * dy + dx * dx);
    }
}
