// Adds up the sums of `contract`'s bands, in their order, and ends with all that depends on them: a block is LANES
// channels of an instance.
#include "totals.cuh"

#define LANES 32
#define WORKERS (THREADS / LANES)
#define SUMS 10

KERNEL finish(
    const Element* __restrict__ x, const float* means, const float* gates, STATISTICS,
    const float* __restrict__ delta_sums, OUTPUTS, float* __restrict__ dpre, const float* __restrict__ band_sums,
    const float* __restrict__ band_rows, const float* __restrict__ band_columns, int of_instance, int of_channel,
    int delta_blocks, int instances
    GIVEN(GIVEN_SIZES, int given_chunks, int given_bands)
) {
    SIZES; SIZE(chunks); SIZE(bands);
    const int lane = threadIdx.x % LANES, worker = threadIdx.x / LANES;
    const i64 n = blockIdx.x / chunks;
    const int channel = blockIdx.x % chunks * LANES + lane;
    const bool works = channel < K;
    float2* const ends = (float2*)shared_memory;              // (WORKERS, LANES)
    float* const totals = (float*)(ends + WORKERS * LANES);   // (SUMS, LANES)
    const float d = delta_sum(delta_sums + n * delta_blocks, delta_blocks);
    const auto over_bands = [&](const float* from, int step) {
        float sum = 0;
        for (int b = 0; b < bands; b++) sum += from[(i64)b * step * K];
        return sum;
    };
    for (int k = worker; works && k < SUMS; k += WORKERS)
        totals[k * LANES + lane] = over_bands(band_sums + (n * bands * SUMS + k) * K + channel, SUMS);
    __syncthreads();
    const Sides all_gates = {gates, of_instance, of_channel}, all_means = {means, of_instance, of_channel};
    const int own = min(channel, K - 1);
    const float* const own_gates = all_gates.of(n, own);
    float* const own_dpre = dpre + ((i64)own * instances + n) * L;
    finish_channels(
        {mean, rstd, q, gamma, beta}, {coefficients, dq, sums, windows}, x + (n * K + own) * P, all_means.of(n, own), n,
        own, lane, LANES, worker, WORKERS, works, K, H, W, d, ends, [&](int k) { return totals[k * LANES + lane]; },
        [&](int l) { return own_gates[l]; },
        [&](int i, int h) { return band_rows[((n * 2 + i) * H + h) * K + channel]; },
        [&](int i, int w) { return over_bands(band_columns + ((n * bands * 2 + i) * W + w) * K + channel, 2 * W); },
        [&](int l, float value) { own_dpre[l] = value; });
}
