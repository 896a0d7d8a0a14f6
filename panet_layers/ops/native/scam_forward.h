/* SCAM's forward. Symbols are those of docs/derivation.md. */
#pragma once
#include "scam_job.h"

struct scam_forward {
    scam_call of;
    char* out;
};

typedef struct {
    const scam_call* of;
    char* out;
    scam_saved saved;
    SCALAR* hidden_sum; /* (B, hidden) */
    double* sums;       /* (B, parts of the maps, 2): mean of the logits, and the sum of squared distances from it */
    SCALAR* own;
    idx own_size, channel_parts, hidden_parts;
} forward_job;

static idx lay_out_forward(const scam_call* c, SCALAR* start, forward_job* j) {
    arena scratch = {start};
    window w = part_of_maps(c, 0);
    j->of = c;
    j->sums = (double*)reserve(&scratch, c->batch * map_parts_of(c) * 2 * (sizeof(double) / sizeof(SCALAR)));
    j->hidden_sum = reserve(&scratch, c->batch * c->hidden);
    j->own_size = round_up(2 * w.size + w.outputs, ALIGNED);
    j->own = reserve(&scratch, j->own_size * c->threads);
    j->channel_parts = free_parts(c, c->channels, TILE);
    j->hidden_parts = free_parts(c, c->hidden, c->hidden);
    return scratch.size;
}

static void pool_pixels(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const forward_job* j = job;
    const scam_call* c = j->of;
    range r = part_of(c->channels, j->channel_parts, part);
    idx from = r.from, to = r.to;
    SCALAR* means = j->saved.pooled + first * 2 * c->channels + from;
    matrix_of x = channels_of(c, c->x, first, from, to - from);
    if (from < to) (c->channels_last ? pool_columns : pool_rows)(x, 0, means, means + c->channels, c->dtype);
    (void)last, (void)own;
}

/* hidden = ReLU(fc1 pooled + bias), for the means and the maxima, and the sum of both. */
static void hidden_features(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const forward_job* j = job;
    const scam_call* c = j->of;
    range r = part_of(c->hidden, j->hidden_parts, part);
    idx from = r.from, to = r.to;
    SCALAR* hidden = j->saved.hidden + first * 2 * c->hidden;
    multiply_rows(c->fc1, c->channels, from, to, j->saved.pooled + first * 2 * c->channels, 2 * (last - first), hidden,
                  c->hidden);
    for (idx b = first; b < last; b++, hidden += 2 * c->hidden)
        for (idx h = from; h < to; h++) {
            SCALAR bias = c->fc1_bias ? c->fc1_bias[h] : 0, mean = hidden[h] + bias, top = hidden[c->hidden + h] + bias;
            hidden[h] = mean < 0 ? 0 : mean; /* NaN stays */
            hidden[c->hidden + h] = top < 0 ? 0 : top;
            j->hidden_sum[b * c->hidden + h] = hidden[h] + hidden[c->hidden + h];
        }
    (void)own;
}

static void channel_gate(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const forward_job* j = job;
    const scam_call* c = j->of;
    range r = part_of(c->channels, j->channel_parts, part);
    idx from = r.from, to = r.to;
    SCALAR* gate = j->saved.gate + first * c->channels;
    multiply_rows(c->fc2, c->hidden, from, to, j->hidden_sum + first * c->hidden, last - first, gate, c->channels);
    for (idx b = first; b < last; b++, gate += c->channels)
#pragma omp simd
        for (idx i = from; i < to; i++) gate[i] = sigmoid(gate[i] + (c->fc2_bias ? 2 * c->fc2_bias[i] : 0));
    (void)own;
}

static void pool_channels(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const forward_job* j = job;
    const scam_call* c = j->of;
    idx pixels = pixels_of(c), from = part * tile_of(c), count = least(tile_of(c), pixels - from);
    SCALAR* means = j->saved.maps + first * 2 * pixels + from;
    const SCALAR* gate = j->saved.gate + first * c->channels;
    matrix_of x = pixels_from(c, c->x, first, from, count);
    (c->channels_last ? pool_rows : pool_columns)(x, gate, means, means + pixels, c->dtype);
    (void)last, (void)own;
}

static void convolve_maps(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const forward_job* j = job;
    const scam_call* c = j->of;
    window w = part_of_maps(c, part);
    const SCALAR* maps = j->saved.maps + first * 2 * pixels_of(c);
    SCALAR *out = own + 2 * w.size, *logits = j->saved.logits + first * pixels_of(c);
    pad(&w, maps, own);
    pad(&w, maps + pixels_of(c), own + w.size);
    convolve(&w, own, 2, c->conv, out);
    copy_outputs(&w, out, 1, logits);

    double sum = 0, squares = 0, *sums = j->sums + (first * map_parts_of(c) + part) * 2;
    idx from = w.first * w.width, to = w.last * w.width;
#pragma omp simd reduction(+ : sum)
    for (idx i = from; i < to; i++) sum += logits[i];
    double mean = sum / (to - from);
#pragma omp simd reduction(+ : squares)
    for (idx i = from; i < to; i++) squares += (logits[i] - mean) * (logits[i] - mean);
    sums[0] = mean, sums[1] = squares;
    (void)last;
}

/* Mean and variance of all logits, from those of the parts. */
static void join_moments(const forward_job* j) {
    const scam_call* c = j->of;
    double total = 0, mean = 0, squares = 0, *sums = j->sums;
    for (idx i = 0; i < c->batch * map_parts_of(c); i++, sums += 2) {
        window w = part_of_maps(c, i % map_parts_of(c));
        double n = (w.last - w.first) * w.width, away = sums[0] - mean;
        total += n;
        mean += away * n / total;
        squares += sums[1] + away * away * n * (total - n) / total;
    }
    c->moments[0] = mean, c->moments[1] = squares / total;
}

INLINE void apply_step(idx l, mask lanes, int kind, const char* x, char* out, idx n, const SCALAR* gate,
                       const SCALAR* pixel_gate, SCALAR rest, int channels_last, int dtype) {
    vec channel = channels_last ? load(gate + l) : splat(*gate);
    vec pixel = channels_last ? splat(*pixel_gate) : load(pixel_gate + l);
    vec v = read(x, l, n, kind, dtype), mixed = v * channel * pixel;
    if (rest != 0) mixed += v * rest;
    write(out, l, mixed, n, kind, dtype);
    (void)lanes;
}

INLINE void apply_rows(matrix_of x, char* out, const SCALAR* gate, const SCALAR* pixel_gate, SCALAR rest,
                       int channels_last, int dtype) {
    for (idx r = 0; r < x.rows; r++, x.at += x.stride, out += x.stride) {
        const SCALAR *channel = channels_last ? gate : gate + r, *pixel = channels_last ? pixel_gate + r : pixel_gate;
        SWEEP(x.length, apply_step, x.at, out, x.length, channel, pixel, rest, channels_last, dtype);
    }
}

/* The output where the share is 0, whatever the gates. */
static void copy_rows(matrix_of x, char* out, idx dtype) {
    for (idx r = 0; r < x.rows; r++) memcpy(out + r * x.stride, x.at + r * x.stride, x.length * bytes_of(dtype));
}

static void apply_gates(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const forward_job* j = job;
    const scam_call* c = j->of;
    idx pixels = pixels_of(c), from = part * tile_of(c), count = least(tile_of(c), pixels - from);
    SCALAR pixel_gate[TILE + LANES];
    const SCALAR* gate = j->saved.gate + first * c->channels;
    normalisation norm = normalisation_of(c);
    SCALAR rest = 1 - c->share;
    pixel_gates(&norm, j->saved.logits + first * pixels + from, count, pixel_gate);
    for (idx p = 0; p < count; p++) pixel_gate[p] *= c->share;
    matrix_of x = pixels_from(c, c->x, first, from, count);
    char* out = (char*)pixels_from(c, j->out, first, from, count).at;
    if (c->share == 0)
        copy_rows(x, out, c->dtype);
    else if (c->channels_last)
        BY_DTYPE(c->dtype, apply_rows, x, out, gate, pixel_gate, rest, 1);
    else
        BY_DTYPE(c->dtype, apply_rows, x, out, gate, pixel_gate, rest, 0);
    (void)last, (void)own;
}

ENTRY(scam_forward)(const struct scam_forward* call) {
    const scam_call* c = &call->of;
    forward_job j = {.out = call->out};
    prepare_map(c, call->out);
    idx saved = lay_out_saved(c, c->saved, &j.saved);
    memset(c->saved + saved - ALIGNED, 0, ALIGNED * sizeof(SCALAR));
    lay_out_forward(c, c->scratch, &j);
    c->moments[0] = c->running_mean ? c->running_mean[0] : 0;
    c->moments[1] = c->running_var ? c->running_var[0] : 0;
    idx tiles = tiles_of(c);
    stage stages[] = {{pool_pixels, j.channel_parts, 0},   {hidden_features, j.hidden_parts, 1},
                      {channel_gate, j.channel_parts, 1},  {pool_channels, tiles, 0},
                      {convolve_maps, map_parts_of(c), 0}, {apply_gates, tiles, 0}};
    idx before = c->batch_statistics ? 5 : 6; /* the statistics of the batch wait for all samples */
    run_stages(c, &j, stages, before, 0, j.own, j.own_size);
    if (!c->batch_statistics) return;
    join_moments(&j);
    run_stages(c, &j, stages + 5, 1, 1, j.own, j.own_size);
}
