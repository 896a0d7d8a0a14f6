// The gradients of the vectors among the parameters, from sums over instances: a block is one channel o.
//
// dp_o = W3[o] : E + b3_o D, dbeta = q D + p (dp - <p, dp>), db3 = sum_n dm + p D, where <p, dp> = taps : E + <p, b3> D.
#include "backward.cuh"

KERNEL parameter_gradients(
    const float* __restrict__ sums, const float* __restrict__ w3, const float* __restrict__ b3,
    const float* __restrict__ taps, const float* __restrict__ dm, float* __restrict__ db1, float* __restrict__ db3,
    float* __restrict__ dgamma, float* __restrict__ dbeta, int instances, int K
) {
    // sums: E (9 K) | q hh | q D | db1, summed over instances. dm: (N + 1, K), of which the last row is p.
    const int o = blockIdx.x, tid = threadIdx.x, warp = tid >> 5;
    const float* const p = dm + (i64)instances * K;
    float of_row = 0, of_taps = 0, d = 0, bias = 0, of_m = 0;
    for (int i = tid; i < 9 * K; i += THREADS) {
        of_row = fmaf(w3[(i64)o * 9 * K + i], sums[i], of_row);
        of_taps = fmaf(taps[i], sums[i], of_taps);
    }
    for (int i = tid; i < K; i += THREADS) d += sums[10 * K + i], bias = fmaf(p[i], b3[i], bias);
    for (int i = tid; i < instances; i += THREADS) of_m += dm[(i64)i * K + o];
    float parts[5] = {of_row, of_taps, d, bias, of_m};
    float* const of_warps = (float*)shared_memory;  // (5, WARPS)
#pragma unroll
    for (int i = 0; i < 5; i++) {
        parts[i] = warp_sum(parts[i]);
        if ((tid & 31) == 0) of_warps[i * WARPS + warp] = parts[i];
    }
    __syncthreads();
    if (tid) return;
#pragma unroll
    for (int i = 0; i < 5; i++) {
        parts[i] = 0;
        for (int j = 0; j < WARPS; j++) parts[i] += of_warps[i * WARPS + j];
    }
    const float dp = fmaf(b3[o], parts[2], parts[0]), mean_dp = fmaf(parts[3], parts[2], parts[1]);
    db1[o] = sums[11 * K + o];
    db3[o] = fmaf(p[o], parts[2], parts[4]);
    dgamma[o] = sums[9 * K + o];
    dbeta[o] = sums[10 * K + o] + p[o] * (dp - mean_dp);
}
