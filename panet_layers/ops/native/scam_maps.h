/* The k x k convolution of the two pixel maps, zero outside them, and its gradients, some rows of a map at a time. */
#pragma once
#include "vectors.h"

enum { SPAN = 8 * LANES, TAPS = 4 }; /* outputs, and taps, that are summed at a time, in registers */

/* Rows [first, last) of the outputs. In memory, inputs have `reach` zeros around them; outputs have rows as long. */
typedef struct {
    idx height, width, kernel, reach, first, last, row, outputs, size; /* size: scalars of a padded input */
} window;

static window window_of(idx height, idx width, idx kernel, idx first, idx last) {
    idx reach = kernel / 2, row = width + 2 * reach, outputs = round_up((last - first) * row, SPAN);
    return (window){height, width,   kernel,
                    reach,  first,   last,
                    row,    outputs, outputs + round_up(2 * reach * row + kernel + TAPS + LANES, LANES)};
}

/* Copies a map's rows that the window's outputs read. */
static void pad(const window* w, const SCALAR* map, SCALAR* to) {
    memset(to, 0, w->size * sizeof(SCALAR));
    for (idx h = w->first - w->reach; h < w->last + w->reach; h++)
        if (h >= 0 && h < w->height)
            memcpy(to + (h - w->first + w->reach) * w->row + w->reach, map + h * w->width, w->width * sizeof(SCALAR));
}

static void copy_outputs(const window* w, const SCALAR* from, SCALAR factor, SCALAR* map) {
    for (idx h = w->first; h < w->last; h++)
        for (idx i = 0; i < w->width; i++) map[h * w->width + i] = from[(h - w->first) * w->row + i] * factor;
}

/* out (w->outputs): of `inputs` padded maps, one after the other, by as many k x k weights. */
static void convolve(const window* w, const SCALAR* from, int inputs, const SCALAR* weight, SCALAR* out) {
    idx k = w->kernel;
    for (idx i = 0; i < w->outputs; i += SPAN) {
        vec sum[8];
        for (int j = 0; j < 8; j++) sum[j] = splat(0);
        for (int m = 0; m < inputs; m++)
            for (idx y = 0; y < k; y++) {
                const SCALAR *row = from + m * w->size + y * w->row + i, *tap = weight + (m * k + y) * k;
                for (idx x = 0; x < k; x++) {
                    vec t = splat(tap[x]);
                    for (int j = 0; j < 8; j++) sum[j] += t * load(row + x + j * LANES);
                }
            }
        for (int j = 0; j < 8; j++) store(out + i + j * LANES, sum[j]);
    }
}

INLINE void correlate_taps(const SCALAR* d, const SCALAR* map, idx n, SCALAR* sums) {
    vec sum[TAPS], other[TAPS];
    for (int j = 0; j < TAPS; j++) sum[j] = other[j] = splat(0);
    idx i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vec a = load(d + i), b = load(d + i + LANES);
        for (int j = 0; j < TAPS; j++) {
            sum[j] += a * load(map + i + j);
            other[j] += b * load(map + i + LANES + j);
        }
    }
    for (; i < n; i += LANES) {
        vec a = n - i < LANES ? only(first_lanes(n - i), load(d + i)) : load(d + i);
        for (int j = 0; j < TAPS; j++) sum[j] += a * load(map + i + j);
    }
    for (int j = 0; j < TAPS; j++) sum[j] += other[j];
    sum_lanes_of_4(sum, sums);
}

/* dweight (k, k): the sums over the window's outputs of d, the padded gradient, times what each tap reads. */
static void correlate(const window* w, const SCALAR* d, const SCALAR* map, SCALAR* dweight) {
    idx k = w->kernel, n = (w->last - w->first) * w->row - 2 * w->reach;
    d += w->reach * w->row + w->reach;
    for (idx y = 0; y < k; y++)
        for (idx x = 0; x < k; x += TAPS) {
            SCALAR sums[TAPS];
            correlate_taps(d, map + y * w->row + x, n, sums);
            for (idx j = 0; j < least(TAPS, k - x); j++) dweight[y * k + x + j] = sums[j];
        }
}

/* The same without products of padding, which are NaN where a number is not finite. */
static void correlate_inside(const window* w, const SCALAR* d, const SCALAR* map, SCALAR* dweight) {
    idx k = w->kernel, r = w->reach;
    for (idx y = 0; y < k; y++)
        for (idx x = 0; x < k; x++) {
            SCALAR sum = 0;
            for (idx h = w->first; h < w->last; h++) {
                const SCALAR *a = d + (h - w->first + r) * w->row + r, *b = map + (h - w->first + y) * w->row + x;
                if (h + y < r || h + y - r >= w->height) continue;
                for (idx i = 0; i < w->width; i++)
                    if (i + x >= r && i + x - r < w->width) sum += a[i] * b[i];
            }
            dweight[y * k + x] = sum;
        }
}

static int all_finite(const SCALAR* v, idx n) {
    SCALAR unsure = 0;
#pragma omp simd reduction(+ : unsure)
    for (idx i = 0; i < n; i++) unsure += v[i] - v[i];
    return unsure == 0;
}
