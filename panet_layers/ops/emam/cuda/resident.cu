// Moments, map, gate and output of an instance that fits in shared memory: a block for each, one read and one write.
#include "strips.cuh"
#define SKEWED(pixel) ((pixel) + ((pixel) >> 5))  // the gate in memory: threads a vector apart meet other banks

// Mean and 1 / standard deviation of t = x a d by channel; a column's values are taken about its first one, as in
// moments.cu. `lanes` neighbouring lanes put the columns of a channel together; they call done(channel, mean, rstd).
template <class Done>
DEVICE void statistics(const Element* x, const float* a, const float* d, float* means, int K, int H, int W, int stack,
                       int lanes, float eps, Done done) {
    const int P = H * W, whole = H / STRIP, rest = H - whole * STRIP;
    const float per_row = 1.0f / H;
    float* squares = means + K * W;
    Walk at(threadIdx.x, THREADS, W);
#pragma unroll 1
    for (int i = threadIdx.x; i < K * W; i += THREADS, at.next()) {
        const Element* v = x + at.quotient * P + at.remainder;
        const float* g = a + at.quotient * stack * ROOM;
        const float pivot = number(*v) * *g;
        float sum = 0, square = 0;
        const auto add = [&](float e, float gate) {
            const float away = fmaf(e, gate, -pivot);
            sum += away;
            square = fmaf(away, away, square);
        };
#pragma unroll 1
        for (int level = 0; level < whole; level++, v += STRIP * W, g += ROOM) {
            float gates[STRIP];
            load_rows(gates, g);
#pragma unroll
            for (int r = 0; r < STRIP; r++) add(number(v[r * W]), gates[r]);
        }
#pragma unroll
        for (int r = 0; r < STRIP - 1; r++)
            if (r < rest) add(number(v[r * W]), g[r]);
        const float gate = d[i], away = sum * per_row;
        means[i] = gate * (pivot + away);
        squares[i] = gate * gate * fmaxf(fmaf(-sum, away, square), 0.0f);
    }
    __syncthreads();

    const int lane = threadIdx.x & (lanes - 1);
#pragma unroll 1
    for (int warps = (threadIdx.x & ~31) / lanes; warps < K; warps += THREADS / lanes) {
        const int c = warps + (threadIdx.x & 31) / lanes, read = min(c, K - 1) * W;
        const float pivot = means[read];
        float sum = 0, about = 0, square = 0;
#pragma unroll 4
        for (int w = lane; w < W; w += lanes) {
            const float away = means[read + w] - pivot;
            sum += away;
            about = fmaf(away, away, about);
            square += squares[read + w];
        }
        sum = over_lanes(sum, lanes), about = over_lanes(about, lanes), square = over_lanes(square, lanes);
        const float away = sum * (1.0f / W), total = fmaf((float)H, fmaf(-sum, away, about), square);
        if (!lane && c < K) done(c, pivot + away, rsqrtf(fmaxf(total, 0.0f) * (1.0f / P) + eps));
    }
}

// Copies the gates (K, L) to those of rows, (K, stack, ROOM), and of columns, (K, W). A thread keeps its side.
DEVICE void load_sides(const float* gates, float* a, float* d, int K, int H, int W, int stack) {
    const int L = H + W, teams = max(1, THREADS / L), team = L < THREADS ? threadIdx.x / L : 0;
    if (team >= teams) return;
#pragma unroll 1
    for (int side = threadIdx.x - team * L; side < L; side += THREADS) {
        const float* from = gates + team * L + side;
        const int step = side < H ? stack * ROOM : W;
        float* to = (side < H ? a + place_of_row(side) : d + side - H) + team * step;
#pragma unroll 4
        for (int c = team; c < K; c += teams, from += teams * L, to += teams * step) *to = *from;
    }
}

// out = x gate, in vectors as they lie. After `planes` planes vectors begin at the same pixels again, so a thread keeps
// the gates of its vectors.
DEVICE void scale(const Element* kept, const float* gate, Element* out, int shift, int K, int P) {
    Element* to = out - shift;
    const bool alike = misalignment(out) == shift;
    int planes = VECTOR;
#pragma unroll
    for (int i = 0; i < 3; i++)
        if (planes > 1 && planes / 2 * P % VECTOR == 0) planes /= 2;
    const int period = planes * P / VECTOR, end = shift + K * P, teams = max(1, THREADS / period);
    const int team = period < THREADS ? threadIdx.x / period : 0;
    if (team >= teams) return;
#pragma unroll 1
    for (int j = threadIdx.x - team * period; j < period; j += THREADS) {
        float g[VECTOR];
        int pixel = (j * VECTOR - shift + P * VECTOR) % P;
#pragma unroll
        for (int k = 0; k < VECTOR; k++, pixel = pixel + 1 < P ? pixel + 1 : 0) g[k] = gate[SKEWED(pixel)];
#pragma unroll 2
        for (int e = (j + team * period) * VECTOR; e < end; e += teams * period * VECTOR) {
            if (alike && e >= shift && e + VECTOR <= end) {
#if DT == 2
                float4 v = *(const float4*)(kept + e);
                v.x *= g[0], v.y *= g[1], v.z *= g[2], v.w *= g[3];
                *(float4*)(to + e) = v;
#else
                uint4 v = *(const uint4*)(kept + e);
                v.x = pair_of(low(v.x) * g[0], high(v.x) * g[1]);
                v.y = pair_of(low(v.y) * g[2], high(v.y) * g[3]);
                v.z = pair_of(low(v.z) * g[4], high(v.z) * g[5]);
                v.w = pair_of(low(v.w) * g[6], high(v.w) * g[7]);
                *(uint4*)(to + e) = v;
#endif
            } else {
#pragma unroll
                for (int k = 0; k < VECTOR; k++)
                    if (e + k >= shift && e + k < end) to[e + k] = element(number(kept[e + k]) * g[k]);
            }
        }
    }
}

#ifndef BAKED  // as many registers as a block can have: the compiler's own choice spills two in float32
#undef KERNEL
#define KERNEL extern "C" __global__ void __launch_bounds__(MOST_THREADS, 1)
#endif
KERNEL resident(const Element* __restrict__ x, const float* __restrict__ gates, float* __restrict__ mean,
                float* __restrict__ rstd, const float* __restrict__ q, const float* __restrict__ p,
                const float* __restrict__ beta, const float* __restrict__ b3, const float* __restrict__ gamma,
                const float* __restrict__ taps, Element* __restrict__ out, float* __restrict__ gate, float eps
                GIVEN(int given_K, int given_H, int given_W, int given_shares, int given_lanes)) {
    SIZE(K); SIZE(H); SIZE(W); SIZE(shares); SIZE(lanes);
    const int P = H * W, L = H + W, stack = (H + STRIP - 1) / STRIP, strips = stack * W, tid = threadIdx.x;
    const int beyond = (stack * STRIP - H) * W;  // masked elements that the last strips read
    const i64 n = blockIdx.x;
    Element* kept = (Element*)shared_memory;
    float* a = (float*)(shared_memory + aligned((K * P + beyond + VECTOR) * sizeof(Element)));  // (K, stack, ROOM)
    float* constants = a + K * stack * ROOM;                                                    // (K, CONSTANTS)
    float* gate_kept = constants + K * CONSTANTS;
    float* d = gate_kept + by_four(P + P / 32 + 1);  // (K, W)
    float* buffer = d + by_four(K * W);
    const Element* from = x + n * K * P;
    const int shift = misalignment(from);
    copy_elements<COPYING>(kept, from, K * P, tid);
    for (int i = tid; i < beyond; i += THREADS) kept[shift + K * P + i] = 0;
    load_sides(gates + n * K * L, a, d, K, H, W, stack);
    for (int i = tid; i < K * (stack * STRIP - H); i += THREADS) {  // rows below the map
        const int below = stack * STRIP - H, c = i / below, row = H + i - c * below;
        a[c * stack * ROOM + place_of_row(row)] = 0;
    }
    load_taps(constants, taps, K);
    copies_arrived();
    __syncthreads();

    statistics(kept + shift, a, d, buffer, K, H, W, stack, lanes, eps, [&](int c, float mu, float r) {
        mean[n * K + c] = mu;
        rstd[n * K + c] = r;
        set_constants(constants + c * CONSTANTS, mu, r, q[n * K + c], p[c], gamma[c], beta[c], b3[c]);
    });
    __syncthreads();

    const Strip strip(strips, shares, W);
    float sums[3][REACHED] = {}, shared_term = 0;
    if (strip.active) {
        u32 mask[STRIP];
#pragma unroll
        for (int r = 0; r < STRIP; r++) mask[r] = mask_of(strip.level * STRIP + r < H);
        const Element* v = kept + shift + strip.level * STRIP * W + strip.w;
#pragma unroll 2
        for (int c = strip.share; c < K; c += shares)
            accumulate(sums, shared_term, v + c * P, a + (c * stack + strip.level) * ROOM, d[c * W + strip.w],
                       constants + c * CONSTANTS, mask, W);
    }
    float map[STRIP];
    exchange(sums, shared_term, map, buffer, strip, strips, stack, shares, W);
    if (strip.active && strip.share == 0) {
#pragma unroll
        for (int r = 0; r < STRIP; r++) {
            const int row = strip.level * STRIP + r, pixel = row * W + strip.w;
            if (row < H) gate[n * P + pixel] = gate_kept[SKEWED(pixel)] = sigmoid(map[r]);
        }
    }
    __syncthreads();
    scale(kept, gate_kept, out + n * K * P, shift, K, P);
}
