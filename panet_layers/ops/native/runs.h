/* Maps in channels_last by runs: the channels of one pixel that belong together, which lie side by side in memory. */
#pragma once
#include "storage.h"

enum { RUN = 256 }; /* numbers of a run that are widened at a time */

/* From a run to that of the next pixel. */
INLINE idx run_step(const maps* m) { return m->channels * number_bytes(m); }

INLINE char* run_at(const maps* m, idx plane, idx pixel) {
    idx sample = plane / m->channels, channel = plane % m->channels;
    return m->data + ((sample * m->pixels + pixel) * m->channels + channel) * number_bytes(m);
}

/* Returns at most RUN numbers at `from`: themselves, or a copy. */
INLINE const SCALAR* read_run(const maps* m, const char* from, idx n, SCALAR copy[RUN]) {
    if (m->dtype == OWN) return (const SCALAR*)from;
    widen(m, from, n, copy);
    return copy;
}

INLINE void add_run(const SCALAR* x, idx n, SCALAR* to) {
    idx i = 0;
    for (; i + LANES <= n; i += LANES) store(to + i, load(to + i) + load(x + i));
    for (; i < n; i++) to[i] += x[i];
}

/* The sums over n consecutive planes of the products of two maps, for each of `pixels` pixels. */
static void dot_runs(const maps* a, const maps* b, idx plane, idx n, idx pixel, idx pixels, SCALAR* out) {
    SCALAR a_copy[RUN], b_copy[RUN];
    const char *from_a = run_at(a, plane, pixel), *from_b = run_at(b, plane, pixel);
    idx bytes = number_bytes(a), step = run_step(a);
    for (idx p = 0; p < pixels; p++, from_a += step, from_b += step) {
        expect_run(from_a + AHEAD * step, n * bytes);
        expect_run(from_b + AHEAD * step, n * bytes);
        vec sums = splat(0);
        SCALAR rest = 0;
        for (idx c = 0; c < n; c += RUN) {
            idx now = least(RUN, n - c), i = 0;
            const SCALAR* x = read_run(a, from_a + c * bytes, now, a_copy);
            const SCALAR* y = read_run(b, from_b + c * bytes, now, b_copy);
            for (; i + LANES <= now; i += LANES) sums += load(x + i) * load(y + i);
            for (; i < now; i++) rest += x[i] * y[i];
        }
        out[p] = sum_lanes(sums) + rest;
    }
}

/* Each of `pixels` pixels of n consecutive planes times its number in `factors`. */
static void scale_runs(const maps* from, const maps* to, idx plane, idx n, idx pixel, idx pixels,
                       const SCALAR* factors) {
    SCALAR copy[RUN], wide[RUN];
    const char* source = run_at(from, plane, pixel);
    char* target = run_at(to, plane, pixel);
    idx bytes = number_bytes(from), step = run_step(from);
    for (idx p = 0; p < pixels; p++, source += step, target += step) {
        expect_run(source + AHEAD * step, n * bytes);
        expect_room(target + AHEAD * step, n * bytes);
        vec factor = splat(factors[p]);
        for (idx c = 0; c < n; c += RUN) {
            idx now = least(RUN, n - c), i = 0;
            const SCALAR* x = read_run(from, source + c * bytes, now, copy);
            SCALAR* out = to->dtype == OWN ? (SCALAR*)(target + c * bytes) : wide;
            for (; i + LANES <= now; i += LANES) store(out + i, load(x + i) * factor);
            for (; i < now; i++) out[i] = x[i] * factors[p];
            if (to->dtype != OWN) narrow(to, wide, now, target + c * bytes);
        }
    }
}
