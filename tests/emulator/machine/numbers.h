/* What the expressions of instructions.py call: 16-bit floats, bit fields, flushing, documented errors. */
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

static bool noisy = false; /* whether approximate instructions are off by up to their documented error */

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* x, or the NaN of CUDA's arithmetic. A GPU's float64 sums and products may keep an operand's; these do not. */
static inline float one_nan(float x) { return x == x ? x : float_of(0x7fffffff); }

static inline double one_nan(double x) {
    const uint64_t bits = 0xfff8000000000000;
    double nan;
    memcpy(&nan, &bits, 8);
    return x == x ? x : nan;
}

/* x, or up to `most` units in the last place off; the same for the same x. */
static inline float noise(float x, int most) {
    if (!noisy || !std::isfinite(x) || (bits_of(x) & 0x7f800000) == 0) return x;
    uint32_t mixed = (bits_of(x) ^ 0x9e3779b9u) * 2654435761u;
    mixed ^= mixed >> 15;
    return float_of(bits_of(x) + (int)(((mixed * 2246822519u) >> 16) % (2 * most + 1)) - most);
}

static inline float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.f, x) : x; }

static inline float from_bfloat16(uint32_t bits) { return float_of(bits << 16); }

static inline uint32_t to_bfloat16(float x) {
    if (x != x) return 0x7fff;
    uint32_t bits = bits_of(x);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

static inline float from_float16(uint32_t bits) {
    uint16_t half = bits;
    _Float16 x;
    memcpy(&x, &half, 2);
    return (float)x;
}

static inline uint32_t to_float16(float x) {
    if (x != x) return 0x7fff;
    _Float16 half = (_Float16)x;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}

static inline uint32_t field_of_unsigned(uint32_t a, uint32_t first, uint32_t length) {
    first &= 255, length &= 255;
    if (first > 31 || length == 0) return 0;
    uint32_t field = a >> first;
    return length >= 32 ? field : field & ((1u << length) - 1);
}

static inline uint64_t field_of_wide(uint64_t a, uint32_t first, uint32_t length) {
    first &= 255, length &= 255;
    if (first > 63 || length == 0) return 0;
    uint64_t field = a >> first;
    return length >= 64 ? field : field & ((1ull << length) - 1);
}

static inline uint32_t field_of_signed(uint32_t a, uint32_t first, uint32_t length) {
    first &= 255, length &= 255;
    if (length == 0) return 0;
    uint32_t sign = (a >> std::min(first + length - 1, 31u)) & 1, field = 0;
    for (uint32_t i = 0; i < 32; i++) field |= (i < length && first + i < 32 ? (a >> (first + i)) & 1 : sign) << i;
    return field;
}

static inline uint32_t with_field(uint32_t field, uint32_t a, uint32_t first, uint32_t length) {
    if (length == 0 || first > 31) return a;
    uint32_t mask = (length >= 32 ? ~0u : (1u << length) - 1) << first;
    return (a & ~mask) | ((field << first) & mask);
}

static inline uint64_t with_wide_field(uint64_t field, uint64_t a, uint32_t first, uint32_t length) {
    if (length == 0 || first > 63) return a;
    uint64_t mask = (length >= 64 ? ~0ull : (1ull << length) - 1) << first;
    return (a & ~mask) | ((field << first) & mask);
}

static inline uint32_t permuted_bytes(uint32_t a, uint32_t b, uint32_t selectors) {
    uint64_t both = ((uint64_t)b << 32) | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t selector = (selectors >> (4 * i)) & 15, byte = (both >> (8 * (selector & 7))) & 255;
        if (selector & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * i);
    }
    return result;
}

static inline uint32_t any_logic(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
    uint32_t result = 0;
    for (int i = 0; i < 8; i++)
        if ((table >> i) & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return result;
}

static inline uint32_t reversed_bits(uint32_t a) {
    uint32_t result = 0;
    for (int i = 0; i < 32; i++) result |= ((a >> i) & 1) << (31 - i);
    return result;
}
