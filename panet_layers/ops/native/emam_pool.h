/* EMAM's forward, what it begins with: the means of the sides, and the windows. */
#pragma once
#include "emam_sides.h"
#include "runs.h"

typedef struct {
    emam e;
    SCALAR *p, *taps, *w1; /* softmax(beta) (K), p w3 (K, 9), w1 packed */
    SCALAR* windows;       /* of the block's instances, packed (block, 9 K) */
    SCALAR* constant;      /* (block): what all pixels of an instance add to y */
    SCALAR *own, p_b3;     /* scratch of the threads */
    idx own_size, first, last, block;
} emam_forward;

enum { SUMMED = 64 }; /* numbers that are added one after the other, before their sum is added to a longer one */

/* `add_sides`, where a column's sum is added in parts; `part`: round_up(W, LANES) scalars of scratch. */
static void add_long_sides(const SCALAR* x, idx rows, idx W, SCALAR* row, SCALAR* column, SCALAR* part) {
    idx wide = round_up(W, LANES);
    for (idx h = 0; h < rows; h += 4 * SUMMED) {
        memset(part, 0, wide * sizeof(SCALAR));
        add_sides(x + h * W, least(4 * SUMMED, rows - h), W, row + h, part);
        for (idx w = 0; w < wide; w += LANES) store(column + w, load(column + w) + load(part + w));
    }
}

static idx pool_scratch(const emam* e) {
    return PLANES * (e->H + round_up(e->W, LANES) + 4) + round_up(e->W, LANES) +
           tile_size(e->x.channels_last, PLANES, strip_pixels(e));
}

static void pool_planes(const void* job, idx item, SCALAR* own) {
    const emam_forward* f = job;
    const emam* e = &f->e;
    idx H = e->H, W = e->W, wide = round_up(W, LANES), n = f->first + item / plane_blocks(e);
    idx first = item % plane_blocks(e) * PLANES, planes = least(PLANES, e->K - first);
    SCALAR *row = own, *column = row + PLANES * H, *corners = column + PLANES * wide, *part = corners + PLANES * 4,
           *copy = part + wide;
    memset(column, 0, PLANES * wide * sizeof(SCALAR));
    for (idx h = 0; h < H; h += e->strip) {
        idx rows = least(e->strip, H - h);
        tile t = open_tile(&e->x, n * e->K + first, planes, h * W, rows * W, copy);
        for (idx c = 0; c < planes; c++) {
            const SCALAR* x = plane_of(&t, c);
            add_long_sides(x, rows, W, row + c * H + h, column + c * wide, part);
            if (h == 0) corners[4 * c] = x[0], corners[4 * c + 1] = x[W - 1];
            if (h + rows == H) corners[4 * c + 2] = x[(rows - 1) * W], corners[4 * c + 3] = x[rows * W - 1];
        }
    }
    SCALAR of_row = (SCALAR)1 / W, of_column = (SCALAR)1 / H;
    for (idx c = 0; c < planes; c++) {
        SCALAR* means = e->means + (n * e->K + first + c) * e->L;
        for (idx h = 0; h < H; h++) means[h] = row[c * H + h] * of_row;
        for (idx w = 0; w < W; w++) means[H + w] = column[c * wide + w] * of_column;
        for (idx i = H + W; i < e->L; i++) means[i] = 0;
        SCALAR* windows = f->windows + packed_at(n - f->first, 9 * (first + c), 9 * e->K);
        window_means(means, corners + 4 * c, H, W, windows, ROWS);
    }
}

/* The same in channels_last, for a run of channels: nothing is transposed but the results. */
static idx pool_runs_scratch(const emam* e) { return RUN * (e->H + 2 * e->W + 1); }

/* Adds n numbers to sums, which become zeros. */
INLINE void move_run(SCALAR* from, idx n, SCALAR* sums) {
    add_run(from, n, sums);
    memset(from, 0, n * sizeof(SCALAR));
}

static void pool_runs(const void* job, idx item, SCALAR* own) {
    const emam_forward* f = job;
    const emam* e = &f->e;
    idx H = e->H, W = e->W, runs = (e->K + RUN - 1) / RUN, n = f->first + item / runs, first = item % runs * RUN;
    idx planes = least(RUN, e->K - first), plane = n * e->K + first;
    SCALAR *row = own, *column = row + H * planes, *of_rows = column + W * planes, *of_pixels = of_rows + W * planes;
    SCALAR copy[RUN];
    memset(own, 0, (H + 2 * W + 1) * planes * sizeof(SCALAR));
    const char* from = run_at(&e->x, plane, 0);
    for (idx h = 0; h < H; h++) {
        for (idx w = 0; w < W; w++, from += run_step(&e->x)) {
            expect_run(from + AHEAD * run_step(&e->x), planes * number_bytes(&e->x));
            const SCALAR* x = read_run(&e->x, from, planes, copy);
            add_run(x, planes, of_pixels);
            add_run(x, planes, of_rows + w * planes);
            if (w % SUMMED == SUMMED - 1 || w == W - 1) move_run(of_pixels, planes, row + h * planes);
        }
        if (h % SUMMED == SUMMED - 1 || h == H - 1) move_run(of_rows, W * planes, column);
    }
    SCALAR *means = e->means + plane * e->L, *windows = f->windows + packed_at(n - f->first, 9 * first, 9 * e->K);
    transpose_block(row, planes, H, planes, means, e->L);
    transpose_block(column, planes, W, planes, means + H, e->L);
    for (idx c = 0; c < planes; c++, means += e->L) {
        SCALAR corners[4];
        for (int i = 0; i < 4; i++) {
            idx pixel = i / 2 * (H - 1) * W + i % 2 * (W - 1);
            corners[i] = *read_run(&e->x, run_at(&e->x, plane + c, pixel), 1, copy);
        }
        for (idx i = 0; i < H; i++) means[i] *= (SCALAR)1 / W;
        for (idx i = H; i < H + W; i++) means[i] *= (SCALAR)1 / H;
        for (idx i = H + W; i < e->L; i++) means[i] = 0;
        window_means(means, corners, H, W, windows + c * 9 * ROWS, ROWS);
    }
}
