/* Matrix products C += A B, with A packed in panels of ROWS rows, for products that are too small for a library's overhead. */
#pragma once
#include "vectors.h"

enum {
    ROWS = 6,                /* of A and C in a tile */
    COLUMNS = 2 * LANES,     /* of B and C in a tile: 12 accumulators, a vector of B each and one of A fill 16 registers */
    DEPTH = 256              /* of a panel of B that stays in the first cache */
};

/* Element (i, j) of a matrix lies at at[i * row + j * column]. */
typedef struct {
    const SCALAR* at;
    idx row, column;
} matrix;

enum { PANEL = DEPTH * COLUMNS }; /* scalars of a panel of B */

/* Scalars of a packed A (rows, depth). */
INLINE idx packed_size(idx rows, idx depth) { return round_up(rows, ROWS) * depth; }

/* Packs panel `panel` of A (rows, depth): depth after depth, ROWS numbers each, zeros beyond the rows. */
static void pack_rows(matrix a, idx rows, idx depth, idx panel, SCALAR* to) {
    idx first = panel * ROWS, count = least(ROWS, rows - first);
    to += first * depth;
    for (idx r = 0; r < depth; r++, to += ROWS)
        for (idx i = 0; i < ROWS; i++) to[i] = i < count ? a.at[(first + i) * a.row + r * a.column] : 0;
}

static void pack_columns(matrix b, idx depth, idx count, SCALAR* to) {
    if (b.column == 1 && count == COLUMNS) {
        for (idx r = 0; r < depth; r++, to += COLUMNS)
            for (idx j = 0; j < COLUMNS; j += LANES) store(to + j, load(b.at + r * b.row + j));
        return;
    }
    for (idx r = 0; r < depth; r++, to += COLUMNS)
        for (idx j = 0; j < COLUMNS; j++) to[j] = j < count ? b.at[r * b.row + j * b.column] : 0;
}

/* tile (ROWS, COLUMNS) = a panel of A times a panel of B. */
INLINE void multiply_panels(const SCALAR* a, const SCALAR* b, idx depth, SCALAR* tile) {
    vec c[ROWS][2];
    for (int i = 0; i < ROWS; i++) c[i][0] = c[i][1] = splat(0);
    for (idx r = 0; r < depth; r++, a += ROWS, b += COLUMNS) {
        vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; i++) {
            vec s = splat(a[i]);
            c[i][0] += s * b0;
            c[i][1] += s * b1;
        }
    }
    for (int i = 0; i < ROWS; i++) {
        store(tile + i * COLUMNS, c[i][0]);
        store(tile + i * COLUMNS + LANES, c[i][1]);
    }
}

INLINE void add_tile(const SCALAR* tile, idx rows, idx columns, SCALAR* c, idx c_row, idx c_column) {
    if (columns == COLUMNS && c_column == 1) {
        for (idx i = 0; i < rows; i++, tile += COLUMNS, c += c_row)
            for (idx j = 0; j < COLUMNS; j += LANES) store(c + j, load(c + j) + load(tile + j));
        return;
    }
    for (idx i = 0; i < rows; i++)
        for (idx j = 0; j < columns; j++) c[i * c_row + j * c_column] += tile[i * COLUMNS + j];
}

/* C (rows of the panels [first, last), columns) += A B; `columns` at most COLUMNS, `panel`: PANEL scalars of scratch. */
static void add_product(const SCALAR* packed, idx rows, idx first, idx last, matrix b, idx depth, idx columns, SCALAR* c,
                        idx c_row, idx c_column, SCALAR* panel) {
    SCALAR tile[ROWS * COLUMNS];
    for (idx r = 0; r < depth; r += DEPTH) {
        idx now = least(DEPTH, depth - r);
        matrix part = {b.at + r * b.row, b.row, b.column};
        pack_columns(part, now, columns, panel);
        for (idx p = first; p < last; p++) {
            multiply_panels(packed + p * ROWS * depth + r * ROWS, panel, now, tile);
            add_tile(tile, least(ROWS, rows - p * ROWS), columns, c + p * ROWS * c_row, c_row, c_column);
        }
    }
}
