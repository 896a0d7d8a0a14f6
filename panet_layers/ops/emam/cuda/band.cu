// Map, gate and output of a band of rows, `own` of an instance and one more on each side, for instances that do not fit.
// A strip writes `own_strip` own rows: `stack` such strips hold a band's own rows.
#include "strips.cuh"

KERNEL band(const Element* __restrict__ x, const float* __restrict__ gates, const float* __restrict__ mean,
            const float* __restrict__ rstd, const float* __restrict__ q, const float* __restrict__ p,
            const float* __restrict__ beta, const float* __restrict__ b3, const float* __restrict__ gamma,
            const float* __restrict__ taps, Element* __restrict__ out, float* __restrict__ gate
            GIVEN(int given_K, int given_H, int given_W, int given_shares, int given_stack, int given_bands,
                  int given_own, int given_own_strip)) {
    SIZE(K); SIZE(H); SIZE(W); SIZE(shares); SIZE(stack); SIZE(bands); SIZE(own); SIZE(own_strip);
    const int L = H + W, room = stack * STRIP, strips = stack * W, tid = threadIdx.x, lane = tid & 31;
    const i64 P = (i64)H * W, n = blockIdx.x / bands;
    const int top = (int)(blockIdx.x - n * bands) * own, first = max(0, top - 1);  // own row, row
    const int rows = min(room, H - first), mine = min(own, H - top);
    const int pitch = (room * W + 2 * VECTOR - 1) / VECTOR * VECTOR;  // of a channel, with its misalignment
    Element* kept = (Element*)shared_memory;
    float* a = (float*)(shared_memory + aligned(K * pitch * sizeof(Element)));  // (K, stack, ROOM)
    float* constants = a + K * stack * ROOM;                                    // (K, CONSTANTS)
    float* d = constants + K * CONSTANTS;                                       // (K, W)
    float* buffer = d + by_four(K * W);
    float* gate_kept = buffer + by_four(shares * REACHED * strips);             // (own, W)
    const Element* from = x + n * K * P + (i64)first * W;
    const int shift = misalignment(from), turn = (int)(P % VECTOR);
    const auto plane = [&](int c) { return kept + c * pitch + ((shift + c * turn) & (VECTOR - 1)); };
    for (int c = tid / 32; c < K; c += THREADS / 32) {
        copy_elements<32>(kept + c * pitch, from + c * P, rows * W, lane);
        for (int i = rows * W + lane; i < room * W; i += 32) plane(c)[i] = 0;
        const float* side = gates + (n * K + c) * L;
        for (int i = lane; i < stack * ROOM; i += 32) {
            const int row = i / ROOM * STRIP + i % ROOM;
            a[c * stack * ROOM + i] = i % ROOM < STRIP && row < rows ? side[first + row] : 0.0f;
        }
#pragma unroll 2
        for (int w = lane; w < W; w += 32) d[c * W + w] = side[H + w];
    }
    load_taps(constants, taps, K);
    for (int c = tid; c < K; c += THREADS)
        set_constants(constants + c * CONSTANTS, mean[n * K + c], rstd[n * K + c], q[n * K + c], p[c], gamma[c],
                      beta[c], b3[c]);
    copies_arrived();
    __syncthreads();

    const Strip strip(strips, shares, W);
    float sums[3][REACHED] = {}, shared_term = 0;
    if (strip.active) {
        u32 mask[STRIP];
#pragma unroll
        for (int r = 0; r < STRIP; r++) mask[r] = mask_of(strip.level * STRIP + r < rows);
#pragma unroll 2
        for (int c = strip.share; c < K; c += shares)
            accumulate(sums, shared_term, plane(c) + strip.level * STRIP * W + strip.w, a + (c * stack + strip.level) * ROOM,
                       d[c * W + strip.w], constants + c * CONSTANTS, mask, W);
    }
    float map[STRIP];
    exchange(sums, shared_term, map, buffer, strip, strips, stack, shares, W);
    const int row = first - top + strip.level * STRIP;  // the strip's first row, among the own ones
    if (strip.active && strip.share == 0) {
#pragma unroll
        for (int r = 0; r < STRIP; r++) {
            const int pixel = (row + r) * W + strip.w;
            if (row + r >= 0 && row + r < mine)
                gate[n * P + (i64)top * W + pixel] = gate_kept[pixel] = sigmoid(map[r]);
        }
    }
    __syncthreads();

    const int begin = strip.level * own_strip, count = min(own_strip, mine - begin);
    if (!strip.active || count <= 0) return;
    const float* g = gate_kept + begin * W + strip.w;
    Element* const to = out + n * K * P + (i64)(top + begin) * W + strip.w;
    const int offset = (top - first + begin) * W + strip.w;
    float gate_of[STRIP];
#pragma unroll
    for (int r = 0; r < STRIP; r++) gate_of[r] = r < count ? g[r * W] : 0.0f;
#ifdef BAKED
    if (count < own_strip) {  // so that what follows needs no comparisons
#pragma unroll 1
        for (int c = strip.share; c < K; c += shares) {
            const Element* v = plane(c) + offset;
#pragma unroll 1
            for (int r = 0; r < count; r++) to[c * P + r * W] = element(number(v[r * W]) * g[r * W]);
        }
        return;
    }
    constexpr int written = own_strip;
#else
    const int written = count;
#endif
#pragma unroll 2
    for (int c = strip.share; c < K; c += shares) {
        const Element* v = plane(c) + offset;
#pragma unroll
        for (int r = 0; r < STRIP; r++)
            if (r < written) to[c * P + r * W] = element(number(v[r * W]) * gate_of[r]);
    }
}
