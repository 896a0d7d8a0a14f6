/* What SCAM's forward and backward share: the call, its memory, and how its stages are spread over threads. */
#pragma once
#include "exponential.h"
#include "parallel.h"
#include "scam_linear.h"
#include "scam_maps.h"
#include "scam_pool.h"

/* Fields of 8 bytes, which Python packs. What a layer does not have is NULL. */
typedef struct {
    const char* x;                                 /* (batch, channels, height, width) */
    SCALAR *saved, *moments, *scratch;             /* moments (2): of the logits, mean and variance */
    const SCALAR *fc1, *fc1_bias, *fc2, *fc2_bias; /* (hidden, channels), (hidden), (channels, hidden), (channels) */
    const SCALAR *conv, *norm_weight, *norm_bias, *running_mean, *running_var; /* (2, kernel, kernel), and 1 each */
    idx batch, channels, height, width, hidden, kernel;
    idx dtype, channels_last, batch_statistics, threads;
    double eps, share; /* the output is lerp(x, attended x, share) */
} scam_call;

enum { ALIGNED = 16, SHARES = 8, ROWS_OF_MAPS = 8 };

INLINE idx pixels_of(const scam_call* c) { return c->height * c->width; }
INLINE idx parts_of(idx n, idx size) { return (n + size - 1) / size; }

/* Pixels of a tile. It depends on the shape alone, so that results do not depend on the number of threads. */
INLINE idx tile_of(const scam_call* c) {
    idx pixels = pixels_of(c), parts = parts_of(pixels, TILE), shares = parts_of(SHARES, c->batch);
    parts = parts > shares ? parts : shares;
    return least(TILE, round_up(parts_of(pixels, parts), 64));
}

/* Rows of the maps that are convolved at a time. */
INLINE idx map_rows_of(const scam_call* c) {
    idx share = parts_of(c->height * c->batch, SHARES), most = TILE / c->width;
    share = share < most ? share : most;
    return least(c->height, share > ROWS_OF_MAPS ? share : ROWS_OF_MAPS);
}

INLINE idx tiles_of(const scam_call* c) { return parts_of(pixels_of(c), tile_of(c)); }
INLINE idx map_parts_of(const scam_call* c) { return parts_of(c->height, map_rows_of(c)); }
INLINE window part_of_maps(const scam_call* c, idx part) {
    idx rows = map_rows_of(c), first = part * rows;
    return window_of(c->height, c->width, c->kernel, first, least(first + rows, c->height));
}

/* What the forward keeps for the backward, one after the other, then ALIGNED zeros: vectors may be read past an end. */
typedef struct {
    SCALAR *pooled, *hidden, *gate, *maps, *logits; /* (B, 2, C), (B, 2, hidden), (B, C), (B, 2, P), (B, P) */
} scam_saved;

static idx lay_out_saved(const scam_call* c, SCALAR* start, scam_saved* s) {
    idx b = c->batch, p = pixels_of(c);
    idx counts[] = {b * 2 * c->channels, b * 2 * c->hidden, b * c->channels, b * 2 * p, b * p};
    SCALAR** parts[] = {&s->pooled, &s->hidden, &s->gate, &s->maps, &s->logits};
    idx used = 0;
    for (int i = 0; i < 5; used += counts[i++]) *parts[i] = start ? start + used : 0;
    return used + ALIGNED;
}

/* `count` channels from `first` on, of one sample. */
INLINE matrix_of channels_of(const scam_call* c, const char* data, idx sample, idx first, idx count) {
    idx bytes = bytes_of(c->dtype), p = pixels_of(c), at = sample * c->channels * p;
    if (c->channels_last) return (matrix_of){data + (at + first) * bytes, c->channels * bytes, p, count};
    return (matrix_of){data + (at + first * p) * bytes, p * bytes, count, p};
}

/* `count` pixels from `first` on, of one sample. */
INLINE matrix_of pixels_from(const scam_call* c, const char* data, idx sample, idx first, idx count) {
    idx bytes = bytes_of(c->dtype), p = pixels_of(c), at = sample * c->channels * p;
    idx channels = c->channels;
    if (c->channels_last) return (matrix_of){data + (at + first * channels) * bytes, channels * bytes, count, channels};
    return (matrix_of){data + (at + first) * bytes, p * bytes, channels, count};
}

/* To be called before a new map like x is written. */
INLINE void prepare_map(const scam_call* c, char* map) {
    use_large_pages(map, c->batch * c->channels * pixels_of(c) * bytes_of(c->dtype));
}

/* score = logit * scale + shift; normalised = (logit - mean) * deviation. */
typedef struct {
    SCALAR mean, deviation, weight, bias;
    int given;
} normalisation;

static normalisation normalisation_of(const scam_call* c) {
    if (!c->norm_weight) return (normalisation){0, 1, 1, 0, 0};
    return (normalisation){c->moments[0], 1 / sqrt(c->moments[1] + c->eps), c->norm_weight[0], c->norm_bias[0], 1};
}

INLINE SCALAR normalised(const normalisation* n, SCALAR logit) { return (logit - n->mean) * n->deviation; }

/* gate[i] = sigmoid(score of logits[i]), for n of at most TILE. */
static void pixel_gates(const normalisation* norm, const SCALAR* logits, idx n, SCALAR* gate) {
    normalisation by = *norm;
#pragma omp simd
    for (idx i = 0; i < n; i++) gate[i] = sigmoid(normalised(&by, logits[i]) * by.weight + by.bias);
}

/* A step of the work: samples [first, last), part `part` of each. `own`: this thread's scratch. */
typedef struct {
    void (*run)(const void* job, idx first, idx last, idx part, SCALAR* own);
    idx parts;
    int joint; /* a part takes all samples at once */
} stage;

typedef struct {
    const void* job;
    const stage* stages;
    idx count, batch, group;
    int last_first; /* begin with the last samples, which are still in the cache from the stages before */
} schedule;

static void run_group(const void* schedule_, idx i, SCALAR* own) {
    const schedule* s = schedule_;
    idx groups = parts_of(s->batch, s->group);
    idx first = (s->last_first ? groups - 1 - i : i) * s->group, last = least(first + s->group, s->batch);
    for (idx k = 0; k < s->count; k++)
        for (idx b = first; b < last; b += s->stages[k].joint ? last - first : 1)
            for (idx part = 0; part < s->stages[k].parts; part++)
                s->stages[k].run(s->job, b, s->stages[k].joint ? last : b + 1, part, own);
}

static void run_part(const void* schedule_, idx i, SCALAR* own) {
    const schedule* s = schedule_;
    idx parts = s->stages->parts, b = i / parts;
    s->stages->run(s->job, s->stages->joint ? 0 : b, s->stages->joint ? s->batch : b + 1, i % parts, own);
}

/* Whether samples are enough work for all threads. Each thread then takes them through all stages, in its cache. */
INLINE int by_sample(const scam_call* c) { return c->batch % c->threads == 0 || c->batch >= 4 * c->threads; }

/* Samples whose linear layers are computed together, which reads the weights once for all of them. */
INLINE idx group_of(const scam_call* c) {
    idx most = parts_of(c->batch, 2 * c->threads);
    return least(most, least(8, 1 + 16 * c->hidden / pixels_of(c)));
}

static void run_stages(const scam_call* c, const void* job, const stage* stages, idx count, int last_first, SCALAR* own,
                       idx size) {
    if (by_sample(c)) {
        schedule s = {job, stages, count, c->batch, group_of(c), last_first};
        for_each(parts_of(c->batch, s.group), run_group, &s, own, size, (int)c->threads);
        return;
    }
    for (idx k = 0; k < count; k++) {
        schedule s = {job, stages + k, 1, c->batch, 1, 0};
        for_each(stages[k].parts * (stages[k].joint ? 1 : c->batch), run_part, &s, own, size, (int)c->threads);
    }
}

/* Parts of n channels, rows or columns whose results do not depend on each other: a few for each thread. None has fewer
   than LANES but where n has, since what is shorter than a vector is summed up in another order. */
INLINE idx free_parts(const scam_call* c, idx n, idx most) {
    idx size = 2 * LANES > 16 ? 2 * LANES : 16, whole = n / size, least_parts = parts_of(n, most);
    idx parts = by_sample(c) ? 1 : least(whole > 1 ? whole : 1, 4 * c->threads);
    return parts > least_parts ? parts : least_parts;
}
INLINE idx part_start(idx n, idx parts, idx part) { return least(n, round_up(n * part / parts, LANES)); }
typedef struct {
    idx from, to;
} range;
INLINE range part_of(idx n, idx parts, idx part) {
    return (range){part_start(n, parts, part), part_start(n, parts, part + 1)};
}
