// Every sum over pixels that the backward needs, in one read of x.
//
// A block has `planes` channels of an instance and a band of `parts` x `part_rows` rows, in shared memory. A thread walks
// down the rows of a part in COLUMNS columns of a channel; three rows of delta - D / P, its gates and 9 sums of E are in
// registers.
// Where a band is the plane (BANDED 0), the block ends with all that depends on the sums, else it writes the sums, and
// `finish` adds up the bands.
#include "totals.cuh"

#define STEP ((COLUMNS + 5) / 4 * 4)  // floats of a strip's row of delta: a column more on both sides
#define SUMS 10                       // E, then T

struct Walked {
    float e[9], by_delta[COLUMNS], by_t[COLUMNS];
};

DEVICE void load_row(float (&row)[STEP], const float* from) {
#pragma unroll
    for (int i = 0; i < STEP; i += 4) {
        const float4 four = *(const float4*)(from + i);
        row[i] = four.x, row[i + 1] = four.y, row[i + 2] = four.z, row[i + 3] = four.w;
    }
}

struct Line {  // of one channel and strip
    const Element* x;
    const float* delta;  // of the row above the first
    const float* a;
    float* row_sums;
    int next_x, next_delta, next_a, next_sum, second_sum;
};

// One row: `above`, `here` and `below` are rows of delta.
DEVICE void add_row(
    Walked& sums, Line& line, const float (&d)[COLUMNS], const u32 (&mask)[COLUMNS], float mean, const float (&above)[STEP],
    const float (&here)[STEP], float (&below)[STEP]
) {
    load_row(below, line.delta + 2 * line.next_delta);
    const float a = *line.a;
    float row_delta = 0, row_t = 0;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const float x = masked(line.x[j], mask[j]);
#pragma unroll
        for (int k = 0; k < 3; k++) {
            sums.e[k] = fmaf(x, below[j + 2 - k], sums.e[k]);
            sums.e[3 + k] = fmaf(x, here[j + 2 - k], sums.e[3 + k]);
            sums.e[6 + k] = fmaf(x, above[j + 2 - k], sums.e[6 + k]);
        }
        const float t = x * a * d[j], centred = t - mean;
        row_delta = fmaf(t, here[j + 1], row_delta);
        sums.by_delta[j] = fmaf(t, here[j + 1], sums.by_delta[j]);
        row_t = fmaf(t, centred, row_t);
        sums.by_t[j] = fmaf(t, centred, sums.by_t[j]);
    }
    line.row_sums[0] = row_delta;
    line.row_sums[line.second_sum] = row_t;
    line.x += line.next_x, line.delta += line.next_delta, line.a += line.next_a, line.row_sums += line.next_sum;
}

// The last strip may have but `rest` columns.
DEVICE void walk(
    Walked& sums, Line line, const float* column_gates, int pitch, float mean, int count, bool whole, int rest
) {
    float d[COLUMNS], one[STEP], two[STEP], three[STEP];
    u32 mask[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
        const bool inside = j < rest || whole;
        mask[j] = mask_of(inside), d[j] = inside ? column_gates[j * pitch] : 0.0f;
    }
    load_row(one, line.delta);
    load_row(two, line.delta + line.next_delta);
#pragma unroll 1
    for (; count >= 3; count -= 3) {
        add_row(sums, line, d, mask, mean, one, two, three);
        add_row(sums, line, d, mask, mean, two, three, one);
        add_row(sums, line, d, mask, mean, three, one, two);
    }
    if (count > 0) add_row(sums, line, d, mask, mean, one, two, three);
    if (count > 1) add_row(sums, line, d, mask, mean, two, three, one);
}

// As many registers as 16 warps of a processor can have: the compiler's own choice spills one.
#define BLOCKS (MOST_THREADS > 256 ? 1 : 512 / MOST_THREADS)
extern "C" __global__ void __launch_bounds__(MOST_THREADS, BLOCKS) contract(
    const Element* __restrict__ x, const float* means, const float* gates, STATISTICS, const float* __restrict__ delta,
    const float* __restrict__ delta_sums, OUTPUTS, float* __restrict__ dpre, float* __restrict__ band_sums,
    float* __restrict__ band_rows, float* __restrict__ band_columns, int of_instance, int of_channel, int delta_blocks,
    int instances
    GIVEN(GIVEN_SIZES, int given_chunks, int given_bands, int given_parts, int given_part_rows, int given_planes,
          int given_stride, int given_x_bytes)
) {
    SIZES; SIZE(chunks); SIZE(bands); SIZE(parts); SIZE(part_rows); SIZE(planes); SIZE(stride); SIZE(x_bytes);
    const int room = parts * part_rows, strips = (W + COLUMNS - 1) / COLUMNS, workers = THREADS / planes;
    const int pitch = planes | 1;  // of the gates, so that lanes meet all banks along either side
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, rest = blockIdx.x % (chunks * bands);
    const i64 n = blockIdx.x / (chunks * bands);
    const int first = rest % chunks * planes, band = rest / chunks, count = min(planes, K - first);
    const int top = band * room, height = min(room, H - top), units = strips * parts;
    // x as it lies in memory, `stride` elements between channels; later all sums but the rows'.
    Element* const xs = (Element*)shared_memory;
    float* const unit_sums = (float*)shared_memory;                    // (SUMS, units, planes)
    float* const column_sums = unit_sums + SUMS * units * planes;      // (parts, 2, W, planes)
    float* const centred = (float*)(shared_memory + x_bytes);          // (room + 2, strips, STEP): delta - D / P
    float* const row_sums = centred + (room + 2) * strips * STEP;      // (strips, 2, room, planes)
    float* const totals = row_sums + strips * 2 * room * planes;       // (SUMS, planes)
    float* const sides = totals + SUMS * planes;                       // (room + W, pitch): a, d; later dpre
    float2* const ends = (float2*)(sides + ((room + W) * pitch + 1) / 2 * 2);  // (workers, planes)

    const Element* const source = x + (n * K + first) * P + top * W;
    const int shift = misalignment(source);
    if (stride == P)
        copy_elements<COPYING>(xs, source, count * P, tid);
    else
        for (int c = warp; c < count; c += WARPS) {
            const Element* from = source + (i64)c * P;
            copy_elements<32>(xs + shift + c * stride - misalignment(from), from, height * W, lane);
        }
    const Sides all_gates = {gates, of_instance, of_channel}, all_means = {means, of_instance, of_channel};
    for (int c = warp; c < count; c += WARPS) {
        const float* const from = all_gates.of(n, first + c);
#pragma unroll 1
        for (int l = lane; l < height + W; l += 32)
            sides[(l < height ? l : room + l - height) * pitch + c] = from[l < height ? top + l : H + l - height];
    }
    for (int i = tid; i < count * COLUMNS; i += THREADS) {  // the last strip reads beyond the last row
        const int c = i / COLUMNS, j = height * W + i % COLUMNS;
        if (c == count - 1 || j < stride) xs[shift + c * stride + j] = 0;
    }
    const float d = delta_sum(delta_sums + n * delta_blocks, delta_blocks), level = d / P;
    const float* const map = delta + n * (H + 2) * (W + 2);
    for (int row = warp; row < room + 2; row += WARPS)
        for (int i = lane; i < strips * STEP; i += 32) {
            const int w = i / STEP * COLUMNS + i % STEP - 1, h = top + row - 1;
            const bool inside = h >= 0 && h < H && w >= 0 && w < W;
            centred[row * strips * STEP + i] = inside ? map[(h + 1) * (W + 2) + w + 1] - level : 0.0f;
        }
    copies_arrived();
    __syncthreads();

    const int c = tid % planes, unit = tid / planes, strip = unit % strips, part = unit / strips, w0 = strip * COLUMNS;
    const bool active = c < count && part < parts;
    Walked walked;
#pragma unroll
    for (int k = 0; k < 9; k++) walked.e[k] = 0;
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) walked.by_delta[j] = walked.by_t[j] = 0;
    if (active) {
        const int h0 = part * part_rows;
        Line line;
        line.x = xs + shift + c * stride + h0 * W + w0, line.next_x = W;
        line.delta = centred + (h0 * strips + strip) * STEP, line.next_delta = strips * STEP;
        line.a = sides + h0 * pitch + c, line.next_a = pitch;
        line.row_sums = row_sums + (strip * 2 * room + h0) * planes + c, line.next_sum = planes;
        line.second_sum = room * planes;
        const float* const column_gates = sides + (room + w0) * pitch + c;
        const float mu = mean[n * K + first + c];
        const int rows = min(part_rows, height - h0);
        walk(walked, line, column_gates, pitch, mu, rows, strip < strips - 1, (W - 1) % COLUMNS + 1);
    }
    __syncthreads();  // x is not needed any more
    if (active) {
        float by_delta = 0;
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
            if (W % COLUMNS == 0 || w0 + j < W) {
                float* const to = column_sums + (part * 2 * W + w0 + j) * planes + c;
                to[0] = walked.by_delta[j];
                to[W * planes] = walked.by_t[j];
                by_delta += walked.by_delta[j];
            }
#pragma unroll
        for (int k = 0; k < 9; k++) unit_sums[(k * units + unit) * planes + c] = walked.e[k];
        unit_sums[(9 * units + unit) * planes + c] = by_delta;
    }
    __syncthreads();
    for (int i = tid; i < SUMS * planes; i += THREADS) {
        const int k = i / planes, of = i - k * planes;
        float sum = 0;
        if (of < count)
#ifdef BAKED
#pragma unroll 8
#endif
            for (int u = 0; u < units; u++) sum += unit_sums[(k * units + u) * planes + of];
        totals[i] = sum;
    }
    __syncthreads();

    const auto row_of = [&](int i, int h) {
        float sum = 0;
#ifdef BAKED
#pragma unroll 8
#endif
        for (int s = 0; s < strips; s++) sum += row_sums[((s * 2 + i) * room + h) * planes + c];
        return sum;
    };
    const auto column_of = [&](int i, int w) {
        float sum = 0;
        UNROLLED
        for (int p = 0; p < parts; p++) sum += column_sums[((p * 2 + i) * W + w) * planes + c];
        return sum;
    };
    const auto total_of = [&](int k) { return totals[k * planes + c]; };
    const bool works = c < count && unit < workers;
    const int channel = min(first + c, K - 1);
#if BANDED
    if (!works) return;
    float* const sums_to = band_sums + (n * bands + band) * SUMS * K + channel;
    float* const rows_to = band_rows + (n * 2 * H + top) * K + channel;
    float* const columns_to = band_columns + (n * bands + band) * 2 * W * K + channel;
    for (int k = unit; k < SUMS; k += workers) sums_to[k * K] = total_of(k);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        for (int h = unit; h < height; h += workers) rows_to[(i64)(i * H + h) * K] = row_of(i, h);
        for (int w = unit; w < W; w += workers) columns_to[(i64)(i * W + w) * K] = column_of(i, w);
    }
#else
    finish_channels(
        {mean, rstd, q, gamma, beta}, {coefficients, dq, sums, windows}, x + (n * K + channel) * P,
        all_means.of(n, channel), n, channel, c, planes, unit, workers, works, K, H, W, d, ends, total_of,
        [&](int l) { return sides[(l < H ? l : room + l - H) * pitch + c]; }, row_of, column_of,
        [&](int l, float value) { sides[(l < H ? l : room + l - H) * pitch + c] = value; });
    // A barrier in finish_channels is behind the last of these writes.
    for (int i = warp; i < count; i += WARPS) {
        float* const to = dpre + ((i64)(first + i) * instances + n) * L;
#pragma unroll 1
        for (int l = lane; l < L; l += 32) to[l] = sides[(l < H ? l : room + l - H) * pitch + i];
    }
#endif
}
