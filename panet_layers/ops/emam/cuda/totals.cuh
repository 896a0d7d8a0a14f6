// From the sums over pixels to what the gradients need: coefficients of dt, gradients before the gates' sigmoids, the
// sums over instances' addends. Shared by `contract`, where a block has whole planes, and `finish`, which adds up bands.
//
// With D = sum_p delta, T = sum_p t (delta - D / P), hh = rstd T, kappa = q gamma rstd, slope = -kappa rstd hh / P and
// offset = -kappa D / P - slope mean, dt is kappa delta + offset + slope t. Nothing cancels: psi = t dt is summed as
// kappa t (delta - D / P) + slope t (t - mean).
#include "backward.cuh"

struct Statistics {  // (N, K), gamma and beta (K)
    const float *mean, *rstd, *q, *gamma, *beta;
};

struct Outputs {
    float* coefficients;  // (N, 3, K): kappa, offset, slope
    float* dq;            // (N, K): gamma hh + beta D
    float* sums;          // (N, 12 K): E (K, 9) | q hh | q D | dpre summed over L
    float* windows;       // the same size; (K, 9) of it: means over P pixels of what each tap reads
};

// As a kernel's arguments.
#define STATISTICS const float *mean, const float *rstd, const float *q, const float *gamma, const float *beta
#define OUTPUTS float *coefficients, float *dq, float *sums, float *windows

// Writes what depends on T alone; returns kappa and slope.
DEVICE float2 coefficients_of(
    const Statistics& of, const Outputs& to, i64 n, int c, int K, int P, float of_delta, float d
) {
    const float rstd = of.rstd[n * K + c], q = of.q[n * K + c], gamma = of.gamma[c], hh = rstd * of_delta;
    const float kappa = q * gamma * rstd, slope = -kappa * rstd * hh / P;
    float* const coefficients = to.coefficients + n * 3 * K + c;
    coefficients[0] = kappa;
    coefficients[K] = -kappa * d / P - slope * of.mean[n * K + c];
    coefficients[2 * K] = slope;
    to.dq[n * K + c] = gamma * hh + of.beta[c] * d;
    float* const sums = to.sums + n * 12 * K + 9 * K + c;
    sums[0] = q * hh;
    sums[K] = q * d;
    return make_float2(kappa, slope);
}

// Passes to `write(l, value)` every `workers`-th of a channel's gradients before the gates' sigmoids, (1 - a) sum_w psi and
// (1 - d) sum_h psi; returns the sums of these and of the row means.
// gate_of(l): the gates. rows(i, h), columns(i, w): the sums of t (delta - D / P) for i = 0, of t (t - mean) for i = 1.
template <class Gates, class Rows, class Columns, class Write>
DEVICE float2 gradients_of_sides(
    const float* means, int worker, int workers, int H, int W, float2 factors, Gates gate_of, Rows rows, Columns columns,
    Write write
) {
    float2 sums = make_float2(0, 0);
    for (int h = worker; h < H; h += workers) {
        const float value = (1 - gate_of(h)) * fmaf(factors.x, rows(0, h), factors.y * rows(1, h));
        write(h, value);
        sums.x += value, sums.y += means[h];
    }
    for (int w = worker; w < W; w += workers) {
        const float value = (1 - gate_of(H + w)) * fmaf(factors.x, columns(0, w), factors.y * columns(1, w));
        write(H + w, value);
        sums.x += value;
    }
    return sums;
}

// Writes the window means, and E from the sums of x (delta - level): what `level` adds is a window sum.
// plane: the channel's x. e(k): the sums. of_rows: the sum of the row means.
template <class Sums>
DEVICE void windows_of(
    const Element* plane, const float* means, float* sums, float* windows, i64 n, int c, int K, int H, int W,
    float of_rows, float level, Sums e
) {
    const float total = of_rows * W;
    // Taps of ky = 0 never read the last row, those of ky = 2 never the first; the same of kx and columns.
    const float row[3] = {W * means[H - 1], 0, W * means[0]};
    const float column[3] = {H * means[H + W - 1], 0, H * means[H]};
    const int P = H * W, below = P - W;
    const float corner[3][3] = {
        {number(plane[P - 1]), 0, number(plane[below])}, {0, 0, 0}, {number(plane[W - 1]), 0, number(plane[0])}};
    const float per_pixel = 1.0f / P;
#pragma unroll
    for (int k = 0; k < 9; k++) {
        const float window = total - row[k / 3] - column[k % 3] + corner[k / 3][k % 3];
        windows[n * 12 * K + 9 * c + k] = window * per_pixel;
        sums[n * 12 * K + 9 * c + k] = fmaf(level, window, e(k));
    }
}

// All of the above for the block's channels. A thread is one of `workers` of the channel `channel`, which is the block's
// `lane`-th of `lanes`; shared: (workers, lanes). plane, means: those of the channel. of_totals(k): E, then T. All threads
// of the block call it.
template <class Totals, class Gates, class Rows, class Columns, class Write>
DEVICE void finish_channels(
    const Statistics& of, const Outputs& to, const Element* plane, const float* means, i64 n, int channel, int lane,
    int lanes, int worker, int workers, bool works, int K, int H, int W, float d, float2* shared, Totals of_totals,
    Gates gate_of, Rows rows, Columns columns, Write write
) {
    const bool first = works && worker == 0;
    if (first) shared[lane] = coefficients_of(of, to, n, channel, K, H * W, of_totals(9), d);
    __syncthreads();
    const float2 factors = works ? shared[lane] : make_float2(0, 0);
    __syncthreads();
    if (works)
        shared[worker * lanes + lane] =
            gradients_of_sides(means, worker, workers, H, W, factors, gate_of, rows, columns, write);
    __syncthreads();
    if (!first) return;
    float2 sum = shared[lane];
    UNROLLED
    for (int i = 1; i < workers; i++) {
        const float2 more = shared[i * lanes + lane];
        sum.x += more.x, sum.y += more.y;
    }
    to.sums[n * 12 * K + 11 * K + channel] = sum.x;
    windows_of(plane, means, to.sums, to.windows, n, channel, K, H, W, sum.y, d / (H * W), of_totals);
}
