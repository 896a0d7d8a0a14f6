// delta = gate (1 - gate) sum_c grad_c x_c: the gradient before the last sigmoid, and its sum over each block's pixels.
//
// Planes of an odd number of pixels start at any element, so a vector of SPAN elements covers other pixels in the next
// plane. Channels whose vectors cover the same pixels make a class: every `classes`-th channel. A thread adds up one class
// after the other. A block is `slots` vectors of a plane x `groups` shares of the channels. With one class and one share,
// DIRECT, threads finish their own sums; else these meet in shared memory.
#include "backward.cuh"

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

// Where the vectors of a block's threads are in an instance.
struct Place {
    const Element *grad, *x;
    i64 n, total;  // elements of the tensors
    int K, P, misaligned, next;  // channel of a class and share

    DEVICE int shift(int c) const { return (misaligned + c * P) & (SPAN - 1); }  // elements of a vector before a plane

    // The sums over every `next`-th channel from `first` for the vector `slot`; the last one if that is behind the plane.
    DEVICE void add(float (&sums)[SPAN], int first, int slot) const {
        const int step = next * P, of_plane = shift(first);
        const int count = max(0, (K - first + next - 1) / next);
        const i64 at = (n * K + first) * P + min(slot, (P - 1 + of_plane) / SPAN) * SPAN - of_plane;
        const i64 last = at + (i64)(count - 1) * step;
        // A vector of the first plane may start before the tensors, one of the last plane end behind them.
        const bool before = SPAN > 1 && count > 0 && at < 0;
        const bool behind = SPAN > 1 && count > before && last + SPAN > total;
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
    }
};

KERNEL delta(
    const Element* __restrict__ grad, const Element* __restrict__ x, const float* __restrict__ gate,
    float* __restrict__ delta, float* __restrict__ delta_sums, int instances
    GIVEN(GIVEN_SIZES, int given_blocks, int given_slots, int given_classes, int given_groups)
) {
    SIZES; SIZE(blocks); SIZE(slots); SIZE(classes); SIZE(groups);
    const int each = DIRECT ? 1 : groups * classes, stride = slots * SPAN;
    const int own = DIRECT || SPAN == 1 ? stride : stride - SPAN;  // pixels that a block finishes
    const int tid = threadIdx.x, block = blockIdx.x % blocks, start = block * own;
    const i64 n = blockIdx.x / blocks;
    const Place place = {
        grad, x, n, (i64)instances * K * P, K, P, (int)((unsigned long long)x / sizeof(Element) + n * K * P), each};
    const float* const gates = gate + n * P;
    float* const to = delta + n * (H + 2) * (W + 2);
    float* const of_warps = (float*)shared_memory;
    float total = 0;
    const auto finish = [&](int p, float product) {
        const float value = gates[p];
        product *= value * (1 - value);
        to[p + 2 * (p / W) + W + 3] = product;
        total += product;
    };
#if DIRECT
    const int shift = place.shift(0);
    const int end = min(start / SPAN + slots, (P + shift + SPAN - 1) / SPAN);
#pragma unroll 1
    for (int slot = start / SPAN + tid; slot < end; slot += THREADS) {
        float sums[SPAN];
        place.add(sums, 0, slot);
#pragma unroll
        for (int j = 0; j < SPAN; j++) {
            const int p = slot * SPAN - shift + j;
            if (SPAN == 1 || (p >= 0 && p < P)) finish(p, sums[j]);
        }
    }
#else
    const int group = tid / slots, slot = tid - group * slots;
    float* const shared_sums = of_warps + WARPS;  // (groups, classes, stride)
#pragma unroll 1
    for (int i = 0; i < classes && group < groups; i++) {
        const int first = group * classes + i;
        float sums[SPAN];
        place.add(sums, first, start / SPAN + slot);
#pragma unroll
        for (int j = 0; j < SPAN; j++) shared_sums[first * stride + slot * SPAN + j] = sums[j];
    }
    __syncthreads();
#pragma unroll 1
    for (int i = tid; i < min(own, P - start); i += THREADS) {
        float product = 0;
        UNROLLED
        for (int of_class = 0; of_class < classes; of_class++) {
            const float* from = shared_sums + of_class * stride + i + place.shift(of_class);
            UNROLLED
            for (int share = 0; share < groups; share++, from += classes * stride) product += *from;
        }
        finish(start + i, product);
    }
#endif
    if (block == 0) {
#pragma unroll 1
        for (int i = tid; i < 2 * (W + 2); i += THREADS) to[i < W + 2 ? i : (H + 1) * (W + 2) + i - (W + 2)] = 0;
#pragma unroll 1
        for (int i = tid; i < 2 * H; i += THREADS) to[(i / 2 + 1) * (W + 2) + (i & 1) * (W + 1)] = 0;
    }
    total = warp_sum(total);
    if ((tid & 31) == 0) of_warps[tid >> 5] = total;
    __syncthreads();
    if (tid >= 32) return;
    total = warp_sum(tid < WARPS ? of_warps[tid] : 0.0f);
    if (tid == 0) delta_sums[blockIdx.x] = total;
}
