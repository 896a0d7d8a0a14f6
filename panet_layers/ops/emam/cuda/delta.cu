// delta = gate (1 - gate) sum_c grad_c x_c: the gradient before the last sigmoid, and its sum over each block's pixels.
//
// Planes of an odd number of pixels start at any element, so a vector of SPAN elements covers other pixels in the next
// plane. Channels whose vectors cover the same pixels make a class; a thread keeps the sums of each of the CLASSES apart.
// A block is SLOTS vectors of a plane x GROUPS shares of the channels, and finishes OWN pixels.
#include "backward.cuh"

#define STRIDE (SLOTS * SPAN)
#define OWN (SPAN == 1 ? SLOTS : STRIDE - SPAN)

struct __align__(SPAN * sizeof(Element)) Span {
#if DT == 2 || SPAN == 1
    Element elements[SPAN];
#else
    u32 pairs[SPAN / 2];
#endif
};

DEVICE void add_products(float (&sums)[SPAN], const Span& a, const Span& b) {
#if DT == 2 || SPAN == 1
#pragma unroll
    for (int i = 0; i < SPAN; i++) sums[i] = fmaf(number(a.elements[i]), number(b.elements[i]), sums[i]);
#else
#pragma unroll
    for (int i = 0; i < SPAN; i += 2) {
        sums[i] = fmaf(low(a.pairs[i / 2]), low(b.pairs[i / 2]), sums[i]);
        sums[i + 1] = fmaf(high(a.pairs[i / 2]), high(b.pairs[i / 2]), sums[i + 1]);
    }
#endif
}

KERNEL delta(
    const Element* __restrict__ grad, const Element* __restrict__ x, const float* __restrict__ gate,
    float* __restrict__ delta, float* __restrict__ delta_sums, int instances, int blocks, GIVEN_SIZES
) {
    SIZES;
    const int tid = threadIdx.x, group = tid / SLOTS, slot = tid - group * SLOTS, block = blockIdx.x % blocks;
    const i64 n = blockIdx.x / blocks, total = (i64)instances * K * P;
    const int start = block * OWN, misaligned = (int)((unsigned long long)x / sizeof(Element) + n * K * P);
    const auto shift_of = [&](int c) { return (misaligned + c * P) & (SPAN - 1); };  // elements before a plane
    float* const shared_sums = (float*)shared_memory;                                // (GROUPS, CLASSES, STRIDE)
#pragma unroll 1
    for (int i = 0; i < CLASSES && group < GROUPS; i++) {
        const int first = group * CLASSES + i, step = GROUPS * CLASSES * P, shift = shift_of(i);
        const int count = max(0, (K - first + GROUPS * CLASSES - 1) / (GROUPS * CLASSES));
        // Spans behind the plane are not needed; there the last one is read again.
        const i64 at = (n * K + first) * P + min(start / SPAN + slot, (P - 1 + shift) / SPAN) * SPAN - shift;
        const i64 last = at + (i64)(count - 1) * step;
        // A span of the first plane may start before the tensors, one of the last plane end behind them.
        const bool before = count > 0 && at < 0, behind = count > before && last + SPAN > total;
        float sums[SPAN];
#pragma unroll
        for (int j = 0; j < SPAN; j++) sums[j] = 0;
        const Element* of_grad = grad + at + before * step;
        const Element* of_x = x + at + before * step;
#pragma unroll 4
        for (int left = count - before - behind; left > 0; left--, of_grad += step, of_x += step)
            add_products(sums, *(const Span*)of_grad, *(const Span*)of_x);
#pragma unroll 1
        for (int edge = 0; edge < before + behind; edge++) {
            const i64 of = before && edge == 0 ? at : last;
#pragma unroll
            for (int j = 0; j < SPAN; j++)
                if (of + j >= 0 && of + j < total) sums[j] = fmaf(number(grad[of + j]), number(x[of + j]), sums[j]);
        }
#pragma unroll
        for (int j = 0; j < SPAN; j++) shared_sums[(group * CLASSES + i) * STRIDE + slot * SPAN + j] = sums[j];
    }
    __syncthreads();

    float sum = 0;
    float* const to = delta + n * (H + 2) * (W + 2);
    for (int i = tid; i < min(OWN, P - start); i += THREADS) {
        float product = 0;
#pragma unroll
        for (int j = 0; j < GROUPS; j++)
#pragma unroll
            for (int k = 0; k < CLASSES; k++) product += shared_sums[(j * CLASSES + k) * STRIDE + i + shift_of(k)];
        const int p = start + i;
        const float value = gate[n * P + p];
        product *= value * (1 - value);
        to[p + 2 * (p / W) + W + 3] = product;
        sum += product;
    }
    if (block == 0) {
        for (int i = tid; i < 2 * (W + 2); i += THREADS) to[i < W + 2 ? i : (H + 1) * (W + 2) + i - (W + 2)] = 0;
        for (int i = tid; i < 2 * H; i += THREADS) to[(i / 2 + 1) * (W + 2) + (i & 1) * (W + 1)] = 0;
    }
    sum = warp_sum(sum);
    float* const of_warps = shared_sums + GROUPS * CLASSES * STRIDE;
    if ((tid & 31) == 0) of_warps[tid >> 5] = sum;
    __syncthreads();
    if (tid == 0) {
        for (int i = 1; i < WARPS; i++) sum += of_warps[i];
        delta_sums[blockIdx.x] = sum;
    }
}
