/* Transposition of small blocks, by vectors. */
#pragma once
#include "vectors.h"

/* Transposes LANES vectors in registers: log2(LANES) times, the lower half of them interleaved with the upper. */
INLINE void transpose(vec v[LANES]) {
    for (int step = 1; step < LANES; step *= 2) {
        vec from[LANES];
        for (int i = 0; i < LANES; i++) from[i] = v[i];
        for (int i = 0; i < LANES / 2; i++) interleave(from[i], from[i + LANES / 2], v + 2 * i, v + 2 * i + 1);
    }
}

/* `rows` rows of `columns` numbers -> columns rows: to[j * to_row + i] = from[i * from_row + j]. */
static inline void transpose_block(const SCALAR* from, idx from_row, idx rows, idx columns, SCALAR* to, idx to_row) {
    idx i = 0;
    for (; i + LANES <= rows; i += LANES) {
        idx j = 0;
        for (; j + LANES <= columns; j += LANES) {
            vec v[LANES];
            for (int k = 0; k < LANES; k++) v[k] = load(from + (i + k) * from_row + j);
            transpose(v);
            for (int k = 0; k < LANES; k++) store(to + (j + k) * to_row + i, v[k]);
        }
        for (; j < columns; j++)
            for (int k = 0; k < LANES; k++) to[j * to_row + i + k] = from[(i + k) * from_row + j];
    }
    for (; i < rows; i++)
        for (idx j = 0; j < columns; j++) to[j * to_row + i] = from[i * from_row + j];
}
