/* Vectors of the processor's width, of the scalar type that the including file defines as SCALAR (float or double). */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define JOINED_(name, type) name##_##type
#define JOINED(name, type) JOINED_(name, type)
/* An entry point of the library, NAME_float or NAME_double: of a function, and of one that returns a size. */
#define ENTRY(name) __attribute__((visibility("default"))) void JOINED(name, SCALAR)
#define ENTRY_SIZE(name) __attribute__((visibility("default"))) idx JOINED(name, SCALAR)

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

enum { LANES = VECTOR_BYTES / sizeof(SCALAR), IS_DOUBLE = sizeof(SCALAR) == 8 };
typedef int64_t idx;
typedef SCALAR vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(SCALAR)), may_alias));
typedef __typeof__((vec){0} < (vec){0}) mask; /* integers: all bits of a lane, or none */

INLINE vec load(const SCALAR* from) { return *(const vec*)from; }
INLINE void store(SCALAR* to, vec v) { *(vec*)to = v; }

/* Stores to memory that is not read soon, past the caches where that is possible. `to` is aligned to VECTOR_BYTES. */
INLINE void store_past_caches(SCALAR* to, vec v) {
#if defined(__AVX512F__)
    _mm512_stream_si512((void*)to, (__m512i)v);
#elif defined(__AVX__)
    _mm256_stream_si256((void*)to, (__m256i)v);
#elif defined(__x86_64__)
    _mm_stream_si128((void*)to, (__m128i)v);
#else
    store(to, v);
#endif
}

/* To be called before another thread may read what `store_past_caches` stored. */
INLINE void end_stores_past_caches(void) {
#ifdef __x86_64__
    _mm_sfence();
#endif
}

INLINE vec splat(SCALAR s) { return s - (vec){0}; } /* without code for the zero, unlike a sum */
INLINE vec where(mask m, vec yes, vec no) { return (vec)(((mask)yes & m) | ((mask)no & ~m)); }
INLINE vec only(mask m, vec v) { return (vec)((mask)v & m); }
INLINE idx round_up(idx n, idx step) { return (n + step - 1) / step * step; }
INLINE idx least(idx a, idx b) { return a < b ? a : b; }
INLINE idx max_of(idx a, idx b) { return a > b ? a : b; }

/* The mask of the first n lanes. */
INLINE mask first_lanes(idx n) {
    mask lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = i < n ? -1 : 0;
    return lanes;
}

/* Stores the first n lanes. */
INLINE void store_first(SCALAR* to, vec v, idx n) {
    SCALAR lanes[LANES];
    store(lanes, v);
    for (idx i = 0; i < n; i++) to[i] = lanes[i];
}

INLINE SCALAR sum_lanes(vec v) {
    SCALAR half[LANES];
    store(half, v);
    for (int step = LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) half[i] += half[i + step];
    return half[0];
}

/* The lanes of two vectors in turn: a0 b0 a1 b1 ... of their lower halves, and of their upper halves. */
INLINE void interleave(vec a, vec b, vec* low, vec* high) {
#ifdef __clang__
    vec lower, upper;
    for (int i = 0; i < LANES; i++) lower[i] = (i % 2 ? b : a)[i / 2], upper[i] = (i % 2 ? b : a)[i / 2 + LANES / 2];
    *low = lower, *high = upper;
#else
    mask order;
    for (int i = 0; i < LANES; i++) order[i] = i / 2 + i % 2 * LANES;
    *low = __builtin_shuffle(a, b, order);
    *high = __builtin_shuffle(a, b, order + LANES / 2);
#endif
}

INLINE vec interleaved_sum(vec a, vec b) {
    vec low, high;
    interleave(a, b, &low, &high);
    return low + high;
}

/* The sums of four vectors, to out[0..4). */
INLINE void sum_lanes_of_4(const vec v[4], SCALAR* out) {
    if (LANES < 4) {
        for (int i = 0; i < 4; i++) out[i] = sum_lanes(v[i]);
        return;
    }
    SCALAR lanes[LANES];
    store(lanes, interleaved_sum(interleaved_sum(v[0], v[2]), interleaved_sum(v[1], v[3])));
    for (int step = LANES / 2; step >= 4; step /= 2)
        for (int i = 0; i < step; i++) lanes[i] += lanes[i + step];
    for (int i = 0; i < 4; i++) out[i] = lanes[i % LANES];
}

/* The sum of x[0..n): four vectors at a time, since a compiler keeps one, whose additions wait for each other. */
INLINE SCALAR sum_of(const SCALAR* x, idx n) {
    vec s0 = splat(0), s1 = s0, s2 = s0, s3 = s0;
    idx p = 0;
    for (; p + 4 * LANES <= n; p += 4 * LANES) {
        s0 += load(x + p);
        s1 += load(x + p + LANES);
        s2 += load(x + p + 2 * LANES);
        s3 += load(x + p + 3 * LANES);
    }
    for (; p + LANES <= n; p += LANES) s0 += load(x + p);
    SCALAR sum = sum_lanes((s0 + s1) + (s2 + s3));
    for (; p < n; p++) sum += x[p];
    return sum;
}
