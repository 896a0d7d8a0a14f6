/* The sweeps of SCAM's backward over a matrix of inputs x and gradients g. */
#pragma once
#include "scam_pool.h"

/* What `contract` reads and sums, by row and by column. */
typedef struct {
    const SCALAR *row_factor, *column_factor;
    SCALAR *row_sums, *column_sums; /* of x g column_factor; of x g row_factor */
    const SCALAR* tops;             /* of each column, of x row_factor; or NULL */
    place* top_rows;                /* the first row that has it, or -1 */
    double* share_sum;              /* of x g (row_factor column_factor - 1); or NULL */
} contraction;

INLINE void contract_step(idx l, mask lanes, int kind, const char* x, const char* g, idx stride, idx n, idx first,
                          int count, const vec* factor, vec* row_sums, vec* share_sums, const contraction* by,
                          int shares, int dtype) {
    vec a = kind == SHORT ? read((const char*)by->column_factor, 0, n, SHORT, OWN) : load(by->column_factor + l);
    vec xs[4], sum = splat(0);
    for (int i = 0; i < count; i++) {
        prefetch(x + (i + count) * stride, l, kind, dtype);
        prefetch(g + (i + count) * stride, l, kind, dtype);
        xs[i] = read(x + i * stride, l, n, kind, dtype);
        vec product = xs[i] * read(g + i * stride, l, n, kind, dtype);
        sum += product * factor[i];
        row_sums[i] += counted(product * a, lanes, kind);
        if (shares) share_sums[i] += counted(product * (factor[i] * a - splat(1)), lanes, kind);
    }
    store(by->column_sums + l, load(by->column_sums + l) + counted(sum, lanes, kind));
    if (!by->tops) return;
    vec top = load(by->tops + l), row = (vec)((words){0} - 1), before = load((const SCALAR*)by->top_rows + l);
    for (int i = count - 1; i >= 0; i--)
        row = where(xs[i] * factor[i] == top, (vec)((words){0} + (JOINED(word, SCALAR))(first + i)), row);
    store((SCALAR*)by->top_rows + l, where((places)before < 0, row, before));
}

INLINE void contract_rows(matrix_of x, const char* g, idx first, int count, const contraction* by, int shares,
                          int dtype) {
    vec factor[4], sums[4], share_sums[4];
    SCALAR out[4];
    for (int i = 0; i < 4; i++) {
        factor[i] = splat(by->row_factor[first + (i < count ? i : 0)]);
        sums[i] = share_sums[i] = splat(0);
    }
    SWEEP(x.length, contract_step, x.at + first * x.stride, g + first * x.stride, x.stride, x.length, first, count,
          factor, sums, share_sums, by, shares, dtype);
    sum_lanes_of_4(sums, out);
    for (int i = 0; i < count; i++) by->row_sums[first + i] = out[i];
    if (!shares) return;
    sum_lanes_of_4(share_sums, out);
    for (int i = 0; i < count; i++) *by->share_sum += out[i];
}

/* The columns' sums are zero before, and their places -1. */
INLINE void contract_of(matrix_of x, const char* g, const contraction* by, int shares, int dtype) {
    contraction with = *by;
    idx r = 0;
    for (; r + 4 <= x.rows; r += 4) contract_rows(x, g, r, 4, &with, shares, dtype);
    for (; r < x.rows; r++) contract_rows(x, g, r, 1, &with, shares, dtype);
}

static void contract(matrix_of x, const char* g, const contraction* by, idx dtype) {
    if (by->share_sum)
        BY_DTYPE(dtype, contract_of, x, g, by, 1);
    else
        BY_DTYPE(dtype, contract_of, x, g, by, 0);
}

INLINE void dot_row_step(idx l, mask lanes, int kind, const char* const* row, idx n, const SCALAR* factor, vec* sums,
                         int dtype) {
    vec f = kind == SHORT ? read((const char*)factor, 0, n, SHORT, OWN) : load(factor + l);
    for (int i = 0; i < 4; i++) {
        prefetch(row[i] + 4 * (row[1] - row[0]), l, kind, dtype);
        sums[i] += counted(read(row[i], l, n, kind, dtype) * f, lanes, kind);
    }
}

/* sums[r] = the sum of row r times the factors, by column; places[r] = where it first has tops[r]. */
INLINE void dot_rows_of(matrix_of x, const SCALAR* factor, const SCALAR* tops, double* sums, place* places, int dtype) {
    for (idx r = 0; r < x.rows; r += 4) {
        const char* row[4];
        double total[4] = {0};
        for (idx l = 0; l < x.length; l += PIECE) {
            vec piece[4];
            SCALAR out[4];
            for (int i = 0; i < 4; i++) {
                row[i] = x.at + least(r + i, x.rows - 1) * x.stride + l * bytes_of(dtype);
                piece[i] = splat(0);
            }
            SWEEP(least(PIECE, x.length - l), dot_row_step, row, least(PIECE, x.length - l), factor + l, piece, dtype);
            sum_lanes_of_4(piece, out);
            for (int i = 0; i < 4; i++) total[i] += out[i];
        }
        for (idx i = 0; i < least(4, x.rows - r); i++) {
            sums[r + i] = total[i];
            places[r + i] = place_along(x.at + (r + i) * x.stride, x.length, 0, tops[r + i], dtype);
        }
    }
}

INLINE void dot_block_step(idx l, mask lanes, int kind, const char* at, idx stride, idx n, idx first, int count,
                           const vec* factor, const SCALAR* tops, SCALAR* sums, place* rows, int dtype) {
    vec sum = splat(0), top = load(tops + l), row = (vec)((words){0} - 1), before = load((const SCALAR*)rows + l);
    for (int i = count - 1; i >= 0; i--) {
        prefetch(at + (i + count) * stride, l, kind, dtype);
        vec x = read(at + i * stride, l, n, kind, dtype);
        sum += x * factor[i];
        row = where(x == top, (vec)((words){0} + (JOINED(word, SCALAR))(first + i)), row);
    }
    store(sums + l, load(sums + l) + counted(sum, lanes, kind));
    store((SCALAR*)rows + l, where((places)before < 0, row, before));
}

INLINE void dot_block(matrix_of x, const SCALAR* factor, idx first, int count, const SCALAR* tops, SCALAR* sums,
                      place* rows, int dtype) {
    vec factors[4];
    for (int i = 0; i < count; i++) factors[i] = splat(factor[first + i]);
    SWEEP(x.length, dot_block_step, x.at + first * x.stride, x.stride, x.length, first, count, factors, tops, sums,
          rows, dtype);
}

/* The same of columns, of at most TILE, by factors of the rows. Places that are not found stay -1. */
INLINE void dot_columns_of(matrix_of x, const SCALAR* factor, const SCALAR* tops, double* sums, place* rows,
                           int dtype) {
    SCALAR piece[TILE];
    for (idx l = 0; l < TILE; l++) rows[l] = -1, sums[l] = 0;
    for (idx first = 0; first < x.rows; first += TILE) {
        idx r = first, last = least(first + TILE, x.rows);
        memset(piece, 0, sizeof piece);
        for (; r + 4 <= last; r += 4) dot_block(x, factor, r, 4, tops, piece, rows, dtype);
        for (; r < last; r++) dot_block(x, factor, r, 1, tops, piece, rows, dtype);
        for (idx l = 0; l < x.length; l++) sums[l] += piece[l];
    }
}

static void dot_rows(matrix_of x, const SCALAR* factor, const SCALAR* tops, double* sums, place* places, idx dtype) {
    BY_DTYPE(dtype, dot_rows_of, x, factor, tops, sums, places);
}

static void dot_columns(matrix_of x, const SCALAR* factor, const SCALAR* tops, double* sums, place* places, idx dtype) {
    BY_DTYPE(dtype, dot_columns_of, x, factor, tops, sums, places);
}

/* The gradient of x without the maxima's: (g pixel + mean) channel + average + g rest. */
typedef struct {
    const SCALAR *channel, *average; /* by channel: the gate; the gradient of the average, for each pixel */
    const SCALAR *pixel, *mean;      /* by pixel: share times the gate; the gradient of the mean, for each channel */
    SCALAR rest;                     /* 1 - share */
} gradient_factors;

INLINE void gradient_step(idx l, mask lanes, int kind, const char* g, char* dx, idx n, idx r,
                          const gradient_factors* by, int channels_last, int dtype) {
    idx c = channels_last ? l : r, p = channels_last ? r : l;
    vec channel = channels_last ? load(by->channel + c) : splat(by->channel[c]);
    vec average = channels_last ? load(by->average + c) : splat(by->average[c]);
    vec pixel = channels_last ? splat(by->pixel[p]) : load(by->pixel + p);
    vec mean = channels_last ? splat(by->mean[p]) : load(by->mean + p);
    vec v = read(g, l, n, kind, dtype), u = (v * pixel + mean) * channel + average;
    if (by->rest != 0) u += v * by->rest;
    write(dx, l, u, n, kind, dtype);
    (void)lanes;
}

INLINE void gradient_of(matrix_of g, char* dx, const gradient_factors* by, int channels_last, int dtype) {
    gradient_factors with = *by;
    for (idx r = 0; r < g.rows; r++)
        SWEEP(g.length, gradient_step, g.at + r * g.stride, dx + r * g.stride, g.length, r, &with, channels_last,
              dtype);
}

static void input_gradient(matrix_of g, char* dx, const gradient_factors* by, int channels_last, idx dtype) {
    if (channels_last)
        BY_DTYPE(dtype, gradient_of, g, dx, by, 1);
    else
        BY_DTYPE(dtype, gradient_of, g, dx, by, 0);
}
