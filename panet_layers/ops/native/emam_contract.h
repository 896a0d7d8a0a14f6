/* EMAM's backward, what is summed: delta over the channels, then over the pixels its products with a plane. */
#pragma once
#include "emam_sides.h"
#include "runs.h"

typedef struct {
    emam e;
    SCALAR *p, *dp, *taps, *w1; /* softmax(beta) and its gradient (K), p w3 (K, 9), w1^T packed */
    double *totals, *dgamma, *dbeta, *db1, *db3,
        *taps_total; /* over all instances; dbeta without softmax(beta)'s part */
    double d_total, share_total;
    /* Of the block's instances: */
    SCALAR *delta, *d;                      /* (P), and its sum */
    double* share_sums;                     /* (pieces of delta): of what the share's gradient is */
    SCALAR *dpre, *dmeans;                  /* (K, L): before the gates' sigmoid, and of the means */
    SCALAR* dpre_rows;                      /* dpre packed, in the memory of dmeans, which follows */
    SCALAR *h, *dm, *dpre_sums;             /* (K): rstd sum of (t - mu) delta; before the softmax of q; sums of dpre */
    SCALAR *taps_sums, *windows, *dwindows; /* (K, 9): x with delta's neighbours; S / P and its gradient times P */
    SCALAR *dm_rows, *dm_columns;           /* dm, dm^T packed */
    SCALAR* own;
    idx own_size, first, last, block;
    int borrows; /* whether dpre, taps_sums and windows lie where the gradient of the input will be written */
} emam_backward;

/* ---- delta ---- */

enum { PIECE = 4096 }; /* pixels of delta that stay in the first cache */

INLINE idx delta_pieces(const emam* e) { return (e->P + PIECE - 1) / PIECE; }
static idx delta_scratch(const emam* e) { return PIECE + LANES + 2 * tile_stride(PIECE); }

/* delta = share gate (1 - gate) sum over the channels of x grad. */
static void find_delta(const emam_backward* b, idx n, idx piece, SCALAR* own) {
    const emam* e = &b->e;
    idx K = e->K, p = piece * PIECE, pixels = least(PIECE, e->P - p), plane = (b->first + n) * K;
    SCALAR *sum = own, *copy = own + PIECE + LANES;
    if (e->x.channels_last) {
        dot_runs(&e->x, &e->grad, plane, K, p, pixels, sum);
    } else {
        tile x = open_tile(&e->x, plane, K, p, pixels, copy);
        tile grad = open_tile(&e->grad, plane, K, p, pixels, copy + tile_stride(PIECE));
        memset(sum, 0, pixels * sizeof(SCALAR));
        for (idx c = 0; c < K; c++) {
            const SCALAR* restrict xc = plane_of(&x, c), * restrict gc = plane_of(&grad, c);
            for (idx i = 0; i < pixels; i += LANES) store(sum + i, load(sum + i) + load(xc + i) * load(gc + i));
        }
    }
    const SCALAR* gate = e->gate + (b->first + n) * e->P + p;
    SCALAR* delta = b->delta + n * e->P + p;
    SCALAR share = e->call.share;
    for (idx i = 0; i < pixels; i++) delta[i] = gate[i] * (1 - gate[i]) * (share * sum[i]);
    if (!e->call.dshare) return;
    double of_share = 0;
#pragma omp simd reduction(+ : of_share)
    for (idx i = 0; i < pixels; i++) of_share += (double)sum[i] * (gate[i] - 1);
    b->share_sums[n * delta_pieces(e) + piece] = of_share;
}

static void delta_item(const void* job, idx item, SCALAR* own) {
    const emam_backward* b = job;
    find_delta(b, item / delta_pieces(&b->e), item % delta_pieces(&b->e), own);
}

static void sum_delta(const void* job, idx n, SCALAR* own) {
    const emam_backward* b = job;
    double sum = 0;
    for (idx p = 0; p < b->e.P; p += PIECE) sum += sum_of(b->delta + n * b->e.P + p, least(PIECE, b->e.P - p));
    b->d[n] = sum;
}

/* ---- neighbours ---- */

/* Some rows of delta at their own pixels, and with each pixel's left and right neighbour; zeros outside the map. A row
   above and one below precede and follow. */
typedef struct {
    const SCALAR *left, *middle, *right;
} neighbours;

static idx near_scratch(const emam* e) { return 3 * (round_up((e->strip + 2) * e->W, LANES) + 3 * LANES); }

static neighbours neighbours_of(const SCALAR* delta, idx h, idx rows, idx H, idx W, SCALAR* own) {
    idx size = round_up((rows + 2) * W, LANES) + 3 * LANES, above = h > 0, below = h + rows < H;
    idx from = (1 - above) * W, count = (above + rows + below) * W; /* what exists of the rows + 2 */
    SCALAR *left = own + LANES, *middle = left + size, *right = middle + size;
    memset(own, 0, 3 * size * sizeof(SCALAR));
    delta += (h - above) * W;
    memcpy(middle + from, delta, count * sizeof(SCALAR));
    memcpy(left + from + 1, delta, (count - 1) * sizeof(SCALAR));
    memcpy(right + from, delta + 1, (count - 1) * sizeof(SCALAR));
    for (idx r = 0; r < rows + 2; r++) left[r * W] = right[r * W + W - 1] = 0;
    return (neighbours){left + W, middle + W, right + W};
}

/* ---- contractions over the pixels of a plane ---- */

static void outer_product(const SCALAR* a, const SCALAR* d, idx rows, idx W, SCALAR* ad) {
    for (idx h = 0; h < rows; h++, ad += W) {
        vec ah = splat(a[h]);
        for (idx w = 0; w < W; w += LANES) store(ad + w, ah * load(d + w));
    }
}

/* Adds the sums of x times delta's nine neighbours, and of (x ad - mu)(delta - level), over n pixels. Tap (ky, kx) reads x one
   row up for ky = 0 and one column left for kx = 0, where delta lies one down and to the right. */
static void add_tap_sums(const SCALAR* x, const SCALAR* ad, const neighbours* near, SCALAR mu, SCALAR level, idx n,
                         idx W, SCALAR sums[9], SCALAR* centred) {
    const SCALAR *l = near->right, *m = near->middle, *r = near->left;
    vec zero = splat(0), e0 = zero, e1 = zero, e2 = zero, e3 = zero, e4 = zero, e5 = zero, e6 = zero, e7 = zero,
        e8 = zero;
    vec h = zero, mean = splat(level), middle = splat(mu);
    for (idx p = 0; p < n; p += LANES) {
        vec v = load(x + p), t = v * load(ad + p) - middle, delta = load(m + p);
        if (p + LANES > n) {
            mask rest = first_lanes(n - p);
            v = only(rest, v), t = only(rest, t);
        }
        e0 += v * load(l + p + W), e1 += v * load(m + p + W), e2 += v * load(r + p + W);
        e3 += v * load(l + p), e4 += v * delta, e5 += v * load(r + p);
        e6 += v * load(l + p - W), e7 += v * load(m + p - W), e8 += v * load(r + p - W);
        h += t * (delta - mean);
    }
    SCALAR found[12];
    sum_lanes_of_4((vec[]){e0, e1, e2, e3}, found);
    sum_lanes_of_4((vec[]){e4, e5, e6, e7}, found + 4);
    sum_lanes_of_4((vec[]){e8, h, zero, zero}, found + 8);
    for (int k = 0; k < 9; k++) sums[k] += found[k];
    *centred += found[9];
}

/* How dt depends on t and delta: dt = kappa (delta - level) + slope (t - mu). */
typedef struct {
    SCALAR kappa, slope;
} slopes;

INLINE slopes slopes_of(const emam_backward* b, idx n, idx c, SCALAR h) {
    const emam* e = &b->e;
    idx plane = (b->first + n) * e->K + c;
    SCALAR kappa = e->q[plane] * e->call.gamma[c] * e->rstd[plane];
    return (slopes){kappa, -kappa * e->rstd[plane] * h / e->P};
}

/* ad becomes t dt, the gradient of the logarithms of a and d. */
static void find_psi(const SCALAR* x, const SCALAR* delta, SCALAR level, SCALAR mu, slopes s, idx n, SCALAR* ad) {
    vec mean = splat(level), middle = splat(mu), kappa = splat(s.kappa), slope = splat(s.slope);
    for (idx p = 0; p < n; p += LANES) {
        vec t = load(ad + p) * load(x + p);
        store(ad + p, t * (kappa * (load(delta + p) - mean) + slope * (t - middle)));
    }
}

static idx contract_scratch(const emam* e) {
    return near_scratch(e) + round_up(strip_pixels(e), LANES) + 2 * LANES +
           PLANES * (e->H + round_up(e->W, LANES) + 4) + tile_size(e->x.channels_last, PLANES, strip_pixels(e));
}

typedef struct {
    const emam_backward* b;
    idx n, first, planes; /* the instance in the block; its planes from `first` on */
    SCALAR *near, *ad, *row, *column, *corners, *copy;
    SCALAR level; /* the mean of delta */
} contraction;

/* The sums of a tile of one plane with delta. */
static void contract_plane(const contraction* s, idx c, const SCALAR* x, idx h, idx rows, const neighbours* near) {
    const emam* e = &s->b->e;
    idx plane = s->n * e->K + s->first + c, W = e->W;
    const SCALAR* gates = e->gates + (s->b->first * e->K + plane) * e->L;
    outer_product(gates + h, gates + e->H, rows, W, s->ad);
    add_tap_sums(x, s->ad, near, e->mean[s->b->first * e->K + plane], s->level, rows * W, W,
                 s->b->taps_sums + 9 * plane, s->b->h + plane);
    if (h == 0) s->corners[4 * c] = x[0], s->corners[4 * c + 1] = x[W - 1];
    if (h + rows == e->H) s->corners[4 * c + 2] = x[(rows - 1) * W], s->corners[4 * c + 3] = x[rows * W - 1];
}

/* The sides' sums of psi over a tile of one plane, whose h is known; `ad` holds a d. */
static void contract_sides(const contraction* s, idx c, const SCALAR* x, idx h, idx rows) {
    const emam* e = &s->b->e;
    idx plane = s->n * e->K + s->first + c, W = e->W;
    const SCALAR* delta = s->b->delta + s->n * e->P + h * W;
    slopes found = slopes_of(s->b, s->n, s->first + c, s->b->h[plane]);
    find_psi(x, delta, s->level, e->mean[s->b->first * e->K + plane], found, rows * W, s->ad);
    add_sides(s->ad, rows, W, s->row + c * e->H + h, s->column + c * round_up(W, LANES));
}

/* What follows from a plane's sums: h, dpre and its sum, the windows. */
static void finish_plane_sums(const contraction* s, idx c) {
    const emam* e = &s->b->e;
    idx H = e->H, W = e->W, plane = s->n * e->K + s->first + c, of_all = s->b->first * e->K + plane;
    const SCALAR *gates = e->gates + of_all * e->L, *row = s->row + c * H, *column = s->column + c * round_up(W, LANES);
    SCALAR* dpre = s->b->dpre + plane * e->L;
    for (idx h = 0; h < H; h++) dpre[h] = (1 - gates[h]) * row[h];
    for (idx w = 0; w < W; w++) dpre[H + w] = (1 - gates[H + w]) * column[w];
    for (idx i = H + W; i < e->L; i++) dpre[i] = 0;
    s->b->dpre_sums[plane] = sum_of(dpre, H + W);
    window_means(e->means + of_all * e->L, s->corners + 4 * c, H, W, s->b->windows + 9 * plane, 1);
}

static void scale_h(const contraction* s, idx c) {
    idx plane = s->n * s->b->e.K + s->first + c;
    s->b->h[plane] *= s->b->e.rstd[s->b->first * s->b->e.K + plane];
}

static void contract_planes(const emam_backward* b, idx n, idx block, SCALAR* own) {
    const emam* e = &b->e;
    idx H = e->H, W = e->W, first = block * PLANES, planes = least(PLANES, e->K - first);
    contraction s = {b, n, first, planes, own, own + near_scratch(e)};
    s.row = s.ad + round_up(strip_pixels(e), LANES) + 2 * LANES, s.column = s.row + PLANES * H;
    s.corners = s.column + PLANES * round_up(W, LANES), s.copy = s.corners + PLANES * 4;
    s.level = b->d[n] / e->P;
    memset(b->taps_sums + (n * e->K + first) * 9, 0, planes * 9 * sizeof(SCALAR));
    memset(b->h + n * e->K + first, 0, planes * sizeof(SCALAR));
    memset(s.column, 0, PLANES * round_up(W, LANES) * sizeof(SCALAR));
    idx in_one = e->strip == H;
    for (idx h = 0; h < H; h += e->strip) {
        idx rows = least(e->strip, H - h);
        neighbours near = neighbours_of(b->delta + n * e->P, h, rows, H, W, s.near);
        tile x = open_tile(&e->x, (b->first + n) * e->K + first, planes, h * W, rows * W, s.copy);
        for (idx c = 0; c < planes; c++) {
            const SCALAR* xc = plane_of(&x, c);
            contract_plane(&s, c, xc, h, rows, &near);
            if (in_one) scale_h(&s, c), contract_sides(&s, c, xc, h, rows);
        }
    }
    for (idx c = 0; c < planes && !in_one; c++) scale_h(&s, c);
    for (idx h = 0; h < H && !in_one; h += e->strip) {
        idx rows = least(e->strip, H - h);
        tile x = open_tile(&e->x, (b->first + n) * e->K + first, planes, h * W, rows * W, s.copy);
        for (idx c = 0; c < planes; c++) {
            const SCALAR* gates = e->gates + ((b->first + n) * e->K + first + c) * e->L;
            outer_product(gates + h, gates + H, rows, W, s.ad);
            contract_sides(&s, c, plane_of(&x, c), h, rows);
        }
    }
    for (idx c = 0; c < planes; c++) finish_plane_sums(&s, c);
}

static void contract_item(const void* job, idx item, SCALAR* own) {
    const emam_backward* b = job;
    contract_planes(b, item / plane_blocks(&b->e), item % plane_blocks(&b->e), own);
}

/* dm, through the softmax of q. */
static void finish_instance(const void* job, idx n, SCALAR* own) {
    const emam_backward* b = job;
    const emam* e = &b->e;
    const SCALAR *q = e->q + (b->first + n) * e->K, *h = b->h + n * e->K;
    SCALAR *dm = b->dm + n * e->K, level = 0;
    for (idx k = 0; k < e->K; k++) level += q[k] * (dm[k] = e->call.gamma[k] * h[k] + e->call.beta[k] * b->d[n]);
    for (idx k = 0; k < e->K; k++) dm[k] = q[k] * (dm[k] - level);
}

static void contract_instance(const void* job, idx n, SCALAR* own) {
    const emam_backward* b = job;
    for (idx piece = 0; piece < delta_pieces(&b->e); piece++) find_delta(b, n, piece, own);
    sum_delta(job, n, own);
    for (idx block = 0; block < plane_blocks(&b->e); block++) contract_planes(b, n, block, own);
    finish_instance(job, n, own);
}
