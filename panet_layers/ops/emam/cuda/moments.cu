// Mean and 1 / standard deviation of t = x a d by channel, for instances that do not fit: `count` planes a block.
// A column's values are taken about its first one. That is a member, so the sum of squares about it is at most H times
// the one about the mean, and nothing cancels badly.
#include "columns.cuh"

KERNEL moments(const Element* __restrict__ x, const float* __restrict__ gates, float* __restrict__ mean,
               float* __restrict__ rstd, int planes, float eps
               GIVEN(int given_H, int given_W, int given_count, int given_parts, int given_by_planes)) {
    SIZE(H); SIZE(W); SIZE(count); SIZE(parts); SIZE(by_planes);
    const int P = H * W, L = H + W, across = (W + COLUMNS - 1) / COLUMNS, rows = (H + parts - 1) / parts;
    const int first = blockIdx.x * count, own = min(count, planes - first), tid = threadIdx.x;
    Element* kept = (Element*)shared_memory;
    float* sides = (float*)(shared_memory + aligned((count * P + VECTOR + COLUMNS) * sizeof(Element)));  // (count, L)
    float* means = sides + count * L;               // (count, parts, W), of a column's part
    float* squares = means + count * parts * W;     // the same, about that mean
    const Element* from = x + (i64)first * P;
    const int shift = misalignment(from);
    copy_elements<COPYING>(kept, from, own * P, tid);
    if (tid < COLUMNS) kept[shift + own * P + tid] = 0;
#pragma unroll 1
    for (int i = tid; i < own * L; i += THREADS) sides[i] = gates[(i64)first * L + i];
    copies_arrived();
    __syncthreads();

#pragma unroll 1
    for (int task_number = tid; task_number < count * parts * across; task_number += THREADS) {
        const Task task(task_number, by_planes, count, parts, across);
        if (task.plane >= own) continue;
        const int top = task.part * rows, end = min(H, top + rows);
        const Element* at = kept + shift + task.plane * P + top * W + task.first;
        const float* a = sides + task.plane * L + top;
        float pivot[COLUMNS], sum[COLUMNS], square[COLUMNS];
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) pivot[i] = number(at[i]) * *a, sum[i] = square[i] = 0;
#pragma unroll 4
        for (int h = top + 1; h < end; h++) {
            at += W, a++;
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) {
                const float away = fmaf(number(at[i]), *a, -pivot[i]);
                sum[i] += away;
                square[i] = fmaf(away, away, square[i]);
            }
        }
        const float per_row = __fdividef(1.0f, (float)(end - top));
        const int part = (task.plane * parts + task.part) * W + task.first;
        const float* d = sides + task.plane * L + H + task.first;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            if (task.first + i >= W) break;
            const float away = sum[i] * per_row;
            means[part + i] = d[i] * (pivot[i] + away);
            squares[part + i] = d[i] * d[i] * fmaxf(fmaf(-sum[i], away, square[i]), 0.0f);
        }
    }
    __syncthreads();

    const int lanes = count >= 8 ? 4 : 32, lane = tid & (lanes - 1);  // of a plane
#pragma unroll 1
    for (int warps = (tid & ~31) / lanes; warps < own; warps += THREADS / lanes) {
        const int plane = warps + (tid & 31) / lanes, read = min(plane, own - 1);
        const float pivot = means[read * parts * W];
        float sum = 0, square = 0;
#pragma unroll 1
        for (int part = 0; part < parts; part++) {
            const float weight = (float)(min(H, part * rows + rows) - part * rows);
            const int at = (read * parts + part) * W;
            float of_part = 0, about = 0;
#pragma unroll 1
            for (int w = lane; w < W; w += lanes) {
                const float away = means[at + w] - pivot;
                of_part += away;
                about = fmaf(away, away, about);
                square += squares[at + w];
            }
            sum = fmaf(weight, of_part, sum);
            square = fmaf(weight, about, square);
        }
        sum = over_lanes(sum, lanes), square = over_lanes(square, lanes);
        const float away = sum * (1.0f / P);
        if (!lane && plane < own) {
            mean[first + plane] = pivot + away;
            rstd[first + plane] = rsqrtf(fmaxf(fmaf(-sum, away, square), 0.0f) * (1.0f / P) + eps);
        }
    }
}
