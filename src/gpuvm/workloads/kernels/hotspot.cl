// HS: transient temperature of a chip by explicit finite differences. A block holds a 16 x 16 tile and
// takes `steps` steps in shared memory; its valid part shrinks by one cell on each side a step (ghost
// zone), so blocks overlap by 2 * steps.
#define TILE 16

__kernel void hotspot(int steps, __global const float *power, __global const float *source,
                      __global float *target, int columns, int rows, float step_capacity, float rx1,
                      float ry1, float rz1, float ambient)
{
    __local float now[TILE][TILE];
    __local float heat[TILE][TILE];
    int tx = get_local_id(0), ty = get_local_id(1);
    int inner = TILE - 2 * steps;
    int top = inner * (int)get_group_id(1) - steps, left = inner * (int)get_group_id(0) - steps;
    int row = top + ty, column = left + tx;
    int at = row * columns + column;
    bool inside = row >= 0 && row < rows && column >= 0 && column < columns;

    if (inside) {
        now[ty][tx] = source[at];
        heat[ty][tx] = power[at];
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    // Beyond the chip's edge lies the edge cell itself.
    int north = row > 0 ? ty - 1 : ty, south = row < rows - 1 ? ty + 1 : ty;
    int west = column > 0 ? tx - 1 : tx, east = column < columns - 1 ? tx + 1 : tx;
    float next = 0.0f;
    bool computed = false;
    for (int i = 1; i <= steps; i++) {
        computed = inside && tx >= i && tx < TILE - i && ty >= i && ty < TILE - i;
        if (computed) {
            float here = now[ty][tx];
            float vertical = now[south][tx] + now[north][tx] - 2.0f * here;
            float horizontal = now[ty][east] + now[ty][west] - 2.0f * here;
            next = here + step_capacity *
                              (heat[ty][tx] + vertical * ry1 + horizontal * rx1 + (ambient - here) * rz1);
        }
        if (i == steps)
            break;
        barrier(CLK_LOCAL_MEM_FENCE);
        if (computed)
            now[ty][tx] = next;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (computed)
        target[at] = next;
}
