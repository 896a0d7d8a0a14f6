// What kernels of contiguous maps share: elements in each dtype as float32, and copies of many to shared memory.
// Defined for each compilation: DT, the dtype (0 bfloat16, 1 float16, 2 float32); THREADS of a block or, where they are
// known at run time only, MOST_THREADS.
typedef unsigned int u32;
typedef long long i64;
#define DEVICE __device__ __forceinline__
#ifdef THREADS
#define MOST_THREADS THREADS
#define COPYING THREADS  // threads of a copy by the block; 0 is what is known at run time
#else
#define THREADS ((int)blockDim.x)
#define COPYING 0
#endif
#define KERNEL extern "C" __global__ void __launch_bounds__(MOST_THREADS)
extern __shared__ __align__(16) unsigned char shared_memory[];

// `Element` is how a map stores a number, VECTOR how many have 16 bytes. `masked` reads as 0 what `mask_of(false)`
// hides, by its bits: NaN times 0 would be NaN.
#if DT == 2
typedef float Element;
#define VECTOR 4
DEVICE float number(Element e) { return e; }
DEVICE Element element(float v) { return v; }
DEVICE u32 mask_of(bool seen) { return seen ? 0xffffffffu : 0u; }
DEVICE float masked(Element e, u32 mask) { return __uint_as_float(__float_as_uint(e) & mask); }
#else
typedef unsigned short Element;
#define VECTOR 8
#if DT == 0
DEVICE float number(Element e) { return __uint_as_float((u32)e << 16); }
DEVICE Element element(float v) { Element e; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(e) : "f"(v)); return e; }
DEVICE u32 mask_of(bool seen) { return seen ? 65536u : 0u; }  // the shift by 16, as a product
DEVICE float masked(Element e, u32 mask) { return __uint_as_float((u32)e * mask); }
DEVICE float low(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
DEVICE u32 pair_of(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#else
DEVICE float number(Element e) { float v; asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(e)); return v; }
DEVICE Element element(float v) { Element e; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(e) : "f"(v)); return e; }
DEVICE u32 mask_of(bool seen) { return seen ? 0xffffu : 0u; }
DEVICE float masked(Element e, u32 mask) { return number((Element)(e & mask)); }
DEVICE float low(u32 pair) { return number((Element)(pair & 0xffff)); }
DEVICE float high(u32 pair) { return number((Element)(pair >> 16)); }
DEVICE u32 pair_of(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#endif
#endif

DEVICE constexpr int aligned(int bytes) { return (bytes + 15) / 16 * 16; }
DEVICE constexpr int by_four(int floats) { return (floats + 3) / 4 * 4; }

// Elements between an address and the vector of 16 bytes before it.
DEVICE int misalignment(const Element* at) {
    return (int)((unsigned long long)at / sizeof(Element)) & (VECTOR - 1);
}

// Copies the vector that is TIMES * step vectors further on: an offset in the instruction where STEP, not 0, is the step.
template <int STEP, int TIMES> DEVICE void copy_vector(u32 to, const char* from, int step) {
    const int more = STEP ? 0 : TIMES * 16 * step;
    asm volatile("cp.async.cg.shared.global [%0+%2], [%1+%2], 16;" ::"r"(to + more), "l"(from + more),
                 "n"(TIMES * 16 * STEP)
                 : "memory");
}

// Starts copying `count` elements to shared memory as they lie in memory: element e to to[misalignment(from) + e]. STEP
// threads copy, or all of the block where STEP is 0, numbered from 0 by `first`. `copies_arrived`, then a barrier, before
// they are read.
template <int STEP> DEVICE void copy_elements(Element* to, const Element* from, int count, int first) {
    const int step = STEP ? STEP : THREADS;
    const int shift = misalignment(from), head = min((VECTOR - shift) & (VECTOR - 1), count);
    const int vectors = (count - head) / VECTOR, done = head + vectors * VECTOR;
    if (first < head) to[shift + first] = from[first];
    if (first < count - done) to[shift + done + first] = from[done + first];
    u32 at = (u32)__cvta_generic_to_shared(to + shift + head) + first * 16;
    const char* source = (const char*)(from + head) + first * 16;
    int left = vectors - first;
#pragma unroll 1
    for (; left > 3 * step; left -= 4 * step, at += 64 * step, source += 64 * step) {
        copy_vector<STEP, 0>(at, source, step);
        copy_vector<STEP, 1>(at, source, step);
        copy_vector<STEP, 2>(at, source, step);
        copy_vector<STEP, 3>(at, source, step);
    }
    if (left > 0) copy_vector<STEP, 0>(at, source, step);
    if (left > step) copy_vector<STEP, 1>(at, source, step);
    if (left > 2 * step) copy_vector<STEP, 2>(at, source, step);
}
DEVICE void copies_arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Quotient and remainder of tasks t, t + step, t + 2 step, ... by `size`, without a division for each.
struct Walk {
    int quotient, remainder, quotients, remainders, size;
    DEVICE Walk(int task, int step, int size) : size(size) {
        quotient = task / size, remainder = task - quotient * size;
        quotients = step / size, remainders = step - quotients * size;
    }
    DEVICE void next() {
        quotient += quotients, remainder += remainders;
        if (remainder >= size) remainder -= size, quotient++;
    }
};
