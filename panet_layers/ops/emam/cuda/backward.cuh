// What the backward's kernels share. Symbols are those of docs/derivation.md.
//
// Statistics of sides (means, gates, dpre, dmeans) have L = H + W numbers for a channel of an instance, rows, then
// columns, which follow each other in memory. delta is (N, H + 2, W + 2), with a border of zeros: pixel (h, w) is at
// (h + 1, w + 1).
#include "maps.cuh"

#define SIZES SIZE(K); SIZE(H); SIZE(W); const int P = H * W, L = H + W
#define GIVEN_SIZES int given_K, int given_H, int given_W  // the first of GIVEN
#define WARPS (THREADS / 32)

// Numbers of sides: those of instance n and channel c start at n * of_instance + c * of_channel.
struct Sides {
    const float* first;
    int of_instance, of_channel;
    DEVICE const float* of(i64 n, int c) const { return first + n * of_instance + (i64)c * of_channel; }
};

DEVICE float warp_sum(float v) { return over_lanes(v, 32); }

// The sum of an instance's delta, from those of the blocks that computed it.
DEVICE float delta_sum(const float* of_blocks, int blocks) {
    float sum = 0;
    for (int i = threadIdx.x & 31; i < blocks; i += 32) sum += of_blocks[i];
    return warp_sum(sum);
}
