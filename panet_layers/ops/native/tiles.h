/* Tensors of any dtype and layout, read and written as planes of SCALAR, some pixels at a time. */
#pragma once
#include "storage.h"
#include "transpose.h"

/* Some pixels of consecutive planes (channels of one sample). Reads may pass the end by LANES numbers. */
typedef struct {
    const maps* of;
    idx plane, first, count; /* the first plane, counted over the samples; the first pixel; pixels */
    idx planes, stride;
    SCALAR* copy; /* (planes, stride) where channels are innermost, else a single plane */
} tile;

INLINE idx tile_stride(idx count) { return round_up(count, LANES) + LANES; }
/* Scalars of a tile's copy. */
INLINE idx tile_size(int channels_last, idx planes, idx count) {
    return (channels_last ? planes : 1) * tile_stride(count);
}

INLINE char* channels_at(const tile* t, idx pixel) {
    const maps* m = t->of;
    idx sample = t->plane / m->channels, channel = t->plane % m->channels;
    return m->data + ((sample * m->pixels + t->first + pixel) * m->channels + channel) * number_bytes(m);
}

INLINE char* pixels_at(const tile* t, idx c) {
    return t->of->data + ((t->plane + c) * t->of->pixels + t->first) * number_bytes(t->of);
}

/* A tile to write to; `copy`: tile_size scalars. */
static inline tile new_tile(const maps* m, idx plane, idx planes, idx first, idx count, SCALAR* copy) {
    return (tile){m, plane, first, count, planes, tile_stride(count), copy};
}

enum { WIDENED = 512 }; /* numbers that are widened at a time, before they are transposed */

/* A tile to read from. */
static inline tile open_tile(const maps* m, idx plane, idx planes, idx first, idx count, SCALAR* copy) {
    tile t = new_tile(m, plane, planes, first, count, copy);
    if (!m->channels_last) return t;
    const char* from = channels_at(&t, 0);
    idx step = m->channels * number_bytes(m), bytes = planes * number_bytes(m);
    if (m->dtype == OWN) {
        for (idx p = 0; p < count; p += LANES) {
            for (idx i = 0; i < LANES; i++) expect_run(from + (p + i + AHEAD) * step, bytes);
            transpose_block((const SCALAR*)(from + p * step), m->channels, least(LANES, count - p), planes, copy + p,
                            t.stride);
        }
        return t;
    }
    SCALAR wide[LANES * WIDENED];
    for (idx p = 0; p < count; p += LANES)
        for (idx c = 0; c < planes; c += WIDENED) {
            idx pixels = least(LANES, count - p), now = least(WIDENED, planes - c);
            for (idx i = 0; i < pixels; i++) widen(m, from + ((p + i) * m->channels + c) * 2, now, wide + i * WIDENED);
            transpose_block(wide, WIDENED, pixels, now, copy + c * t.stride + p, t.stride);
        }
    return t;
}

/* Writes a finished tile. */
static inline void close_tile(const tile* t) {
    const maps* m = t->of;
    if (!m->channels_last) return;
    char* to = channels_at(t, 0);
    idx step = m->channels * number_bytes(m), bytes = t->planes * number_bytes(m);
    if (m->dtype == OWN) {
        for (idx p = 0; p < t->count; p += LANES) {
            for (idx i = 0; i < LANES; i++) expect_room(to + (p + i + AHEAD) * step, bytes);
            transpose_block(t->copy + p, t->stride, t->planes, least(LANES, t->count - p), (SCALAR*)(to + p * step),
                            m->channels);
        }
        return;
    }
    SCALAR wide[LANES * WIDENED];
    for (idx p = 0; p < t->count; p += LANES)
        for (idx c = 0; c < t->planes; c += WIDENED) {
            idx pixels = least(LANES, t->count - p), now = least(WIDENED, t->planes - c);
            transpose_block(t->copy + c * t->stride + p, t->stride, now, pixels, wide, WIDENED);
            for (idx i = 0; i < pixels; i++) narrow(m, wide + i * WIDENED, now, to + ((p + i) * m->channels + c) * 2);
        }
}

/* Plane c of a tile that was opened; valid until the next one is asked for. */
static inline const SCALAR* plane_of(const tile* t, idx c) {
    if (t->of->channels_last) return t->copy + c * t->stride;
    idx planes = t->of->samples * t->of->channels, left = (planes - t->plane - c) * t->of->pixels - t->first - t->count;
    if (t->of->dtype == OWN && left >= LANES) return (const SCALAR*)pixels_at(t, c);
    widen(t->of, pixels_at(t, c), t->count, t->copy);
    return t->copy;
}

/* Where plane c of a new tile is to be computed; finish_plane follows. */
INLINE SCALAR* room_for_plane(const tile* t, idx c) {
    if (t->of->channels_last) return t->copy + c * t->stride;
    return t->of->dtype == OWN ? (SCALAR*)pixels_at(t, c) : t->copy;
}

INLINE void finish_plane(const tile* t, idx c) {
    if (!t->of->channels_last && t->of->dtype != OWN) narrow(t->of, t->copy, t->count, pixels_at(t, c));
}
