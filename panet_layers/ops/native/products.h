/* Matrix products C += A B in tiles, with A packed in panels of ROWS rows: as fast as a library's, without its calls. */
#pragma once
#include "transpose.h"

/* A tile has ROWS rows of A and COLUMNS columns of B: its 12 vectors of sums, two of B and one of A fill 16 registers.
   A panel of B has at most DEPTH rows, to stay in the first cache. */
enum { ROWS = 6, COLUMNS = 2 * LANES, DEPTH = 256 };

/* Element (i, j) lies at at[i * row + j * column]; row or column is 1 in a B. */
typedef struct {
    const SCALAR* at;
    idx row, column;
} matrix;

enum { PANEL = DEPTH * COLUMNS }; /* scalars of a panel of B */

/* Scalars of a packed A (rows, depth). */
INLINE idx packed_size(idx rows, idx depth) { return round_up(rows, ROWS) * depth; }
INLINE idx panels_of(idx rows) { return (rows + ROWS - 1) / ROWS; }

/* Where element (i, r) of A lies in a packed A of this depth. */
INLINE idx packed_at(idx i, idx r, idx depth) { return (i / ROWS * depth + r) * ROWS + i % ROWS; }

/* Packs panel `panel` of A (rows, depth), with zeros beyond the rows. */
static inline void pack_rows(matrix a, idx rows, idx depth, idx panel, SCALAR* packed) {
    idx first = panel * ROWS, count = least(ROWS, rows - first);
    SCALAR* to = packed + first * depth;
    for (idx r = 0; r < depth; r++, to += ROWS)
        for (idx i = 0; i < ROWS; i++) to[i] = i < count ? a.at[(first + i) * a.row + r * a.column] : 0;
}

static inline void pack_all_rows(matrix a, idx rows, idx depth, SCALAR* packed) {
    for (idx panel = 0; panel < panels_of(rows); panel++) pack_rows(a, rows, depth, panel, packed);
}

/* Packs `count` columns of B (depth, count), with zeros beyond them. */
static inline void pack_columns(matrix b, idx depth, idx count, SCALAR* to) {
    if (b.row == 1) {
        if (count < COLUMNS) memset(to, 0, depth * COLUMNS * sizeof(SCALAR));
        transpose_block(b.at, b.column, count, depth, to, COLUMNS);
    } else if (count == COLUMNS) {
        for (idx r = 0; r < depth; r++, to += COLUMNS)
            for (idx j = 0; j < COLUMNS; j += LANES) store(to + j, load(b.at + r * b.row + j));
    } else {
        for (idx r = 0; r < depth; r++, to += COLUMNS)
            for (idx j = 0; j < COLUMNS; j++) to[j] = j < count ? b.at[r * b.row + j] : 0;
    }
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

INLINE void add_tile(const SCALAR* tile, idx rows, idx columns, SCALAR* c, idx c_row) {
    if (columns == COLUMNS)
        for (idx i = 0; i < rows; i++, tile += COLUMNS, c += c_row)
            for (idx j = 0; j < COLUMNS; j += LANES) store(c + j, load(c + j) + load(tile + j));
    else
        for (idx i = 0; i < rows; i++, tile += COLUMNS, c += c_row)
            for (idx j = 0; j < columns; j++) c[j] += tile[j];
}

/* C (rows, columns) += A B, for at most COLUMNS columns. Rows of C are c_row apart; `panel`: PANEL scalars of scratch. */
static inline void add_product(const SCALAR* packed, idx rows, matrix b, idx depth, idx columns, SCALAR* c, idx c_row,
                               SCALAR* panel) {
    SCALAR tile[ROWS * COLUMNS];
    for (idx r = 0; r < depth; r += DEPTH) {
        idx now = least(DEPTH, depth - r);
        pack_columns((matrix){b.at + r * b.row, b.row, b.column}, now, columns, panel);
        for (idx p = 0; p < panels_of(rows); p++) {
            multiply_panels(packed + (p * depth + r) * ROWS, panel, now, tile);
            add_tile(tile, least(ROWS, rows - p * ROWS), columns, c + p * ROWS * c_row, c_row);
        }
    }
}
