// What EMAM's kernels share: sizes, and where a thread works in planes that lie in shared memory.
// With BAKED defined, sizes are compiled in as BAKED_H, BAKED_W, ...; else they are arguments.
#include "elements.cuh"
#ifdef BAKED
#define SIZE(name) constexpr int name = BAKED_##name
#else
#define SIZE(name) const int name = given_##name
#endif
#define ALL_LANES 0xffffffffu

// Adds up over groups of `lanes` neighbouring lanes, a power of two.
DEVICE float over_lanes(float v, int lanes) {
#pragma unroll
    for (int step = lanes >> 1; step; step >>= 1) v += __shfl_xor_sync(ALL_LANES, v, step);
    return v;
}
