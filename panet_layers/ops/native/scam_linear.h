/* Products of the channels' two linear layers, whose result does not depend on how many are computed at a time. */
#pragma once
#include "scam_rows.h"

INLINE void dot_step(idx l, mask lanes, int kind, const SCALAR* const* w, const SCALAR* const* v, int count, idx n,
                     vec sum[2][4]) {
    for (int i = 0; i < 2; i++) {
        vec a = read((const char*)w[i], l, n, kind, OWN);
        for (int j = 0; j < count; j++) sum[i][j] += counted(a * read((const char*)v[j], l, n, kind, OWN), lanes, kind);
    }
}

/* out[i * 4 + j] = <w[i], v[j]>: two weights' rows with `count` vectors. */
INLINE void dots(const SCALAR* const* w, const SCALAR* const* v, int count, idx n, SCALAR* out) {
    vec sum[2][4];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++) sum[i][j] = splat(0);
    SWEEP(n, dot_step, w, v, count, n, sum);
    for (int i = 0; i < 2; i++) sum_lanes_of_4(sum[i], out + 4 * i);
}

/* out[j * out_row + r] = <row r of the weight (., depth), vector j of (count, depth)>, for the rows [first, last). */
static void multiply_rows(const SCALAR* weight, idx depth, idx first, idx last, const SCALAR* vectors, idx count,
                          SCALAR* out, idx out_row) {
    for (idx r = first; r < last; r += 2)
        for (idx j = 0; j < count; j += 4) {
            const SCALAR *w[2], *v[4];
            SCALAR sums[8];
            for (int i = 0; i < 2; i++) w[i] = weight + least(r + i, last - 1) * depth;
            for (int i = 0; i < 4; i++) v[i] = vectors + least(j + i, count - 1) * depth;
            if (count - j > 2)
                dots(w, v, 4, depth, sums);
            else
                dots(w, v, 2, depth, sums);
            for (idx i = 0; i < least(2, last - r); i++)
                for (idx n = 0; n < least(4, count - j); n++) out[(j + n) * out_row + r + i] = sums[4 * i + n];
        }
}

/* Rows [i, i + rows) and `vectors` vectors of columns from j on of the product below. */
INLINE void product_tile(const SCALAR* a, idx a_row, idx a_column, int rows, int vectors, const SCALAR* b, idx b_row,
                         idx depth, SCALAR* c, idx c_row) {
    vec sum[4][2];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) sum[i][j] = splat(0);
    for (idx k = 0; k < depth; k++)
        for (int i = 0; i < rows; i++) {
            vec s = splat(a[i * a_row + k * a_column]);
            for (int j = 0; j < vectors; j++) sum[i][j] += s * load(b + k * b_row + j * LANES);
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors; j++) store(c + i * c_row + j * LANES, sum[i][j]);
}

INLINE void product_columns(const SCALAR* a, idx a_row, idx a_column, idx rows, int vectors, const SCALAR* b, idx b_row,
                            idx depth, SCALAR* c, idx c_row) {
    idx i = 0;
    for (; i + 4 <= rows; i += 4)
        product_tile(a + i * a_row, a_row, a_column, 4, vectors, b, b_row, depth, c + i * c_row, c_row);
    for (; i < rows; i++)
        product_tile(a + i * a_row, a_row, a_column, 1, vectors, b, b_row, depth, c + i * c_row, c_row);
}

/* C (rows, columns) = A (rows, depth; any strides) B (depth, columns), for the columns [first, last). */
static void multiply_columns(const SCALAR* a, idx a_row, idx a_column, idx rows, const SCALAR* b, idx b_row, idx depth,
                             idx first, idx last, SCALAR* c, idx c_row) {
    idx j = first;
    for (; j + 2 * LANES <= last; j += 2 * LANES)
        product_columns(a, a_row, a_column, rows, 2, b + j, b_row, depth, c + j, c_row);
    for (; j + LANES <= last; j += LANES)
        product_columns(a, a_row, a_column, rows, 1, b + j, b_row, depth, c + j, c_row);
    if (j < last && last - first >= LANES) {
        product_columns(a, a_row, a_column, rows, 1, b + last - LANES, b_row, depth, c + last - LANES, c_row);
        return;
    }
    for (; j < last; j++)
        for (idx i = 0; i < rows; i++) {
            SCALAR sum = 0;
            for (idx k = 0; k < depth; k++) sum += a[i * a_row + k * a_column] * b[k * b_row + j];
            c[i * c_row + j] = sum;
        }
}
