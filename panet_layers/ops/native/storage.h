/* The (B, C, H, W) tensors of a call, of any dtype and layout: their numbers as SCALARs. */
#pragma once
#include "half.h"
#include "memory.h"

enum { OWN, BFLOAT16, FLOAT16 }; /* how numbers are stored: as SCALAR, or in half precision (SCALAR is float then) */

typedef struct {
    char* data;
    idx samples, channels, pixels;
    int32_t dtype, channels_last;
} maps;

INLINE idx bytes_of(idx dtype) { return dtype == OWN ? sizeof(SCALAR) : 2; }
INLINE idx number_bytes(const maps* m) { return bytes_of(m->dtype); }

/* To be called before a new tensor is written. */
static inline void prepare_to_write(const maps* m) {
    use_large_pages(m->data, m->samples * m->channels * m->pixels * number_bytes(m));
}

static inline void widen(const maps* m, const char* from, idx n, SCALAR* to) {
    if (m->dtype == OWN) memcpy(to, from, n * sizeof(SCALAR));
    if (m->dtype == BFLOAT16) widen_bfloat16((const uint16_t*)from, n, (float*)to);
    if (m->dtype == FLOAT16) widen_float16((const uint16_t*)from, n, (float*)to);
}

static inline void narrow(const maps* m, const SCALAR* from, idx n, char* to) {
    if (m->dtype == OWN) memcpy(to, from, n * sizeof(SCALAR));
    if (m->dtype == BFLOAT16) narrow_bfloat16((const float*)from, n, (uint16_t*)to);
    if (m->dtype == FLOAT16) narrow_float16((const float*)from, n, (uint16_t*)to);
}

enum { AHEAD = 16 }; /* pixels; runs are further apart than processors look ahead by themselves */

/* Asks for a run's memory early. An address outside the map does no harm. */
INLINE void expect_run(const char* from, idx bytes) {
    for (idx i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
    __builtin_prefetch(from + bytes - 1);
}

INLINE void expect_room(char* to, idx bytes) {
    for (idx i = 0; i < bytes; i += 64) __builtin_prefetch(to + i, 1);
    __builtin_prefetch(to + bytes - 1, 1);
}
