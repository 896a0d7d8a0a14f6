// Row and column means of planes, and the nine window means: a block holds `count` whole planes in shared memory.
#include "columns.cuh"

KERNEL pool(const Element* __restrict__ x, float* __restrict__ means, float* __restrict__ windows, int planes
            GIVEN(int given_H, int given_W, int given_count, int given_parts, int given_by_planes)) {
    SIZE(H); SIZE(W); SIZE(count); SIZE(parts); SIZE(by_planes);
    const int P = H * W, L = H + W, across = (W + COLUMNS - 1) / COLUMNS, rows = (H + parts - 1) / parts;
    const int pitch = count * H | 1, first = blockIdx.x * count, own = min(count, planes - first), tid = threadIdx.x;
    Element* kept = (Element*)shared_memory;
    float* sums = (float*)(shared_memory + aligned((count * P + VECTOR + COLUMNS) * sizeof(Element)));  // (count, L)
    float* of_rows = sums + count * L;             // (across, pitch): the tasks' shares of sums over a row
    float* of_columns = of_rows + across * pitch;  // (count, parts, W), for several parts
    const Element* from = x + (i64)first * P;
    float* to = means + (i64)first * L;
    const int shift = misalignment(from);
    copy_elements<COPYING>(kept, from, own * P, tid);
    if (tid < COLUMNS) kept[shift + own * P + tid] = 0;  // the last task reads beyond the last row
    copies_arrived();
    __syncthreads();

    const float per_row = 1.0f / W, per_column = 1.0f / H, per_pixel = 1.0f / P;
#pragma unroll 1
    for (int number = tid; number < count * parts * across; number += THREADS) {
        const Task task(number, by_planes, count, parts, across);
        if (task.plane >= own) continue;
        const int top = task.part * rows, end = min(H, top + rows);
        const Element* at = kept + shift + task.plane * P + top * W + task.first;
        float* row = of_rows + task.first / COLUMNS * pitch + task.plane * H + top;
        float column[COLUMNS];
        u32 mask[COLUMNS];
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) column[i] = 0, mask[i] = mask_of(task.first + i < W);
#pragma unroll 4
        for (int h = top; h < end; h++, at += W) {
            float sum = 0;
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) {
                const float value = masked(at[i], mask[i]);
                column[i] += value;
                sum = i ? sum + value : value;
            }
            *row++ = sum;
        }
        float* share = parts > 1 ? of_columns + (task.plane * parts + task.part) * W : sums + task.plane * L + H;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            if (task.first + i >= W) break;
            share[task.first + i] = column[i];
            if (parts == 1) to[task.plane * L + H + task.first + i] = column[i] * per_column;
        }
    }
    __syncthreads();

    Walk at(tid, THREADS, H);
#pragma unroll 1
    for (int i = tid; i < own * H; i += THREADS, at.next()) {
        float sum = 0;
#pragma unroll 4
        for (int j = 0; j < across; j++) sum += of_rows[j * pitch + i];
        sums[at.quotient * L + at.remainder] = sum;
        to[at.quotient * L + at.remainder] = sum * per_row;
    }
    if (parts > 1) {
#pragma unroll 1
        for (int i = tid; i < own * W; i += THREADS) {
            const int plane = i / W, w = i - plane * W;
            float sum = 0;
#pragma unroll 1
            for (int part = 0; part < parts; part++) sum += of_columns[(plane * parts + part) * W + w];
            sums[plane * L + H + w] = sum;
            to[plane * L + H + w] = sum * per_column;
        }
    }
    __syncthreads();

    // A window is the plane without the rows and columns that a tap does not see. Few planes: a warp for each.
    const int lanes = count < 8 ? 32 : 1, lane = tid & (lanes - 1);
#pragma unroll 1
    for (int plane = tid / lanes; plane < own; plane += THREADS / lanes) {
        const float* sum = sums + plane * L;
        const Element* v = kept + shift + plane * P;
        float total = 0;
#pragma unroll 4
        for (int h = lane; h < H; h += lanes) total += sum[h];
        total = over_lanes(total, lanes);
        if (!lane) {
            const float left = sum[H], right = sum[L - 1], upper = total - sum[H - 1], lower = total - sum[0];
            float* window = windows + (i64)(first + plane) * 9;
            window[0] = (upper - right + number(v[P - 1])) * per_pixel;
            window[1] = upper * per_pixel;
            window[2] = (upper - left + number(v[P - W])) * per_pixel;
            window[3] = (total - right) * per_pixel;
            window[4] = total * per_pixel;
            window[5] = (total - left) * per_pixel;
            window[6] = (lower - right + number(v[W - 1])) * per_pixel;
            window[7] = lower * per_pixel;
            window[8] = (lower - left + number(v[0])) * per_pixel;
        }
    }
}
