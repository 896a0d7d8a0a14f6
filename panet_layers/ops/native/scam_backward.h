/* SCAM's backward. Symbols are those of docs/derivation.md. */
#pragma once
#include "scam_contract.h"
#include "scam_job.h"

struct scam_backward {
    scam_call of;
    const char* grad;
    char* dx;
    SCALAR *dfc1, *dfc1_bias, *dfc2, *dfc2_bias, *dconv, *dnorm_weight, *dnorm_bias, *dshare; /* dshare: or NULL */
};

typedef struct {
    const struct scam_backward* call;
    const scam_call* of;
    scam_saved saved;
    SCALAR *dscores, *dmaps;                 /* (B, P), and (B, 2, P); dM_avg is divided by C */
    idx dscores_step;                        /* from sample to sample; in dx but for half precision */
    SCALAR *dgates, *dv, *dhidden, *dpooled; /* (B, tiles, C padded), (B, C), (B, 2, hidden), (B, 2, C) */
    SCALAR *hidden_sum, *dconv;              /* (B, hidden), (B, parts of the maps, 2, k, k) */
    place *top_channel, *top_pixel;          /* (B, P), (B, C) */
    double* sums; /* (B, tiles, 3): of du, of du times the normalised logits, of what dshare is */
    SCALAR* own;
    SCALAR dmean, dslope; /* with statistics of the batch: the means of du, and of du times the normalised logits */
    idx own_size, channel_parts, padded_channels;
} backward_job;

static idx lay_out_backward(const scam_call* c, SCALAR* start, backward_job* j) {
    idx b = c->batch, p = pixels_of(c), tiles = tiles_of(c);
    arena scratch = {start};
    window w = part_of_maps(c, 0);
    j->of = c;
    j->padded_channels = round_up(c->channels, ALIGNED);
    j->sums = (double*)reserve(&scratch, b * tiles * 3 * (sizeof(double) / sizeof(SCALAR)));
    j->dscores_step = c->dtype == OWN ? c->channels * p : p;
    j->dscores = c->dtype == OWN ? 0 : reserve(&scratch, b * p);
    j->dmaps = reserve(&scratch, b * 2 * p + ALIGNED);
    j->dgates = reserve(&scratch, b * tiles * j->padded_channels);
    j->dv = reserve(&scratch, b * c->channels);
    j->dhidden = reserve(&scratch, b * 2 * c->hidden);
    j->dpooled = reserve(&scratch, b * 2 * c->channels + ALIGNED);
    j->hidden_sum = reserve(&scratch, b * c->hidden);
    j->dconv = reserve(&scratch, b * map_parts_of(c) * 2 * c->kernel * c->kernel);
    j->top_channel = (place*)reserve(&scratch, b * p);
    j->top_pixel = (place*)reserve(&scratch, b * c->channels);
    j->own_size = round_up(2 * w.size + w.outputs + c->kernel * c->kernel, ALIGNED);
    j->own = reserve(&scratch, j->own_size * c->threads);
    j->channel_parts = free_parts(c, c->channels, TILE);
    return scratch.size;
}

/* The first channel that has the maximum, where the sweep did not find it: in pixels that are rows, or have NaN. */
static void find_top_channels(const backward_job* j, idx sample, idx from, idx count, place* top) {
    const scam_call* c = j->of;
    const SCALAR* gate = j->saved.gate + sample * c->channels;
    const SCALAR* tops = j->saved.maps + (sample * 2 + 1) * pixels_of(c) + from;
    matrix_of x = pixels_from(c, c->x, sample, from, count);
    idx bytes = bytes_of(c->dtype);
    for (idx p = 0; p < count; p++) {
        if (top[p] >= 0) continue;
        if (!c->channels_last)
            top[p] = exact_place(x.at + p * bytes, x.stride, c->channels, gate, tops[p], c->dtype);
        else if (c->dtype == OWN)
            top[p] = place_along(x.at + p * x.stride, c->channels, gate, tops[p], OWN);
        else if (c->dtype == BFLOAT16)
            top[p] = place_along(x.at + p * x.stride, c->channels, gate, tops[p], BFLOAT16);
        else
            top[p] = place_along(x.at + p * x.stride, c->channels, gate, tops[p], FLOAT16);
    }
}

/* The gradients of both gates from g x: du, and a part of dca. */
static void contract_gates(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const backward_job* j = job;
    const scam_call* c = j->of;
    idx pixels = pixels_of(c), from = part * tile_of(c), count = least(tile_of(c), pixels - from);
    SCALAR pixel_gate[TILE + LANES], by_pixel[TILE + LANES] = {0};
    place top[TILE + LANES];
    normalisation norm = normalisation_of(c);
    const SCALAR* logits = j->saved.logits + first * pixels + from;
    const SCALAR* gate = j->saved.gate + first * c->channels;
    SCALAR* dgate = j->dgates + (first * tiles_of(c) + part) * j->padded_channels;
    pixel_gates(&norm, logits, count, pixel_gate);
    memset(dgate, 0, j->padded_channels * sizeof(SCALAR));
    for (idx p = 0; p < count; p++) top[p] = -1;
    contraction by =
        c->channels_last
            ? (contraction){pixel_gate, gate, by_pixel, dgate, 0, 0}
            : (contraction){gate, pixel_gate, dgate, by_pixel, j->saved.maps + (first * 2 + 1) * pixels + from, top};
    double sum = 0, slope = 0, *sums = j->sums + (first * tiles_of(c) + part) * 3;
    sums[2] = 0;
    by.share_sum = j->call->dshare ? sums + 2 : 0;
    matrix_of x = pixels_from(c, c->x, first, from, count);
    contract(x, pixels_from(c, j->call->grad, first, from, count).at, &by, c->dtype);
    find_top_channels(j, first, from, count, top);
    memcpy(j->top_channel + first * pixels + from, top, count * sizeof(place));

    SCALAR* dscores = j->dscores + first * j->dscores_step + from;
    SCALAR share = c->share;
    for (idx i = 0; i < c->channels; i++) dgate[i] *= share;
#pragma omp simd reduction(+ : sum, slope)
    for (idx p = 0; p < count; p++) {
        SCALAR du = share * by_pixel[p] * pixel_gate[p] * (1 - pixel_gate[p]);
        dscores[p] = du;
        sum += du;
        slope += (double)du * normalised(&norm, logits[p]);
    }
    sums[0] = sum, sums[1] = slope;
    (void)last, (void)own;
}

/* The gradients of the normalisation's scale and shift, and the means that its backward subtracts. */
static void join_sums(backward_job* j) {
    const scam_call* c = j->of;
    double sum = 0, slope = 0;
    for (idx i = 0; i < c->batch * tiles_of(c); i++) sum += j->sums[3 * i], slope += j->sums[3 * i + 1];
    *j->call->dnorm_weight = slope, *j->call->dnorm_bias = sum;
    j->dmean = sum / (c->batch * pixels_of(c)), j->dslope = slope / (c->batch * pixels_of(c));
}

static void share_gradient(const backward_job* j) {
    const scam_call* c = j->of;
    double sum = 0;
    for (idx i = 0; i < c->batch * tiles_of(c); i++) sum += j->sums[3 * i + 2];
    *j->call->dshare = sum;
}

/* The gradient of the logits, on the pixels that the window reads. */
static void pad_logits_gradient(const backward_job* j, const window* w, idx sample, SCALAR* to) {
    const scam_call* c = j->of;
    const SCALAR *dscores = j->dscores + sample * j->dscores_step, *logits = j->saved.logits + sample * pixels_of(c);
    normalisation norm = normalisation_of(c);
    SCALAR scale = norm.weight * norm.deviation, mean = j->dmean, slope = j->dslope;
    pad(w, dscores, to);
    if (!norm.given) return;
    for (idx h = w->first - w->reach; h < w->last + w->reach; h++) {
        if (h < 0 || h >= w->height) continue;
        SCALAR* row = to + (h - w->first + w->reach) * w->row + w->reach;
        const SCALAR* logit = logits + h * w->width;
        if (c->batch_statistics)
            for (idx i = 0; i < w->width; i++) row[i] = (row[i] - mean - normalised(&norm, logit[i]) * slope) * scale;
        else
            for (idx i = 0; i < w->width; i++) row[i] *= scale;
    }
}

static void convolve_maps_backward(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const backward_job* j = job;
    const scam_call* c = j->of;
    idx taps = c->kernel * c->kernel;
    window w = part_of_maps(c, part);
    SCALAR *map = own + w.size, *out = map + w.size, *reversed = out + w.outputs;
    SCALAR* dconv = j->dconv + (first * map_parts_of(c) + part) * 2 * taps;
    pad_logits_gradient(j, &w, first, own);
    for (idx m = 0; m < 2; m++) {
        for (idx i = 0; i < taps; i++) reversed[i] = c->conv[m * taps + taps - 1 - i];
        convolve(&w, own, 1, reversed, out);
        copy_outputs(&w, out, m ? 1 : (SCALAR)1 / c->channels, j->dmaps + (first * 2 + m) * pixels_of(c));
        pad(&w, j->saved.maps + (first * 2 + m) * pixels_of(c), map);
        int finite = all_finite(own, w.size) && all_finite(map, w.size);
        (finite ? correlate : correlate_inside)(&w, own, map, dconv + m * taps);
    }
    (void)last;
}

/* dv: the gradient before the channel gate's sigmoid. Also the first pixel of each channel's maximum. */
static void contract_maps(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const backward_job* j = job;
    const scam_call* c = j->of;
    range r = part_of(c->channels, j->channel_parts, part);
    idx from = r.from, to = r.to;
    idx pixels = pixels_of(c), bytes = bytes_of(c->dtype);
    if (from == to) return;
    double sums[TILE + LANES];
    place places[TILE + LANES];
    const SCALAR *dmean = j->dmaps + first * 2 * pixels, *dtop = dmean + pixels;
    const SCALAR* tops = j->saved.pooled + (first * 2 + 1) * c->channels + from;
    const SCALAR* gate = j->saved.gate + first * c->channels + from;
    matrix_of x = channels_of(c, c->x, first, from, to - from);
    (c->channels_last ? dot_columns : dot_rows)(x, dmean, tops, sums, places, c->dtype);
    idx channel_step = c->channels_last ? bytes : x.stride, pixel_step = c->channels_last ? x.stride : bytes;
    for (idx i = 0; i < to - from; i++)
        if (places[i] < 0) places[i] = exact_place(x.at + i * channel_step, pixel_step, pixels, 0, tops[i], c->dtype);
    const place* top_channel = j->top_channel + first * pixels;
    for (idx p = 0; p < pixels; p++) {
        idx i = top_channel[p] - from;
        if (i < 0 || i >= to - from) continue;
        sums[i] += (double)number(x.at + i * channel_step + p * pixel_step, c->dtype) * dtop[p];
    }
    for (idx i = 0; i < to - from; i++) {
        const SCALAR* dgate = j->dgates + first * tiles_of(c) * j->padded_channels + from + i;
        for (idx t = 0; t < tiles_of(c); t++) sums[i] += dgate[t * j->padded_channels];
        j->dv[first * c->channels + from + i] = sums[i] * gate[i] * (1 - gate[i]);
        j->top_pixel[first * c->channels + from + i] = places[i];
    }
    (void)last, (void)own;
}

static void hidden_gradient(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const backward_job* j = job;
    const scam_call* c = j->of;
    idx n = c->hidden;
    SCALAR* dhidden = j->dhidden + first * 2 * n;
    const SCALAR* hidden = j->saved.hidden + first * 2 * n;
    multiply_columns(j->dv + first * c->channels, c->channels, 1, last - first, c->fc2, n, c->channels, 0, n, dhidden,
                     2 * n);
    for (idx b = first; b < last; b++, dhidden += 2 * n, hidden += 2 * n)
        for (idx h = 0; h < n; h++) {
            dhidden[n + h] = hidden[n + h] <= 0 ? 0 : dhidden[h]; /* that of a NaN passes */
            dhidden[h] = hidden[h] <= 0 ? 0 : dhidden[h];
        }
    (void)part, (void)own;
}

static void pooled_gradient(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const backward_job* j = job;
    const scam_call* c = j->of;
    range r = part_of(c->channels, j->channel_parts, part);
    idx from = r.from, to = r.to;
    SCALAR* dpooled = j->dpooled + first * 2 * c->channels;
    multiply_columns(j->dhidden + first * 2 * c->hidden, c->hidden, 1, 2 * (last - first), c->fc1, c->channels,
                     c->hidden, from, to, dpooled, c->channels);
    for (idx b = first; b < last; b++, dpooled += 2 * c->channels)
        for (idx i = from; i < to; i++) dpooled[i] /= pixels_of(c);
    (void)own;
}

/* One element again, with the gradients of the maxima: dx[channel, pixel] of a tile of pixels. */
INLINE void add_maxima(const backward_job* j, const gradient_factors* by, matrix_of g, char* dx, idx sample,
                       idx channel, idx pixel, idx first_pixel) {
    const scam_call* c = j->of;
    idx bytes = bytes_of(c->dtype), p = first_pixel + pixel;
    const SCALAR* dmaximum = j->dmaps + (sample * 2 + 1) * pixels_of(c);
    const SCALAR* dtop = j->dpooled + (sample * 2 + 1) * c->channels;
    idx at = channel * (c->channels_last ? bytes : g.stride) + pixel * (c->channels_last ? g.stride : bytes);
    SCALAR given = number(g.at + at, c->dtype), value = given * by->pixel[pixel] + by->mean[pixel];
    if (j->top_channel[sample * pixels_of(c) + p] == channel) value += dmaximum[p];
    value = value * by->channel[channel] + by->average[channel];
    if (j->top_pixel[sample * c->channels + channel] == p) value += dtop[channel];
    if (by->rest != 0) value += given * by->rest;
    put_number(dx + at, value, c->dtype);
}

static void write_gradient(const void* job, idx first, idx last, idx part, SCALAR* own) {
    const backward_job* j = job;
    const scam_call* c = j->of;
    idx pixels = pixels_of(c), from = part * tile_of(c), count = least(tile_of(c), pixels - from);
    SCALAR pixel_gate[TILE + LANES];
    normalisation norm = normalisation_of(c);
    pixel_gates(&norm, j->saved.logits + first * pixels + from, count, pixel_gate);
    for (idx p = 0; p < count; p++) pixel_gate[p] *= c->share;
    gradient_factors by = {j->saved.gate + first * c->channels, j->dpooled + first * 2 * c->channels, pixel_gate,
                           j->dmaps + first * 2 * pixels + from, 1 - c->share};
    matrix_of g = pixels_from(c, j->call->grad, first, from, count);
    char* dx = (char*)pixels_from(c, j->call->dx, first, from, count).at;
    input_gradient(g, dx, &by, c->channels_last, c->dtype);
    const place *top_channel = j->top_channel + first * pixels + from, *top_pixel = j->top_pixel + first * c->channels;
    for (idx p = 0; p < count; p++) add_maxima(j, &by, g, dx, first, top_channel[p], p, from);
    for (idx i = 0; i < c->channels; i++)
        if (top_pixel[i] >= from && top_pixel[i] < from + count)
            add_maxima(j, &by, g, dx, first, i, top_pixel[i] - from, from);
    (void)last, (void)own;
}

/* dfc1, and dfc2 with both biases. */
static void fc1_gradient(const void* job, idx part, SCALAR* own) {
    const backward_job* j = job;
    const scam_call* c = j->of;
    range r = part_of(c->channels, j->channel_parts, part);
    idx from = r.from, to = r.to;
    multiply_columns(j->dhidden, 1, c->hidden, c->hidden, j->saved.pooled, c->channels, 2 * c->batch, from, to,
                     j->call->dfc1, c->channels);
    (void)own;
}

static void fc2_gradient(const void* job, idx part, SCALAR* own) {
    const backward_job* j = job;
    const scam_call* c = j->of;
    range r = part_of(c->channels, j->channel_parts, part);
    idx from = r.from, to = r.to;
    multiply_columns(j->dv + from, 1, c->channels, to - from, j->hidden_sum, c->hidden, c->batch, 0, c->hidden,
                     j->call->dfc2 + from * c->hidden, c->hidden);
    (void)own;
}

static void layers_gradients(backward_job* j) {
    const scam_call* c = j->of;
    for (idx b = 0; b < c->batch; b++)
        for (idx h = 0; h < c->hidden; h++) {
            const SCALAR* hidden = j->saved.hidden + b * 2 * c->hidden + h;
            j->hidden_sum[b * c->hidden + h] = hidden[0] + hidden[c->hidden];
        }
    for_each(j->channel_parts, fc1_gradient, j, j->own, 0, (int)c->threads);
    for_each(j->channel_parts, fc2_gradient, j, j->own, 0, (int)c->threads);
    for (idx h = 0; c->fc1_bias && h < c->hidden; h++) {
        double sum = 0;
        for (idx i = 0; i < 2 * c->batch; i++) sum += j->dhidden[i * c->hidden + h];
        j->call->dfc1_bias[h] = sum;
    }
    for (idx i = 0; c->fc2_bias && i < c->channels; i++) {
        double sum = 0;
        for (idx b = 0; b < c->batch; b++) sum += j->dv[b * c->channels + i];
        j->call->dfc2_bias[i] = 2 * sum;
    }
}

static void conv_gradient(const backward_job* j) {
    const scam_call* c = j->of;
    idx taps = 2 * c->kernel * c->kernel;
    for (idx t = 0; t < taps; t++) {
        double sum = 0;
        for (idx i = 0; i < c->batch * map_parts_of(c); i++) sum += j->dconv[i * taps + t];
        j->call->dconv[t] = sum;
    }
}

ENTRY(scam_backward)(const struct scam_backward* call) {
    const scam_call* c = &call->of;
    backward_job j = {.call = call};
    prepare_map(c, call->dx);
    lay_out_saved(c, c->saved, &j.saved);
    lay_out_backward(c, c->scratch, &j);
    if (c->dtype == OWN) j.dscores = (SCALAR*)call->dx; /* each sample's before its gradient is written */
    idx tiles = tiles_of(c);
    stage stages[] = {
        {contract_gates, tiles, 0}, {convolve_maps_backward, map_parts_of(c), 0}, {contract_maps, j.channel_parts, 0},
        {hidden_gradient, 1, 1},    {pooled_gradient, j.channel_parts, 1},        {write_gradient, tiles, 0}};
    idx before = c->batch_statistics ? 1 : 6; /* the means over the batch wait for all samples */
    run_stages(c, &j, stages, before, 0, j.own, j.own_size);
    if (c->norm_weight) join_sums(&j);
    if (call->dshare) share_gradient(&j);
    if (c->batch_statistics) run_stages(c, &j, stages + 1, 5, 1, j.own, j.own_size);
    layers_gradients(&j);
    conv_gradient(&j);
}

/* Scalars of `saved`, and of the scratch, for a call of this shape. */
ENTRY(scam_sizes)(const scam_call* c, idx* sizes) {
    scam_saved saved;
    forward_job forward;
    backward_job backward;
    sizes[0] = lay_out_saved(c, 0, &saved);
    sizes[1] = lay_out_forward(c, 0, &forward);
    sizes[2] = lay_out_backward(c, 0, &backward);
}
