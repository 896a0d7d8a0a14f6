/* The sums of rows and columns, the sums that the taps of a 3x3 kernel read, and the products with EMAM's sides. */
#pragma once
#include "emam.h"

/* Sums of rows to row[0..rows), sums of columns added to column[0..round_up(W, LANES)). Reads may pass the end. */
static void add_sides(const SCALAR* x, idx rows, idx W, SCALAR* row, SCALAR* column) {
    idx full = (W - 1) / LANES * LANES, h = 0; /* the last vector of a row, which may be a full one, is masked */
    mask last = first_lanes(W - full);
    for (; h + 4 <= rows; h += 4) {
        const SCALAR *x0 = x + h * W, *x1 = x0 + W, *x2 = x1 + W, *x3 = x2 + W;
        vec s0 = splat(0), s1 = s0, s2 = s0, s3 = s0;
        for (idx w = 0; w < full; w += LANES) {
            vec a = load(x0 + w), b = load(x1 + w), c = load(x2 + w), d = load(x3 + w);
            s0 += a, s1 += b, s2 += c, s3 += d;
            store(column + w, load(column + w) + ((a + b) + (c + d)));
        }
        vec a = only(last, load(x0 + full)), b = only(last, load(x1 + full));
        vec c = only(last, load(x2 + full)), d = only(last, load(x3 + full));
        store(column + full, load(column + full) + ((a + b) + (c + d)));
        sum_lanes_of_4((vec[]){s0 + a, s1 + b, s2 + c, s3 + d}, row + h);
    }
    for (; h < rows; h++) {
        const SCALAR* x0 = x + h * W;
        vec s = splat(0);
        for (idx w = 0; w < full; w += LANES) {
            vec a = load(x0 + w);
            s += a;
            store(column + w, load(column + w) + a);
        }
        vec a = only(last, load(x0 + full));
        store(column + full, load(column + full) + a);
        row[h] = sum_lanes(s + a);
    }
}

/* The border that tap k = 3 ky + kx does not read: row (-1: none) and column of a 3x3 kernel's windows. */
INLINE idx unread_row(int k, idx H) { return k / 3 == 0 ? H - 1 : k / 3 == 2 ? 0 : -1; }
INLINE idx unread_column(int k, idx W) { return k % 3 == 0 ? W - 1 : k % 3 == 2 ? 0 : -1; }

/* A plane's corners, in the order above left, above right, below left, below right. */
INLINE int corner_of(idx h, idx w) { return 2 * (h > 0) + (w > 0); }

/* S / P of all nine taps, to out[0], out[step], ... The row above is not read by the lowest pixels' windows, and so on. */
static void window_means(const SCALAR* means, const SCALAR corners[4], idx H, idx W, SCALAR* out, idx step) {
    SCALAR of_row = (SCALAR)1 / H, of_column = (SCALAR)1 / W, of_pixel = of_row * of_column;
    SCALAR mean = sum_of(means, H) * of_row, top = mean - means[0] * of_row, bottom = mean - means[H - 1] * of_row;
    SCALAR left = means[H] * of_column, right = means[H + W - 1] * of_column;
    out[0] = bottom - right + corners[3] * of_pixel;
    out[step] = bottom;
    out[2 * step] = bottom - left + corners[2] * of_pixel;
    out[3 * step] = mean - right;
    out[4 * step] = mean;
    out[5 * step] = mean - left;
    out[6 * step] = top - right + corners[1] * of_pixel;
    out[7 * step] = top;
    out[8 * step] = top - left + corners[0] * of_pixel;
}

/* Vector v of the sides of all instances (N, K, L): LANES columns of the first plane's row; other planes lie L apart. */
INLINE SCALAR* side_vector(SCALAR* sides, const emam* e, idx v) {
    idx each = e->L / LANES;
    return sides + v / each * e->K * e->L + v % each * LANES;
}

/* Vectors v and, below `end`, v + 1 of `to` become bias + A from, where A (K, K) is packed and bias may be NULL. */
static void multiply_sides(const emam* e, const SCALAR* packed, SCALAR* from, const SCALAR* bias, SCALAR* to, idx v,
                           idx end, SCALAR* panel) {
    SCALAR tile[ROWS * COLUMNS];
    idx K = e->K, L = e->L, other = v + 1 < end ? v + 1 : v;
    SCALAR *f0 = side_vector(from, e, v), *f1 = side_vector(from, e, other);
    SCALAR *t0 = side_vector(to, e, v), *t1 = side_vector(to, e, other);
    for (idx r = 0; r < K; r += DEPTH) {
        idx now = least(DEPTH, K - r);
        for (idx i = 0; i < now; i++) {
            store(panel + i * COLUMNS, load(f0 + (r + i) * L));
            store(panel + i * COLUMNS + LANES, load(f1 + (r + i) * L));
        }
        for (idx k = 0; k < K; k += ROWS) {
            multiply_panels(packed + k * K + r * ROWS, panel, now, tile);
            for (idx i = 0; i < least(ROWS, K - k); i++) {
                idx at = (k + i) * L;
                vec s0 = r ? load(t0 + at) : splat(bias ? bias[k + i] : 0), s1 = r ? load(t1 + at) : s0;
                store(t0 + at, s0 + load(tile + i * COLUMNS));
                store(t1 + at, s1 + load(tile + i * COLUMNS + LANES));
            }
        }
    }
}

/* taps (9 K) = p w3. */
static void mix_taps(const SCALAR* p, const SCALAR* w3, idx K, SCALAR* taps) {
    memset(taps, 0, 9 * K * sizeof(SCALAR));
    for (idx k = 0; k < K; k++) {
        SCALAR weight = p[k];
#pragma omp simd
        for (idx i = 0; i < 9 * K; i++) taps[i] += weight * w3[k * 9 * K + i];
    }
}
