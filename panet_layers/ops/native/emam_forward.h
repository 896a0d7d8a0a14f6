/* EMAM's forward: pool, then the products of small matrices, then moments, map and output. */
#pragma once
#include "emam_pool.h"

/* ---- the products: gates, and the logits of q ---- */

static void gate_sides(const void* job, idx item, SCALAR* own) {
    const emam_forward* f = job;
    const emam* e = &f->e;
    idx each = e->L / LANES, end = f->last * each, v = f->first * each + 2 * item;
    multiply_sides(e, f->w1, e->means, e->call.b1, e->gates, v, end, own);
    for (; v < f->first * each + 2 * item + 2 && v < end; v++)
        for (idx k = 0; k < e->K; k++) {
            SCALAR* gates = side_vector(e->gates, e, v) + k * e->L;
            for (int i = 0; i < LANES; i++) gates[i] = sigmoid(gates[i]);
        }
}

static void weigh_channels(const void* job, idx item, SCALAR* own) {
    const emam_forward* f = job;
    const emam* e = &f->e;
    idx K = e->K, k = item * COLUMNS, columns = least(COLUMNS, K - k), instances = f->last - f->first;
    SCALAR* q = e->q + f->first * K + k;
    for (idx n = 0; n < instances; n++) memcpy(q + n * K, e->call.b3 + k, columns * sizeof(SCALAR));
    add_product(f->windows, instances, (matrix){e->call.w3 + k * 9 * K, 1, 9 * K}, 9 * K, columns, q, K, own);
}

/* ---- attend ---- */

enum { EXACT_PIXELS = 1024 }; /* whose squares are summed in SCALARs: equal ones, as a ReLU's zeros, round alike */

/* t = x a d - pivot for some rows, and the sums of t and of its square added to sums[0] and [1]. Stores pass t's end. */
static void gate_rows(const SCALAR* x, const SCALAR* a, const SCALAR* d, idx rows, idx W, SCALAR pivot, SCALAR* t,
                      double sums[2]) {
    if (W > EXACT_PIXELS) {
        for (idx h = 0; h < rows; h++)
            for (idx w = 0; w < W; w += EXACT_PIXELS)
                gate_rows(x + h * W + w, a + h, d + w, 1, least(EXACT_PIXELS, W - w), pivot, t + h * W + w, sums);
        return;
    }
    idx full = (W - 1) / LANES * LANES, since = 0;
    mask last = first_lanes(W - full);
    vec s0 = splat(0), s1 = s0, q0 = s0, q1 = s0, level = splat(pivot), d_last = load(d + full);
    for (idx h = 0; h < rows; h++, x += W, t += W, since += W) {
        if (since >= EXACT_PIXELS) {
            sums[0] += sum_lanes(s0 + s1), sums[1] += sum_lanes(q0 + q1);
            s0 = s1 = q0 = q1 = splat(0), since = 0;
        }
        vec ah = splat(a[h]);
        idx w = 0;
        for (; w + 2 * LANES <= full; w += 2 * LANES) {
            vec u = load(x + w) * (ah * load(d + w)) - level;
            vec v = load(x + w + LANES) * (ah * load(d + w + LANES)) - level;
            store(t + w, u);
            store(t + w + LANES, v);
            s0 += u, q0 += u * u;
            s1 += v, q1 += v * v;
        }
        if (w < full) {
            vec u = load(x + w) * (ah * load(d + w)) - level;
            store(t + w, u);
            s0 += u, q0 += u * u;
        }
        vec v = only(last, load(x + full) * (ah * d_last) - level);
        store(t + full, v);
        s1 += v, q1 += v * v;
    }
    sums[0] += sum_lanes(s0 + s1);
    sums[1] += sum_lanes(q0 + q1);
}

/* A value near the mean of x a d: the product of the means. */
INLINE SCALAR pivot_of(const SCALAR* means, const SCALAR* gates, idx H, idx W) {
    return sum_of(means, H) / H * (sum_of(gates, H) / H) * (sum_of(gates + H, W) / W);
}

/* Whether a variance about the mean, from sums about a pivot, has lost digits to the pivot's distance from the mean. */
INLINE int is_cancelled(const double sums[2], idx P) { return !(sums[0] * sums[0] / P <= 0.75 * sums[1]); }

INLINE void set_moments(const emam* e, idx plane, SCALAR pivot, const double sums[2]) {
    double variance = (sums[1] - sums[0] * sums[0] / e->P) / e->P;
    e->mean[plane] = pivot + (SCALAR)(sums[0] / e->P);
    e->rstd[plane] = 1 / sqrt((variance < 0 ? 0 : variance) + e->call.eps);
}

/* Adds the n pixels at x, whose rows above and below may be missing, times nine taps, to maps that wait to be shifted by
   a column: left to the right, right to the left. Adds kappa t to the map between. */
static void add_taps(const SCALAR* x, idx W, int above, int below, const SCALAR* t, idx n, const SCALAR* taps,
                     SCALAR kappa, SCALAR* left, SCALAR* middle, SCALAR* right) {
    vec w0 = splat(taps[0]), w1 = splat(taps[1]), w2 = splat(taps[2]), w3 = splat(taps[3]), w4 = splat(taps[4]);
    vec w5 = splat(taps[5]), w6 = splat(taps[6]), w7 = splat(taps[7]), w8 = splat(taps[8]), scale = splat(kappa);
    for (idx p = 0; p < n; p += LANES) {
        vec b = load(x + p), l = w3 * b, m = w4 * b + scale * load(t + p), r = w5 * b;
        if (above) {
            vec a = load(x + p - W);
            l += w0 * a, m += w1 * a, r += w2 * a;
        }
        if (below) {
            vec c = load(x + p + W);
            l += w6 * c, m += w7 * c, r += w8 * c;
        }
        if (p + LANES > n) {
            mask rest = first_lanes(n - p);
            l = only(rest, l), m = only(rest, m), r = only(rest, r);
        }
        store(left + p, load(left + p) + l);
        store(middle + p, load(middle + p) + m);
        store(right + p, load(right + p) + r);
    }
}

/* `add_taps` for some rows at x; `above`, `below`: whether their neighbours exist. */
static void add_rows_taps(const SCALAR* x, idx rows, idx W, int above, int below, const SCALAR* t, const SCALAR* taps,
                          SCALAR kappa, SCALAR* left, SCALAR* middle, SCALAR* right) {
    idx last = (rows - 1) * W;
    if (rows == 1) {
        add_taps(x, W, above, below, t, W, taps, kappa, left, middle, right);
        return;
    }
    add_taps(x, W, above, 1, t, W, taps, kappa, left, middle, right);
    add_taps(x + W, W, 1, 1, t + W, last - W, taps, kappa, left + W, middle + W, right + W);
    add_taps(x + last, W, 1, below, t + last, W, taps, kappa, left + last, middle + last, right + last);
}

/* gate = sigmoid of the three maps, shifted, and the constant. */
static void gate_pixels(SCALAR* left, const SCALAR* middle, SCALAR* right, SCALAR constant, idx rows, idx W,
                        SCALAR* gate) {
    for (idx h = 0; h < rows; h++) left[h * W + W - 1] = 0, right[h * W] = 0;
    right[rows * W] = 0;
#pragma omp simd
    for (idx p = 0; p < rows * W; p++) gate[p] = sigmoid(left[p - 1] + middle[p] + right[p + 1] + constant);
}

INLINE void multiply_pixels(const SCALAR* restrict x, const SCALAR* restrict gate, idx n, SCALAR* restrict out) {
#pragma omp simd
    for (idx p = 0; p < n; p++) out[p] = x[p] * gate[p];
}

/* The same for n numbers of planes of P pixels that follow each other: the gate repeats. The LANES numbers after the
   gate's end are its first ones. */
INLINE void multiply_planes(const SCALAR* x, const SCALAR* gate, idx P, idx n, SCALAR* out, int past_caches) {
    idx at = least(n, -(uintptr_t)out % VECTOR_BYTES / sizeof(SCALAR)), p = at % P;
    for (idx i = 0; i < at; i++) out[i] = x[i] * gate[i % P];
    while (at + LANES <= n) {
        idx vectors = least((n - at) / LANES, (P - p + LANES - 1) / LANES); /* those that begin in this plane */
        for (idx i = 0; i < vectors; i++, at += LANES, p += LANES) {
            vec product = load(x + at) * load(gate + p);
            past_caches ? store_past_caches(out + at, product) : store(out + at, product);
        }
        p %= P;
    }
    for (; at < n; at++, p++) out[at] = x[at] * gate[p];
}

/* The output of a whole instance in one piece. */
static void write_instance(const emam* e, idx n, SCALAR* gate) {
    idx count = e->K * e->P, at = n * count;
    const SCALAR* x = (const SCALAR*)e->x.data + at;
    SCALAR* out = (SCALAR*)e->out.data + at;
    for (idx i = 0; i < LANES; i++) gate[e->P + i] = gate[i];
    if (e->N * count * sizeof(SCALAR) >= PAST_CACHES) {
        multiply_planes(x, gate, e->P, count, out, 1);
        end_stores_past_caches();
    } else {
        multiply_planes(x, gate, e->P, count, out, 0);
    }
}

static idx attend_scratch(const emam* e) {
    idx pixels = tile_pixels(e);
    return 4 * (round_up(pixels, LANES) + 2 * LANES) + tile_size(e->x.channels_last, e->K, pixels) +
           tile_stride(pixels);
}

/* The map and the output of some rows of an instance; with `whole`, the moments before them. */
static void attend_rows(const emam_forward* f, idx n, idx h, SCALAR* own) {
    const emam* e = &f->e;
    idx K = e->K, H = e->H, W = e->W, rows = least(e->rows, H - h), pixels = rows * W,
        size = round_up(pixels, LANES) + 2 * LANES;
    SCALAR *t = own, *left = t + size + LANES, *middle = left + size, *right = middle + size, *copy = right + size;
    int above = h > 0, below = h + rows < H;
    memset(left - LANES, 0, (3 * size + LANES) * sizeof(SCALAR));
    tile x = open_tile(&e->x, n * K, K, (h - above) * W, (above + rows + below) * W, copy);
    SCALAR constant = f->constant[n - f->first];
    for (idx c = 0; c < K; c++) {
        idx plane = n * K + c;
        const SCALAR *xc = plane_of(&x, c) + above * W, *gates = e->gates + plane * e->L;
        SCALAR pivot = e->whole ? pivot_of(e->means + plane * e->L, gates, H, W) : e->mean[plane];
        double sums[2] = {0, 0};
        gate_rows(xc, gates + h, gates + H, rows, W, pivot, t, sums);
        if (e->whole) {
            if (is_cancelled(sums, e->P)) {
                pivot += sums[0] / e->P;
                sums[0] = sums[1] = 0;
                gate_rows(xc, gates, gates + H, rows, W, pivot, t, sums);
            }
            set_moments(e, plane, pivot, sums);
        }
        SCALAR kappa = e->q[plane] * e->call.gamma[c] * e->rstd[plane];
        constant -= kappa * (e->mean[plane] - pivot);
        add_rows_taps(xc, rows, W, above, below, t, f->taps + 9 * c, kappa, left, middle, right);
    }
    SCALAR* gate = e->gate + n * e->P + h * W;
    gate_pixels(left, middle, right, constant, rows, W, gate);
    mix_gate(e, gate, pixels, t);
    if (e->whole && !e->x.channels_last && e->x.dtype == OWN) {
        write_instance(e, n, t);
        return;
    }
    if (e->x.channels_last) {
        scale_runs(&e->x, &e->out, n * K, K, h * W, pixels, t);
        return;
    }
    tile out = new_tile(&e->out, n * K, K, h * W, pixels, copy + tile_size(0, K, tile_pixels(e)));
    for (idx c = 0; c < K; c++) {
        multiply_pixels(plane_of(&x, c) + above * W, t, pixels, room_for_plane(&out, c));
        finish_plane(&out, c);
    }
}

/* q, and what it adds to all pixels. */
static void start_instance(const emam_forward* f, idx n) {
    const emam* e = &f->e;
    SCALAR *q = e->q + n * e->K, sum = f->p_b3;
    softmax(q, e->K);
    for (idx k = 0; k < e->K; k++) sum += q[k] * e->call.beta[k];
    f->constant[n - f->first] = sum;
}

static void attend_instance(const void* job, idx item, SCALAR* own) {
    const emam_forward* f = job;
    start_instance(f, f->first + item);
    attend_rows(f, f->first + item, 0, own);
}

static void attend_tile(const void* job, idx item, SCALAR* own) {
    const emam_forward* f = job;
    attend_rows(f, f->first + item / tiles_of(&f->e), item % tiles_of(&f->e) * f->e.rows, own);
}

static idx moments_scratch(const emam* e) {
    return tile_size(e->x.channels_last, PLANES, strip_pixels(e)) + round_up(strip_pixels(e), LANES) + LANES;
}

/* sums[c] = the sums about pivots[c] of planes [plane, plane + planes), tile by tile. */
static void sum_moments(const emam* e, idx plane, idx planes, const SCALAR* pivots, double sums[][2], SCALAR* own) {
    SCALAR* t = own + tile_size(e->x.channels_last, PLANES, strip_pixels(e));
    memset(sums, 0, planes * sizeof(*sums));
    for (idx h = 0; h < e->H; h += e->strip) {
        idx rows = least(e->strip, e->H - h);
        tile x = open_tile(&e->x, plane, planes, h * e->W, rows * e->W, own);
        for (idx c = 0; c < planes; c++) {
            const SCALAR* gates = e->gates + (plane + c) * e->L;
            gate_rows(plane_of(&x, c), gates + h, gates + e->H, rows, e->W, pivots[c], t, sums[c]);
        }
    }
}

static void find_moments(const void* job, idx item, SCALAR* own) {
    const emam_forward* f = job;
    const emam* e = &f->e;
    idx first = item % plane_blocks(e) * PLANES, planes = least(PLANES, e->K - first), cancelled = 0;
    idx plane = (f->first + item / plane_blocks(e)) * e->K + first;
    SCALAR pivots[PLANES] = {0};
    double sums[PLANES][2];
    for (idx c = 0; c < planes; c++)
        pivots[c] = pivot_of(e->means + (plane + c) * e->L, e->gates + (plane + c) * e->L, e->H, e->W);
    sum_moments(e, plane, planes, pivots, sums, own);
    for (idx c = 0; c < planes; c++) cancelled |= is_cancelled(sums[c], e->P);
    if (cancelled) {
        for (idx c = 0; c < planes; c++) pivots[c] += sums[c][0] / e->P;
        sum_moments(e, plane, planes, pivots, sums, own);
    }
    for (idx c = 0; c < planes; c++) set_moments(e, plane + c, pivots[c], sums[c]);
}

/* ---- the call ---- */

static idx emam_forward_layout(const emam_call* call, emam_forward* f) {
    f->e = emam_of(call);
    const emam* e = &f->e;
    idx K = e->K;
    arena scratch = {call->scratch};
    f->block = block_of(e, 9 * K + 1);
    f->p = reserve(&scratch, K);
    f->taps = reserve(&scratch, 9 * K);
    f->w1 = reserve(&scratch, packed_size(K, K));
    f->windows = reserve(&scratch, packed_size(f->block, 9 * K));
    f->constant = reserve(&scratch, f->block);
    idx pool = e->x.channels_last ? pool_runs_scratch(e) : pool_scratch(e);
    f->own_size = round_up(max_of(max_of(PANEL, moments_scratch(e)), max_of(pool, attend_scratch(e))), 16);
    f->own = reserve(&scratch, f->own_size * e->threads);
    return scratch.size;
}

ENTRY_SIZE(emam_forward_scratch)(const emam_call* call) {
    emam_forward f;
    return emam_forward_layout(call, &f);
}

ENTRY(emam_forward)(const emam_call* call) {
    emam_forward f;
    emam_forward_layout(call, &f);
    const emam* e = &f.e;
    idx K = e->K;
    prepare_to_write(&e->out);
    memset(e->gate + e->N * e->P, 0, LANES * sizeof(SCALAR)); /* read, but for nothing */
    memcpy(f.p, call->beta, K * sizeof(SCALAR));
    softmax(f.p, K);
    mix_taps(f.p, call->w3, K, f.taps);
    f.p_b3 = 0;
    for (idx k = 0; k < K; k++) f.p_b3 += f.p[k] * call->b3[k];
    pack_all_rows((matrix){call->w1, K, 1}, K, K, f.w1);

    for (f.first = 0; f.first < e->N; f.first = f.last) {
        f.last = least(f.first + f.block, e->N);
        idx instances = f.last - f.first, vectors = instances * e->L / LANES;
        if (e->x.channels_last)
            for_each(instances * ((K + RUN - 1) / RUN), pool_runs, &f, f.own, f.own_size, e->threads);
        else
            for_each(instances * plane_blocks(e), pool_planes, &f, f.own, f.own_size, e->threads);
        for_each((vectors + 1) / 2, gate_sides, &f, f.own, f.own_size, e->threads);
        for_each((K + COLUMNS - 1) / COLUMNS, weigh_channels, &f, f.own, f.own_size, e->threads);
        if (e->whole) {
            for_each(instances, attend_instance, &f, f.own, f.own_size, e->threads);
            continue;
        }
        for (idx n = f.first; n < f.last; n++) start_instance(&f, n);
        for_each(instances * plane_blocks(e), find_moments, &f, f.own, f.own_size, e->threads);
        for_each(instances * tiles_of(e), attend_tile, &f, f.own, f.own_size, e->threads);
    }
}
