/* EMAM's backward: contractions with the gradient, the products of small matrices, then the gradient of the input. */
#pragma once
#include "emam_contract.h"

/* ---- the products ---- */

enum { PANELS = 4 }; /* of columns that a thread packs together: longer pieces of the rows */

INLINE idx vectors_of(const emam_backward* b) { return (b->last - b->first) * b->e.L / LANES; }

/* Packs ROWS planes of dpre: their sides, instance after instance. */
static void pack_dpre(const emam_backward* b, idx panel) {
    idx L = b->e.L, k = panel * ROWS, rows = least(ROWS, b->e.K - k);
    SCALAR* to = b->dpre_rows + k * (b->last - b->first) * L;
    for (idx n = 0; n < b->last - b->first; n++) {
        const SCALAR* from = b->dpre + (n * b->e.K + k) * L;
        for (idx l = 0; l < L; l++, to += ROWS)
            for (idx r = 0; r < ROWS; r++) to[r] = r < rows ? from[r * L + l] : 0;
    }
}

static void pack_item(const void* job, idx item, SCALAR* own) {
    const emam_backward* b = job;
    idx K = b->e.K, instances = b->last - b->first, panels = panels_of(K);
    if (item < panels)
        pack_dpre(b, item);
    else if (item < 2 * panels)
        pack_rows((matrix){b->dm, 1, K}, K, instances, item - panels, b->dm_columns);
    else
        pack_rows((matrix){b->dm, K, 1}, instances, K, item - 2 * panels, b->dm_rows);
}

/* C (rows, columns) += A B for PANELS panels of B, whose rows lie one after the other. */
static void add_products(const SCALAR* packed, idx rows, matrix b, idx depth, idx columns, SCALAR* c, idx c_row,
                         SCALAR* panels) {
    SCALAR tile[ROWS * COLUMNS];
    for (idx r = 0; r < depth; r += DEPTH) {
        idx now = least(DEPTH, depth - r), size = now * COLUMNS;
        for (idx i = 0; i < now; i++)
            for (idx j = 0; j < columns; j += COLUMNS)
                pack_columns((matrix){b.at + (r + i) * b.row + j, b.row, 1}, 1, least(COLUMNS, columns - j),
                             panels + j / COLUMNS * size + i * COLUMNS);
        for (idx j = 0; j < columns; j += COLUMNS)
            for (idx p = 0; p < panels_of(rows); p++) {
                multiply_panels(packed + (p * depth + r) * ROWS, panels + j / COLUMNS * size, now, tile);
                add_tile(tile, least(ROWS, rows - p * ROWS), least(COLUMNS, columns - j), c + p * ROWS * c_row + j,
                         c_row);
            }
    }
}

/* dmeans = w1^T dpre. */
static void pull_sides(const void* job, idx item, SCALAR* own) {
    const emam_backward* b = job;
    multiply_sides(&b->e, b->w1, b->dpre, NULL, b->dmeans, 2 * item, vectors_of(b), own);
}

/* dwindows = dm w3. */
static void pull_windows(const emam_backward* b, idx item, SCALAR* own) {
    idx K = b->e.K, i = item * PANELS * COLUMNS, columns = least(PANELS * COLUMNS, 9 * K - i);
    idx instances = b->last - b->first;
    for (idx n = 0; n < instances; n++) memset(b->dwindows + n * 9 * K + i, 0, columns * sizeof(SCALAR));
    matrix w3 = {b->e.call.w3 + i, 9 * K, 1};
    add_products(b->dm_rows, instances, w3, K, columns, b->dwindows + i, 9 * K, own);
}

/* dw3 += dm^T windows. */
static void add_dw3(const emam_backward* b, idx item, SCALAR* own) {
    idx K = b->e.K, i = item * PANELS * COLUMNS, columns = least(PANELS * COLUMNS, 9 * K - i);
    matrix windows = {b->windows + i, 9 * K, 1};
    add_products(b->dm_columns, K, windows, b->last - b->first, columns, b->e.call.dw3 + i, 9 * K, own);
}

/* dw1 += dpre means^T, some columns of it. */
static void add_dw1(const emam_backward* b, idx item, SCALAR* own) {
    const emam* e = &b->e;
    idx K = e->K, j = item * COLUMNS, columns = least(COLUMNS, K - j), step = DEPTH / LANES, vectors = vectors_of(b);
    SCALAR *means = e->means + b->first * K * e->L, tile[ROWS * COLUMNS];
    for (idx v = 0; v < vectors; v += step) {
        idx count = least(step, vectors - v);
        for (idx i = 0; i < count; i++) {
            matrix part = {side_vector(means, e, v + i) + j * e->L, 1, e->L};
            pack_columns(part, LANES, columns, own + i * LANES * COLUMNS);
        }
        for (idx k = 0; k < K; k += ROWS) {
            multiply_panels(b->dpre_rows + k * vectors * LANES + v * LANES * ROWS, own, count * LANES, tile);
            add_tile(tile, least(ROWS, K - k), columns, e->call.dw1 + k * K + j, K);
        }
    }
}

/* Adds what the instances contribute to the gradients that are sums: dgamma, d beta before its softmax, db1, db3, e. */
static void add_totals(const emam_backward* b, idx item, SCALAR* own) {
    const emam* e = &b->e;
    idx K = e->K, first = item * PLANES, last = least(first + PLANES, K);
    for (idx n = 0; n < b->last - b->first; n++) {
        const SCALAR *q = e->q + (b->first + n) * K, *h = b->h + n * K;
        for (idx k = first; k < last; k++) {
            b->dgamma[k] += (double)q[k] * h[k];
            b->dbeta[k] += (double)q[k] * b->d[n];
            b->db1[k] += b->dpre_sums[n * K + k];
            b->db3[k] += b->dm[n * K + k];
        }
        for (idx i = 9 * first; i < 9 * last; i++) b->taps_total[i] += b->taps_sums[n * 9 * K + i];
    }
}

typedef void step(const emam_backward*, idx, SCALAR*);
enum { STEPS = 4 };

/* How many items each of the products has; returns their sum. */
static idx count_products(const emam_backward* b, idx counts[STEPS]) {
    idx K = b->e.K, taps = (9 * K + PANELS * COLUMNS - 1) / (PANELS * COLUMNS);
    counts[0] = (K + COLUMNS - 1) / COLUMNS, counts[1] = counts[2] = taps, counts[3] = plane_blocks(&b->e);
    return counts[0] + counts[1] + counts[2] + counts[3];
}

static void multiply_item(const void* job, idx item, SCALAR* own) {
    step* const steps[STEPS] = {add_dw1, add_dw3, pull_windows, add_totals};
    idx counts[STEPS], s = 0;
    count_products(job, counts);
    for (; item >= counts[s]; s++) item -= counts[s];
    steps[s](job, item, own);
}

/* ---- the gradient of the input ---- */

/* What reaches a pixel through its plane's means and windows: the sum of its row's and its column's number, and at the
   corners a number more. */
static void spread_sides(const emam_backward* b, idx n, idx c, SCALAR* rows, SCALAR* columns, SCALAR corners[4]) {
    const emam* e = &b->e;
    idx H = e->H, W = e->W;
    const SCALAR *dmeans = b->dmeans + (n * e->K + c) * e->L, *dwindows = b->dwindows + (n * e->K + c) * 9;
    SCALAR each[9], all = 0, of_pixel = (SCALAR)1 / e->P, of_row = (SCALAR)1 / W, of_column = (SCALAR)1 / H;
    for (int k = 0; k < 9; k++) all += each[k] = dwindows[k] * of_pixel;
    for (idx h = 0; h < H; h++) rows[h] = dmeans[h] * of_row + all;
    for (idx w = 0; w < W; w++) columns[w] = dmeans[H + w] * of_column;
    for (int i = 0; i < 4; i++) corners[i] = 0;
    for (int k = 0; k < 9; k++) {
        idx h = unread_row(k, H), w = unread_column(k, W);
        if (h >= 0) rows[h] -= each[k];
        if (w >= 0) columns[w] -= each[k];
        if (h >= 0 && w >= 0) corners[corner_of(h, w)] += each[k];
    }
}

/* ad = a d, and spread = rows + columns, for some rows. Stores pass the end. */
static void outer_rows(const SCALAR* a, const SCALAR* d, const SCALAR* row, const SCALAR* column, idx rows, idx W,
                       SCALAR* ad, SCALAR* spread) {
    for (idx h = 0; h < rows; h++, ad += W, spread += W) {
        vec ah = splat(a[h]), rh = splat(row[h]);
        for (idx w = 0; w < W; w += LANES) {
            store(ad + w, ah * load(d + w));
            store(spread + w, rh + load(column + w));
        }
    }
}

/* dx of n pixels. As in add_tap_sums, tap (ky, kx) meets delta one row down for ky = 0, one column right for kx = 0. */
static void pull_pixels(const SCALAR* x, const SCALAR* grad, const SCALAR* gate, const SCALAR* ad, const SCALAR* spread,
                        const neighbours* near, idx n, idx W, const SCALAR* taps, SCALAR kappa, SCALAR offset,
                        SCALAR slope, SCALAR* dx) {
    const SCALAR *l = near->right, *m = near->middle, *r = near->left;
    vec w0 = splat(taps[0]), w1 = splat(taps[1]), w2 = splat(taps[2]), w3 = splat(taps[3]), w4 = splat(taps[4]);
    vec w5 = splat(taps[5]), w6 = splat(taps[6]), w7 = splat(taps[7]), w8 = splat(taps[8]);
    vec scale = splat(kappa), level = splat(offset), tilt = splat(slope);
    for (idx p = 0; p < n; p += LANES) {
        vec v = load(ad + p), u = scale * load(m + p) + (level + tilt * (load(x + p) * v));
        u = load(spread + p) + v * u + load(grad + p) * load(gate + p);
        u += w0 * load(l + p + W) + w1 * load(m + p + W) + w2 * load(r + p + W);
        u += w3 * load(l + p) + w4 * load(m + p) + w5 * load(r + p);
        u += w6 * load(l + p - W) + w7 * load(m + p - W) + w8 * load(r + p - W);
        if (p + LANES <= n)
            store(dx + p, u);
        else
            store_first(dx + p, u, n - p);
    }
}

static idx pull_scratch(const emam* e) {
    idx size = round_up(strip_pixels(e), LANES) + 2 * LANES;
    return near_scratch(e) + 3 * size + e->H + round_up(e->W, LANES) +
           3 * tile_size(e->x.channels_last, PLANES, strip_pixels(e));
}

static void pull_planes(const emam_backward* b, idx n, idx block, SCALAR* own) {
    const emam* e = &b->e;
    idx K = e->K, H = e->H, W = e->W, N = b->first + n, first = block * PLANES, planes = least(PLANES, K - first);
    idx size = round_up(strip_pixels(e), LANES) + 2 * LANES,
        copy = tile_size(e->x.channels_last, PLANES, strip_pixels(e));
    SCALAR *ad = own + near_scratch(e), *spread = ad + size, *gate = spread + size, *row = gate + size,
           *column = row + H;
    SCALAR corners[4];
    SCALAR* copies = column + round_up(W, LANES);
    for (idx h = 0; h < H; h += e->strip) {
        idx rows = least(e->strip, H - h), pixels = rows * W;
        neighbours near = neighbours_of(b->delta + n * e->P, h, rows, H, W, own);
        mix_gate(e, e->gate + N * e->P + h * W, pixels, gate);
        tile x = open_tile(&e->x, N * K + first, planes, h * W, pixels, copies);
        tile grad = open_tile(&e->grad, N * K + first, planes, h * W, pixels, copies + copy);
        tile dx = new_tile(&e->out, N * K + first, planes, h * W, pixels, copies + 2 * copy);
        for (idx c = 0; c < planes; c++) {
            idx plane = n * K + first + c, of_all = N * K + first + c;
            const SCALAR* gates = e->gates + of_all * e->L;
            spread_sides(b, n, first + c, row, column, corners);
            outer_rows(gates + h, gates + H, row + h, column, rows, W, ad, spread);
            if (h == 0) spread[0] += corners[0], spread[W - 1] += corners[1];
            if (h + rows == H) spread[pixels - W] += corners[2], spread[pixels - 1] += corners[3];
            slopes s = slopes_of(b, n, first + c, b->h[plane]);
            SCALAR offset = -s.kappa * b->d[n] / e->P - s.slope * e->mean[of_all];
            pull_pixels(plane_of(&x, c), plane_of(&grad, c), gate, ad, spread, &near, pixels, W,
                        b->taps + 9 * (first + c), s.kappa, offset, s.slope, room_for_plane(&dx, c));
            finish_plane(&dx, c);
        }
        close_tile(&dx);
    }
}

static void pull_item(const void* job, idx item, SCALAR* own) {
    const emam_backward* b = job;
    pull_planes(b, item / plane_blocks(&b->e), item % plane_blocks(&b->e), own);
}

/* ---- the call ---- */

static idx emam_backward_layout(const emam_call* call, emam_backward* b) {
    b->e = emam_of(call);
    const emam* e = &b->e;
    idx K = e->K, sides = K * e->L;
    b->borrows =
        e->out.dtype == OWN && !e->out.channels_last && K * (e->P - e->L - 18) >= COLUMNS; /* read past the end */
    b->block = block_of(e, e->P + sides + 14 * K + (b->borrows ? 0 : sides + 18 * K));
    idx own_block = b->borrows ? 0 : b->block;
    arena scratch = {call->scratch};
    b->totals = (double*)reserve(&scratch, 13 * K * sizeof(double) / sizeof(SCALAR));
    b->dgamma = b->totals, b->dbeta = b->totals + K, b->db1 = b->totals + 2 * K, b->db3 = b->totals + 3 * K;
    b->taps_total = b->totals + 4 * K;
    b->p = reserve(&scratch, K);
    b->dp = reserve(&scratch, K);
    b->taps = reserve(&scratch, 9 * K);
    b->w1 = reserve(&scratch, packed_size(K, K));
    b->delta = reserve(&scratch, b->block * e->P);
    b->d = reserve(&scratch, b->block);
    b->share_sums = (double*)reserve(&scratch, b->block * delta_pieces(e) * sizeof(double) / sizeof(SCALAR));
    b->dpre = reserve(&scratch, own_block * sides);
    b->dmeans = b->dpre_rows = reserve(&scratch, packed_size(K, b->block * e->L) + LANES);
    b->h = reserve(&scratch, b->block * K);
    b->dm = reserve(&scratch, b->block * K);
    b->dpre_sums = reserve(&scratch, b->block * K);
    b->taps_sums = reserve(&scratch, own_block * 9 * K);
    b->windows = reserve(&scratch, own_block * 9 * K);
    b->dwindows = reserve(&scratch, b->block * 9 * K);
    b->dm_rows = reserve(&scratch, packed_size(b->block, K));
    b->dm_columns = reserve(&scratch, packed_size(K, b->block));
    b->own_size =
        round_up(max_of(max_of(PANELS * PANEL, pull_scratch(e)), max_of(delta_scratch(e), contract_scratch(e))), 16);
    b->own = reserve(&scratch, b->own_size * e->threads);
    return scratch.size;
}

/* What is not needed any more when the block's gradient is written lies there: longer blocks for the same scratch. */
static void borrow_gradient(emam_backward* b) {
    idx K = b->e.K, instances = b->last - b->first;
    b->dpre = (SCALAR*)b->e.out.data + b->first * K * b->e.P;
    b->taps_sums = b->dpre + instances * K * b->e.L;
    b->windows = b->taps_sums + instances * 9 * K;
}

ENTRY_SIZE(emam_backward_scratch)(const emam_call* call) {
    emam_backward b;
    return emam_backward_layout(call, &b);
}

/* dw3 += p e^T, and dp = w3 e + b3 d, a row each. */
static void finish_row(const void* job, idx k, SCALAR* own) {
    const emam_backward* b = job;
    const emam_call* call = &b->e.call;
    idx K = b->e.K;
    const SCALAR* w3 = call->w3 + k * 9 * K;
    SCALAR *dw3 = call->dw3 + k * 9 * K, p = b->p[k];
    double sum = call->b3[k] * b->d_total;
    for (idx i = 0; i < 9 * K; i++) {
        sum += w3[i] * b->taps_total[i];
        dw3[i] += p * (SCALAR)b->taps_total[i];
        /* Beside a single row or column, outer taps read padding only. */
        if ((b->e.H == 1 && i % 9 / 3 != 1) || (b->e.W == 1 && i % 3 != 1)) dw3[i] = 0;
    }
    b->dp[k] = sum;
}

static void finish_parameters(emam_backward* b) {
    const emam_call* call = &b->e.call;
    idx K = b->e.K;
    b->d_total = 0;
    for (idx k = 0; k < K; k++) b->d_total += b->dbeta[k]; /* q sums to one */
    for_each(K, finish_row, b, b->own, b->own_size, b->e.threads);
    if (call->dshare) *call->dshare = b->share_total;
    double level = 0;
    for (idx k = 0; k < K; k++) level += (double)b->p[k] * b->dp[k];
    for (idx k = 0; k < K; k++) {
        call->db1[k] = b->db1[k];
        call->db3[k] = b->db3[k] + b->p[k] * b->d_total;
        call->dgamma[k] = b->dgamma[k];
        call->dbeta[k] = b->dbeta[k] + b->p[k] * (b->dp[k] - level);
    }
}

ENTRY(emam_backward)(const emam_call* call) {
    emam_backward b;
    emam_backward_layout(call, &b);
    const emam* e = &b.e;
    idx K = e->K;
    prepare_to_write(&e->out);
    memcpy(b.p, call->beta, K * sizeof(SCALAR));
    softmax(b.p, K);
    mix_taps(b.p, call->w3, K, b.taps);
    pack_all_rows((matrix){call->w1, 1, K}, K, K, b.w1);
    memset(b.totals, 0, 13 * K * sizeof(double));
    b.share_total = 0;
    memset(call->dw1, 0, K * K * sizeof(SCALAR));
    memset(call->dw3, 0, 9 * K * K * sizeof(SCALAR));

    for (b.first = 0; b.first < e->N; b.first = b.last) {
        b.last = least(b.first + b.block, e->N);
        idx instances = b.last - b.first;
        if (b.borrows) borrow_gradient(&b);
        if (e->whole) {
            for_each(instances, contract_instance, &b, b.own, b.own_size, e->threads);
        } else {
            for_each(instances * delta_pieces(e), delta_item, &b, b.own, b.own_size, e->threads);
            for_each(instances, sum_delta, &b, b.own, b.own_size, e->threads);
            for_each(instances * plane_blocks(e), contract_item, &b, b.own, b.own_size, e->threads);
            for_each(instances, finish_instance, &b, b.own, b.own_size, e->threads);
        }
        for (idx i = 0; call->dshare && i < instances * delta_pieces(e); i++) b.share_total += b.share_sums[i];
        idx counts[STEPS];
        for_each(panels_of(instances) + 2 * panels_of(K), pack_item, &b, b.own, b.own_size, e->threads);
        for_each(count_products(&b, counts), multiply_item, &b, b.own, b.own_size, e->threads);
        for_each((vectors_of(&b) + 1) / 2, pull_sides, &b, b.own, b.own_size, e->threads);
        for_each(instances * plane_blocks(e), pull_item, &b, b.own, b.own_size, e->threads);
    }
    finish_parameters(&b);
}
