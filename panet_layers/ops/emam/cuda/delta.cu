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

// The vectors of element `at`. Where they reach beyond the tensors, which ALL excludes, elements are read one by one.
template <bool ALL> DEVICE void add(float (&sums)[SPAN], const Element* grad, const Element* x, i64 at, i64 total) {
    if (ALL || (at >= 0 && at + SPAN <= total)) {
        add_products(sums, *(const Span*)(grad + at), *(const Span*)(x + at));
        return;
    }
#pragma unroll
    for (int i = 0; i < SPAN; i++)
        if (at + i >= 0 && at + i < total) sums[i] = fmaf(number(grad[at + i]), number(x[at + i]), sums[i]);
}

template <bool ALL>
DEVICE void add_channels(
    float (&sums)[CLASSES][SPAN], const Element* grad, const Element* x, i64 plane, const int (&pixel)[CLASSES], int first,
    int K, int P, i64 total
) {
    i64 at = (plane + first) * P;
    int c = first;
#pragma unroll(CLASSES == 1 ? 4 : CLASSES == 2 ? 2 : 1)
    for (; c + CLASSES <= K; c += GROUPS * CLASSES, at += (i64)GROUPS * CLASSES * P)
#pragma unroll
        for (int i = 0; i < CLASSES; i++)
            if (pixel[i] < P) add<ALL>(sums[i], grad, x, at + i * P + pixel[i], total);
#pragma unroll
    for (int i = 0; i < CLASSES - 1; i++)
        if (c + i < K && pixel[i] < P) add<ALL>(sums[i], grad, x, at + i * P + pixel[i], total);
}

KERNEL delta(
    const Element* __restrict__ grad, const Element* __restrict__ x, const float* __restrict__ gate,
    float* __restrict__ delta, float* __restrict__ delta_sums, int instances, int blocks, GIVEN_SIZES
) {
    SIZES;
    const int tid = threadIdx.x, group = tid / SLOTS, slot = tid - group * SLOTS, block = blockIdx.x % blocks;
    const i64 n = blockIdx.x / blocks;
    const int start = block * OWN;
    float* const shared_sums = (float*)shared_memory;  // (GROUPS, CLASSES, STRIDE)
    int shift[CLASSES], pixel[CLASSES];
    float sums[CLASSES][SPAN];
#pragma unroll
    for (int i = 0; i < CLASSES; i++) {
        shift[i] = (int)(((unsigned long long)x / sizeof(Element) + (n * K + i) * P) & (SPAN - 1));
        pixel[i] = start + slot * SPAN - shift[i];
#pragma unroll
        for (int j = 0; j < SPAN; j++) sums[i][j] = 0;
    }
    if (group < GROUPS) {
        const i64 total = (i64)instances * K * P;
        if (n * K * P >= SPAN && (n + 1) * K * P + SPAN <= total)
            add_channels<true>(sums, grad, x, n * K, pixel, group * CLASSES, K, P, total);
        else
            add_channels<false>(sums, grad, x, n * K, pixel, group * CLASSES, K, P, total);
#pragma unroll
        for (int i = 0; i < CLASSES; i++)
#pragma unroll
            for (int j = 0; j < SPAN; j++)
                shared_sums[(group * CLASSES + i) * STRIDE + slot * SPAN + j] = sums[i][j];
    }
    __syncthreads();

    float sum = 0;
    float* const to = delta + n * (H + 2) * (W + 2);
    for (int i = tid; i < min(OWN, P - start); i += THREADS) {
        float product = 0;
#pragma unroll
        for (int j = 0; j < GROUPS; j++)
#pragma unroll
            for (int k = 0; k < CLASSES; k++) product += shared_sums[(j * CLASSES + k) * STRIDE + i + shift[k]];
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
