// What EMAM's kernels share: sizes, and where a thread works in planes that lie in shared memory.
// With BAKED defined, sizes and a plan's numbers are compiled in, as BAKED_H, BAKED_W, ...; else they are the last arguments,
// GIVEN. UNROLLED are loops of so many steps as only a plan knows.
#include "elements.cuh"
#ifdef BAKED
#define SIZE(name) constexpr int name = BAKED_##name
#define GIVEN(...)
#define UNROLLED _Pragma("unroll")
#else
#define SIZE(name) const int name = given_##name
#define GIVEN(...) , __VA_ARGS__
#define UNROLLED _Pragma("unroll 1")
#endif
#define ALL_LANES 0xffffffffu

// Adds up over groups of `lanes` neighbouring lanes, a power of two.
DEVICE float over_lanes(float v, int lanes) {
#pragma unroll
    for (int step = lanes >> 1; step; step >>= 1) v += __shfl_xor_sync(ALL_LANES, v, step);
    return v;
}
