// HW: tracks points of a heart's inner and outer wall over ultrasound frames, one block of 32 x 16 threads
// a point. In each frame the point's template (51 x 51) is correlated, normalised, with the area around the
// point (81 x 81) at all 131 x 131 offsets; the point moves to the best offset within a 10 x 10 mask around
// where it was. Column after column everywhere, as the frames are. Sizes are those of the algorithm's
// published parameters.
#define LANES 32
#define WARPS 16
#define THREADS (LANES * WARPS)
#define REACH 25                        // the template reaches this far from its centre,
#define SEARCH 40                       // the area this far,
#define MOVE 10                         // and the mask is this wide
#define T (2 * REACH + 1)               // template
#define A (2 * SEARCH + 1)              // area
#define C (T + A - 1)                   // convolution
#define P (A + 2 * T)                   // area with zeros around
#define CHUNKS ((C + LANES - 1) / LANES)
#define STEP 3                          // template elements taken at a time; divides T
#define MARGIN LANES                    // zeros above and below a column of the area: so far a warp may reach
#define TALL (A + 2 * MARGIN)
#define MEAN (1.0f / (T * T))
#define CENTRE (SEARCH + REACH)         // offset at which template and area coincide

// Scratch of a point, in floats.
#define ROTATED 0
#define CONVOLUTION (ROTATED + T * T)
#define PADDED (CONVOLUTION + C * C)
#define STRIPS (PADDED + P * P)
#define SUMS (STRIPS + C * P)
#define SQUARES (SUMS + C * C)
#define MASK (SQUARES + C * C)
#define SCRATCH (MASK + C * C)

// Loops stay rolled: the code is long enough.
#define ROLLED _Pragma("unroll 1")

// A warp takes a column, its lanes the rows.
#define FOR_EACH(columns, rows) \
    ROLLED \
    for (int column = ty; column < (columns); column += WARPS) \
        ROLLED \
        for (int row = tx; row < (rows); row += LANES)

struct Change {
    int frame;
    int update;
    float alpha;
};

// What changes from frame to frame: its number, whether templates are renewed after it, and with what
// weight of the old.
__constant__ Change change;

extern "C" __global__ void heartwall(const float *frame, int frame_rows, int frame_columns, int frames,
                                     int *base_rows, int *base_columns, int *track_rows, int *track_columns,
                                     float *templates, float *scratch)
{
    __shared__ float area[A * TALL];
    __shared__ float part_sum[T];
    __shared__ float part_square[T];
    __shared__ float best_value[C];
    __shared__ int best_place[C];
    __shared__ float template_mean;
    __shared__ float template_norm;
    __shared__ int now_row;
    __shared__ int now_column;

    int tx = threadIdx.x, ty = threadIdx.y;
    int thread = ty * LANES + tx;
    int point = blockIdx.x;
    int base_row = base_rows[point], base_column = base_columns[point];
    int last_row = frame_rows - 1, last_column = frame_columns - 1;
    int entry = point * frames + change.frame;
    float *own = templates + point * (T * T);
    float *work = scratch + (long long)point * SCRATCH;

    if (change.frame == 0) {
        FOR_EACH(T, T) {
            int y = min(max(base_row - REACH - 1 + row, 0), last_row);
            int x = min(max(base_column - REACH - 1 + column, 0), last_column);
            own[column * T + row] = frame[x * frame_rows + y];
        }
        if (thread == 0) {
            track_rows[entry] = base_row;
            track_columns[entry] = base_column;
        }
        return;
    }

    // The area around the point, zeros above and below each column; the template, turned by half a turn.
    float *rotated = work + ROTATED;
    FOR_EACH(A, TALL) {
        float pixel = 0.0f;
        if (row >= MARGIN && row < MARGIN + A) {
            int y = min(max(base_row - SEARCH - 1 - MARGIN + row, 0), last_row);
            int x = min(max(base_column - SEARCH - 1 + column, 0), last_column);
            pixel = frame[x * frame_rows + y];
        }
        area[column * TALL + row] = pixel;
    }
    ROLLED
    for (int e = thread; e < T * T; e += THREADS)
        rotated[e] = own[T * T - 1 - e];
    __syncthreads();

    // Sum and norm of the template's deviation from its mean.
    if (thread < T) {
        float sum = 0.0f, square = 0.0f;
        ROLLED
        for (int i = 0; i < T; i++) {
            float pixel = rotated[i * T + thread];
            sum += pixel;
            square += pixel * pixel;
        }
        part_sum[thread] = sum;
        part_square[thread] = square;
    }

    // Convolution. A warp computes 32 rows of a column; which template elements reach them is the same for
    // all of it.
    float *convolution = work + CONVOLUTION;
    ROLLED
    for (int task = ty; task < C * CHUNKS; task += WARPS) {
        int column = task / CHUNKS, top = (task - column * CHUNKS) * LANES;
        int first_a = max(0, column - (A - 1)), last_a = min(T - 1, column);
        int first_b = max(0, top - (A - 1)) / STEP * STEP, last_b = min(T - 1, top + LANES - 1);
        int row = top + tx;
        float sum = 0.0f;
        ROLLED
        for (int a = first_a; a <= last_a; a++) {
            const float *weight = rotated + a * T;
            const float *pixel = area + (column - a) * TALL + row + MARGIN;
            ROLLED
            for (int b = first_b; b <= last_b; b += STEP) {
                sum += weight[b] * pixel[-b];
                sum += weight[b + 1] * pixel[-b - 1];
                sum += weight[b + 2] * pixel[-b - 2];
            }
        }
        if (row < C)
            convolution[column * C + row] = sum;
    }
    __syncthreads();

    if (thread == 0) {
        float sum = 0.0f, square = 0.0f;
        ROLLED
        for (int i = 0; i < T; i++) {
            sum += part_sum[i];
            square += part_square[i];
        }
        float mean = sum * MEAN;
        float variance = square * MEAN - mean * mean;
        template_mean = mean;
        template_norm = sqrtf((float)(T * T - 1)) * sqrtf(variance);
    }

    // Sums of the area's pixels, then of their squares, under the template at every offset: cumulative sums
    // down the columns, differences T apart, cumulative sums along the rows, differences T apart.
    float *padded = work + PADDED;
    float *strips = work + STRIPS;
    ROLLED
    for (int pass = 0; pass < 2; pass++) {
        FOR_EACH(P, P) {
            float pixel = 0.0f;
            if (row >= T && row < T + A && column >= T && column < T + A)
                pixel = area[(column - T) * TALL + row - T + MARGIN];
            padded[column * P + row] = pass ? pixel * pixel : pixel;
        }
        __syncthreads();
        if (thread < P) {
            float sum = 0.0f;
            ROLLED
            for (int row = 0; row < P; row++) {
                sum += padded[thread * P + row];
                padded[thread * P + row] = sum;
            }
        }
        __syncthreads();
        FOR_EACH(P, C)
            strips[column * C + row] = padded[column * P + row + T] - padded[column * P + row];
        __syncthreads();
        if (thread < C) {
            float sum = 0.0f;
            ROLLED
            for (int column = 0; column < P; column++) {
                sum += strips[column * C + thread];
                strips[column * C + thread] = sum;
            }
        }
        __syncthreads();
        float *window = work + (pass ? SQUARES : SUMS);
        ROLLED
        for (int e = thread; e < C * C; e += THREADS)
            window[e] = strips[e + T * C] - strips[e];
        __syncthreads();
    }

    // Normalised cross-correlation, in place of the convolution; the mask's one element, where the point
    // was last.
    const float *sums = work + SUMS;
    const float *squares = work + SQUARES;
    float *mask = work + MASK;
    int mask_row = CENTRE + track_rows[entry - 1] - base_row;
    int mask_column = CENTRE + track_columns[entry - 1] - base_column;
    FOR_EACH(C, C) {
        int at = column * C + row;
        float sum = sums[at];
        float spread = fmaxf(squares[at] - sum * sum * MEAN, 0.0f);
        convolution[at] = (convolution[at] - sum * template_mean) / (sqrtf(spread) * template_norm);
        mask[at] = row == mask_row && column == mask_column ? 1.0f : 0.0f;
    }
    __syncthreads();

    // Convolution of the mask with a square of ones: 1 where the point may go.
    FOR_EACH(C, C) {
        int first_a = max(0, column - MOVE / 2 + 1), last_a = min(C - 1, column + MOVE / 2);
        float allowed = 0.0f;
        ROLLED
        for (int a = first_a; a <= last_a; a++)
            ROLLED
            for (int b = 1 - MOVE / 2; b <= MOVE / 2; b++)
                if (row + b >= 0 && row + b < C)
                    allowed += mask[a * C + row + b];
        convolution[column * C + row] *= allowed;
    }
    __syncthreads();

    // The offset of the largest magnitude: by rows, then over the rows.
    if (thread < C) {
        float best = 0.0f;
        int place = 0;
        ROLLED
        for (int column = 0; column < C; column++) {
            float value = fabsf(convolution[column * C + thread]);
            if (value > best) {
                best = value;
                place = column * C + thread;
            }
        }
        best_value[thread] = best;
        best_place[thread] = place;
    }
    __syncthreads();
    if (thread == 0) {
        float best = 0.0f;
        int place = 0;
        ROLLED
        for (int row = 0; row < C; row++) {
            if (best_value[row] > best) {
                best = best_value[row];
                place = best_place[row];
            }
        }
        int column = place / C, row = place - column * C;
        now_row = base_row + row - CENTRE;
        now_column = base_column + column - CENTRE;
        track_rows[entry] = now_row;
        track_columns[entry] = now_column;
        if (change.update) {
            base_rows[point] = now_row;
            base_columns[point] = now_column;
        }
    }
    if (!change.update)
        return;
    __syncthreads();

    // The template learns how the point looks now.
    FOR_EACH(T, T) {
        int at = column * T + row;
        int y = min(max(now_row - REACH - 1 + row, 0), last_row);
        int x = min(max(now_column - REACH - 1 + column, 0), last_column);
        own[at] = change.alpha * own[at] + (1.0f - change.alpha) * frame[x * frame_rows + y];
    }
}
