/* bfloat16 and float16, which are stored only: to and from float, rounded to nearest even. */
#pragma once
#include "vectors.h"
#ifdef __F16C__
#include <immintrin.h>
#endif

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE float from_bfloat16(uint16_t x) { return float_of((uint32_t)x << 16); }

INLINE uint16_t to_bfloat16(float x) {
    uint32_t bits = bits_of(x), rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded; /* NaN, which rounding could make infinite */
}

/* Without a branch, so that loops over it become vectors. Exponents are biased by 15 and 127. */
INLINE float from_float16(uint16_t x) {
    uint32_t magnitude = (x & 0x7fffu) << 13, exponent = magnitude & 0x0f800000;
    uint32_t normal = magnitude + ((127 - 15) << 23), infinite = normal + ((128 - 16) << 23);
    float subnormal = float_of(normal + (1 << 23)) - 6.103515625e-5f; /* 2^-14 */
    uint32_t bits = exponent == 0x0f800000 ? infinite : exponent == 0 ? bits_of(subnormal) : normal;
    return float_of(bits | (x & 0x8000u) << 16);
}

INLINE uint16_t to_float16(float x) {
    uint32_t sign = bits_of(x) & 0x80000000, magnitude = bits_of(x) ^ sign;
    uint32_t normal = (magnitude - ((127 - 15) << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f); /* below 2^-14: the sum rounds */
    uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    uint32_t bits = magnitude >= 0x47800000 ? special : magnitude < 0x38800000 ? subnormal : normal;
    return bits | sign >> 16;
}

static inline void widen_bfloat16(const uint16_t* from, idx n, float* to) {
    for (idx i = 0; i < n; i++) to[i] = from_bfloat16(from[i]);
}

static inline void narrow_bfloat16(const float* from, idx n, uint16_t* to) {
    for (idx i = 0; i < n; i++) to[i] = to_bfloat16(from[i]);
}

static inline void widen_float16(const uint16_t* from, idx n, float* to) {
    idx i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
#endif
    for (; i < n; i++) to[i] = from_float16(from[i]);
}

static inline void narrow_float16(const float* from, idx n, uint16_t* to) {
    idx i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i*)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < n; i++) to[i] = to_float16(from[i]);
}
