/* Sums and maxima of a matrix's rows and columns, each number multiplied by a factor. */
#pragma once
#include "scam_rows.h"

enum {
    TILE = 4096,  /* columns whose sums stay in the cache, and rows that are summed before the sum is added to others */
    PIECE = 4096, /* numbers of a row that are summed before the sum is added to one in double */
    BLOCK = 8     /* rows that share a visit of the columns' sums */
};

INLINE void pool_row_step(idx l, mask lanes, int kind, const char* const* row, idx n, const SCALAR* factor, vec* sum,
                          vec* top, int dtype) {
    vec f = !factor ? splat(1) : kind == SHORT ? read((const char*)factor, 0, n, SHORT, OWN) : load(factor + l);
    for (int i = 0; i < 4; i++) {
        prefetch(row[i] + 4 * (row[1] - row[0]), l, kind, dtype);
        vec z = read(row[i], l, n, kind, dtype) * f;
        sum[i] += counted(z, lanes, kind);
        top[i] = larger(z, top[i]);
    }
}

INLINE void pool_4_rows(const char* const* row, idx n, const SCALAR* factor, SCALAR* sums, SCALAR* tops, int dtype) {
    vec sum[4], top[4];
    for (int i = 0; i < 4; i++) sum[i] = splat(0), top[i] = splat(-INFINITY);
    SWEEP(n, pool_row_step, row, n, factor, sum, top, dtype);
    sum_lanes_of_4(sum, sums);
    for (int i = 0; i < 4; i++) tops[i] = largest_lane(top[i]);
}

/* means[r * step], tops[r * step]: of row r times the factors, by column. */
INLINE void pool_rows_of(matrix_of x, const SCALAR* factor, SCALAR* means, SCALAR* tops, int dtype) {
    for (idx r = 0; r < x.rows; r += 4) {
        const char* row[4];
        double total[4] = {0};
        SCALAR best[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
        for (idx l = 0; l < x.length; l += PIECE) {
            SCALAR sums[4], tops_[4];
            for (int i = 0; i < 4; i++) row[i] = x.at + least(r + i, x.rows - 1) * x.stride + l * bytes_of(dtype);
            pool_4_rows(row, least(PIECE, x.length - l), factor ? factor + l : 0, sums, tops_, dtype);
            for (int i = 0; i < 4; i++) total[i] += sums[i], best[i] = tops_[i] > best[i] ? tops_[i] : best[i];
        }
        for (idx i = 0; i < least(4, x.rows - r); i++) {
            means[r + i] = total[i] / x.length;
            tops[r + i] = best[i];
            if (!(total[i] - total[i] == 0)) /* maybe NaN, which the comparisons above pass over */
                tops[r + i] = exact_maximum(x.at + (r + i) * x.stride, bytes_of(dtype), x.length, factor, dtype);
        }
    }
}

INLINE void pool_block_step(idx l, mask lanes, int kind, const char* at, idx stride, idx n, int count,
                            const vec* factor, SCALAR* sums, SCALAR* tops, int dtype) {
    vec sum[BLOCK], top[BLOCK];
    for (int i = 0; i < count; i++) {
        prefetch(at + (i + count) * stride, l, kind, dtype);
        sum[i] = read(at + i * stride, l, n, kind, dtype);
        if (factor) sum[i] *= factor[i];
        top[i] = sum[i];
    }
    for (int step = count / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) sum[i] += sum[i + step], top[i] = larger(top[i], top[i + step]);
    store(sums + l, load(sums + l) + counted(sum[0], lanes, kind));
    store(tops + l, larger(top[0], load(tops + l)));
}

INLINE void pool_block(const char* at, idx stride, idx n, int count, const SCALAR* factor, SCALAR* sums, SCALAR* tops,
                       int dtype) {
    vec factors[BLOCK];
    for (int i = 0; i < count; i++) factors[i] = splat(factor ? factor[i] : 1);
    SWEEP(n, pool_block_step, at, stride, n, count, factor ? factors : 0, sums, tops, dtype);
}

/* means[l], tops[l]: of column l, of at most TILE, times the factors, by row. */
INLINE void pool_columns_of(matrix_of x, const SCALAR* factor, SCALAR* means, SCALAR* tops, int dtype) {
    SCALAR total[TILE], sums[TILE], best[TILE], unsure = 0;
    idx n = x.length;
    for (idx l = 0; l < TILE; l++) total[l] = 0, best[l] = -INFINITY;
    for (idx first = 0; first < x.rows; first += TILE) {
        idx r = first, last = least(first + TILE, x.rows);
        memset(sums, 0, sizeof sums);
        for (; r + BLOCK <= last; r += BLOCK)
            pool_block(x.at + r * x.stride, x.stride, n, BLOCK, factor ? factor + r : 0, sums, best, dtype);
        for (; r < last; r++)
            pool_block(x.at + r * x.stride, x.stride, n, 1, factor ? factor + r : 0, sums, best, dtype);
        for (idx l = 0; l < n; l++) total[l] += sums[l];
    }
#pragma omp simd reduction(+ : unsure)
    for (idx l = 0; l < n; l++) unsure += total[l] - total[l];
    if (!(unsure == 0)) /* maybe NaN, which the comparisons above pass over */
        for (idx l = 0; l < n; l++)
            if (!(total[l] - total[l] == 0))
                best[l] = exact_maximum(x.at + l * bytes_of(dtype), x.stride, x.rows, factor, dtype);
    for (idx l = 0; l < n; l++) means[l] = total[l] / x.rows;
    memcpy(tops, best, n * sizeof(SCALAR));
}

static void pool_rows(matrix_of x, const SCALAR* factor, SCALAR* means, SCALAR* tops, idx dtype) {
    if (factor)
        BY_DTYPE(dtype, pool_rows_of, x, factor, means, tops);
    else
        BY_DTYPE(dtype, pool_rows_of, x, 0, means, tops);
}

static void pool_columns(matrix_of x, const SCALAR* factor, SCALAR* means, SCALAR* tops, idx dtype) {
    if (factor)
        BY_DTYPE(dtype, pool_columns_of, x, factor, means, tops);
    else
        BY_DTYPE(dtype, pool_columns_of, x, 0, means, tops);
}
