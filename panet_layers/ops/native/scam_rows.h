/* A sample as a matrix of any dtype with contiguous rows: channels of pixels or, channels_last, pixels of channels. */
#pragma once
#include "storage.h"

typedef uint16_t halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t word_float;
typedef uint64_t word_double;
typedef JOINED(word, SCALAR) words __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t place_float;
typedef int64_t place_double;
typedef JOINED(place, SCALAR) place; /* an index as wide as a SCALAR: vectors of both have the same lanes */
typedef place places __attribute__((vector_size(VECTOR_BYTES)));

typedef struct {
    const char* at;
    idx stride; /* bytes from a row to the next */
    idx rows, length;
} matrix_of;

INLINE SCALAR number(const char* at, idx dtype) {
    if (dtype == BFLOAT16) return from_bfloat16(*(const uint16_t*)at);
    if (dtype == FLOAT16) return from_float16(*(const uint16_t*)at);
    return *(const SCALAR*)at;
}

INLINE void put_number(char* at, SCALAR x, idx dtype) {
    if (dtype == BFLOAT16) *(uint16_t*)at = to_bfloat16((float)x);
    if (dtype == FLOAT16) *(uint16_t*)at = to_float16((float)x);
    if (dtype == OWN) *(SCALAR*)at = x;
}

/* A row's vectors: within it; its last numbers, with some before them; all of a row that is shorter than a vector. */
enum { WHOLE, REST, SHORT };

/* The lanes that count in the last vector of a row of n numbers. */
INLINE mask last_lanes(idx n) {
    mask lanes;
    for (int i = 0; i < LANES; i++) lanes[i] = (n < LANES ? i < n : i >= LANES - n % LANES) ? -1 : 0;
    return lanes;
}

/* Calls STEP(first number, lanes that count, kind, ...) for each vector of a row of n numbers. */
#define SWEEP(n, STEP, ...)                                                                     \
    do {                                                                                        \
        idx at_ = 0;                                                                            \
        for (; at_ + LANES <= (n); at_ += LANES) STEP(at_, (mask)splat(0), WHOLE, __VA_ARGS__); \
        if (at_ < (n) && (n) >= LANES) STEP((n) - LANES, last_lanes(n), REST, __VA_ARGS__);     \
        if ((n) < LANES) STEP(0, last_lanes(n), SHORT, __VA_ARGS__);                            \
    } while (0)

/* Calls FUNCTION(..., dtype) with a constant, so that each dtype has loops of its own. */
#define BY_DTYPE(dtype, FUNCTION, ...)             \
    do {                                           \
        if (!IS_DOUBLE && (dtype) == BFLOAT16)     \
            FUNCTION(__VA_ARGS__, BFLOAT16);       \
        else if (!IS_DOUBLE && (dtype) == FLOAT16) \
            FUNCTION(__VA_ARGS__, FLOAT16);        \
        else                                       \
            FUNCTION(__VA_ARGS__, OWN);            \
    } while (0)

INLINE vec counted(vec v, mask lanes, int kind) { return kind == WHOLE ? v : only(lanes, v); }

INLINE vec larger(vec a, vec b) { return where(a > b, a, b); }

INLINE SCALAR largest_lane(vec v) {
    SCALAR lanes[LANES];
    store(lanes, v);
    for (int step = LANES / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) lanes[i] = lanes[i] > lanes[i + step] ? lanes[i] : lanes[i + step];
    return lanes[0];
}

INLINE int any_lane(mask m) {
    int64_t part[VECTOR_BYTES / 8], any = 0;
    memcpy(part, &m, VECTOR_BYTES);
    for (int i = 0; i < VECTOR_BYTES / 8; i++) any |= part[i];
    return any != 0;
}

/* The vector from number l on of a row of n numbers; beyond the end of a short row, copies of its first number. */
INLINE vec read(const char* row, idx l, idx n, int kind, int dtype) {
    SCALAR wide[LANES];
    if (kind == SHORT)
        for (idx i = 0; i < LANES; i++) wide[i] = number(row + (i < n ? i : 0) * bytes_of(dtype), dtype);
    else if (dtype == OWN)
        return load((const SCALAR*)row + l);
    else if (dtype == BFLOAT16)
        return (vec)(__builtin_convertvector(*(const halves*)(row + 2 * l), words) << 16);
    else
        widen_float16((const uint16_t*)row + l, LANES, (float*)wide);
    return load(wide);
}

/* Asks for number l of a row that is read soon: the processor's own prefetching fails on several short rows at once. */
INLINE void prefetch(const char* row, idx l, int kind, int dtype) {
    if (kind == WHOLE) __builtin_prefetch(row + l * bytes_of(dtype));
}

INLINE halves rounded_bfloat16(vec v) {
    words bits = (words)v, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector((words)where(v == v, (vec)rounded, (vec)((words){0} + 0x7fc0)), halves);
}

INLINE void write(char* row, idx l, vec v, idx n, int kind, int dtype) {
    SCALAR wide[LANES];
    store(wide, v);
    if (kind == SHORT)
        for (idx i = 0; i < n; i++) put_number(row + i * bytes_of(dtype), wide[i], dtype);
    else if (dtype == OWN)
        store((SCALAR*)row + l, v);
    else if (dtype == BFLOAT16)
        *(halves*)(row + 2 * l) = rounded_bfloat16(v);
    else
        narrow_float16((const float*)wide, LANES, (uint16_t*)row + l);
}

/* ---- searches with torch's rules: a NaN is the maximum, and the first of equal numbers is taken ---- */

/* The maximum of at[i] * factor[i], `step` bytes from one to the next; no factors: of at[i]. */
static SCALAR exact_maximum(const char* at, idx step, idx n, const SCALAR* factor, idx dtype) {
    SCALAR top = -INFINITY;
    for (idx i = 0; i < n && top == top; i++) {
        SCALAR z = number(at + i * step, dtype) * (factor ? factor[i] : 1);
        if (!(z <= top)) top = z;
    }
    return top;
}

/* The first i where at[i] * factor[i] is `top`. */
static idx exact_place(const char* at, idx step, idx n, const SCALAR* factor, SCALAR top, idx dtype) {
    for (idx i = 0; i < n; i++) {
        SCALAR z = number(at + i * step, dtype) * (factor ? factor[i] : 1);
        if (z == top || (z != z && top != top)) return i;
    }
    return 0;
}

INLINE mask hits_of(const char* row, idx l, const SCALAR* factor, SCALAR top, int dtype) {
    vec z = read(row, l, 0, WHOLE, dtype);
    if (factor) z *= load(factor + l);
    return z == splat(top);
}

/* The same within a row, whose numbers are adjacent: four vectors at a time. */
INLINE idx place_along(const char* row, idx n, const SCALAR* factor, SCALAR top, int dtype) {
    idx l = 0;
    for (; l + 4 * LANES <= n; l += 4 * LANES) {
        mask any = hits_of(row, l, factor, top, dtype);
        for (int i = 1; i < 4; i++) any |= hits_of(row, l + i * LANES, factor, top, dtype);
        if (any_lane(any)) break;
    }
    if (l == n) l = 0; /* only NaN is not found */
    return l + exact_place(row + l * bytes_of(dtype), bytes_of(dtype), n - l, factor ? factor + l : 0, top, dtype);
}
