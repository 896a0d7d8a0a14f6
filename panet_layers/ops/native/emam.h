/* EMAM's calls: their arguments, and how maps are cut into items of work. Symbols are those of docs/derivation.md.

   B samples of G groups are N instances, each of K planes of H x W = P pixels. The sides of a plane are its H rows, then
   its W columns, then zeros up to L, a multiple of LANES. */
#pragma once
#include "exponential.h"
#include "parallel.h"
#include "products.h"
#include "tiles.h"

enum {
    PLANES = 16,            /* of an item of work: in channels_last, 64 bytes of each pixel */
    WHOLE_PIXELS = 1 << 15, /* a larger plane is cut into tiles of rows */
    TILE_PIXELS = 1 << 13,
    COPIED_SCALARS = 1 << 17, /* at most, of a tile of an instance in channels_last */
    STRIP_PIXELS = 1 << 10,   /* of a tile of PLANES in channels_last, which is copied */
    BLOCK_SCALARS = 11 << 16, /* about, of scratch for the instances that take all steps together */
    PAST_CACHES = 1 << 22     /* bytes of an output that leaves the caches before it is read, and is stored past them */
};

/* Every field has eight bytes: ops/emam/native.py packs them. */
typedef struct {
    char *x, *grad, *out; /* in the backward, out is the gradient of x */
    const SCALAR *w1, *b1, *w3, *b3, *gamma, *beta;
    SCALAR *dw1, *db1, *dw3, *db3, *dgamma, *dbeta, *dshare; /* dshare: or NULL */
    SCALAR *saved, *scratch;
    idx samples, channels, groups, height, width, dtype, channels_last, threads;
    double eps, share; /* the output is lerp(x, attended x, share) */
} emam_call;

typedef struct {
    emam_call call;
    idx N, K, H, W, P, L;
    maps x, grad, out;
    SCALAR *means, *gates;   /* (N, K, L): r and s; a and d */
    SCALAR *mean, *rstd, *q; /* (N, K) */
    SCALAR* gate;            /* (N, P) */
    idx rows, strip;         /* of a tile of an instance, and of one of PLANES */
    int threads, whole;      /* whether an item of work is an instance, in one tile */
} emam;

static emam emam_of(const emam_call* call) {
    emam e = {.call = *call, .N = call->samples * call->groups, .K = call->channels / call->groups};
    e.H = call->height, e.W = call->width, e.P = e.H * e.W, e.L = round_up(e.H + e.W, LANES);
    maps m = {call->x, call->samples, call->channels, e.P, call->dtype, call->channels_last};
    e.x = e.grad = e.out = m;
    e.grad.data = call->grad, e.out.data = call->out;

    idx sides = e.N * e.K * e.L;
    e.means = call->saved, e.gates = e.means + sides, e.mean = e.gates + sides;
    e.rstd = e.mean + e.N * e.K, e.q = e.rstd + e.N * e.K, e.gate = e.q + e.N * e.K;

    e.threads = call->threads;
    e.whole = e.N >= e.threads && e.P <= WHOLE_PIXELS && !(e.x.channels_last && e.K * e.P > COPIED_SCALARS);
    idx pixels = e.x.channels_last ? least(TILE_PIXELS, COPIED_SCALARS / e.K) : TILE_PIXELS;
    idx enough = (e.H * e.N + 4 * e.threads - 1) / (4 * e.threads); /* tiles for all threads */
    e.rows = least(least(pixels / e.W, enough), e.H);
    if (e.rows < 1) e.rows = 1;
    if (e.whole) e.rows = e.H;
    e.strip = e.x.channels_last ? least(e.rows, max_of(1, STRIP_PIXELS / e.W)) : e.rows;
    return e;
}

/* What x is multiplied by in lerp(x, gate x, share): the gate where the share is 1, 1 whatever the gate where it is 0. */
static void mix_gate(const emam* e, const SCALAR* restrict gate, idx n, SCALAR* restrict mixed) {
    SCALAR share = e->call.share, rest = 1 - e->call.share;
    if (share == 0)
        for (idx i = 0; i < n; i++) mixed[i] = 1;
    else
        for (idx i = 0; i < n; i++) mixed[i] = rest + share * gate[i];
}

INLINE idx tiles_of(const emam* e) { return (e->H + e->rows - 1) / e->rows; }
INLINE idx plane_blocks(const emam* e) { return (e->K + PLANES - 1) / PLANES; }
/* Pixels of a tile with a row above and a row below. */
INLINE idx tile_pixels(const emam* e) { return (e->rows + 2) * e->W; }
INLINE idx strip_pixels(const emam* e) { return (e->strip + 2) * e->W; }

/* Instances that take all steps together, where each needs `scalars` of scratch. */
INLINE idx block_of(const emam* e, idx scalars) {
    idx block = BLOCK_SCALARS / scalars / ROWS * ROWS;   /* whole panels of a packed matrix */
    idx fewest = e->whole ? 4 * e->threads : e->threads; /* large planes are cut: fewer instances occupy all threads */
    if (block < fewest) block = fewest;
    return least(block, e->N);
}
