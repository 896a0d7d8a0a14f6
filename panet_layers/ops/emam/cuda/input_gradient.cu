// dx = grad gate + dt a d + dr / W + ds / H + the convolution of delta with the taps + the gradient of the window sums.
//
// A thread takes ROWS rows of a column, whose surroundings in delta it keeps in registers, through every `groups`-th of a
// block's `chunk` channels. A block is `stack` such rows of threads; `bands` blocks cover a plane, `chunks` the channels.
// The first SURE rows of every thread are inside the map, as far as is known when this is compiled.
#include "backward.cuh"

#define PADDED_ROWS ((ROWS + 1) / 2 * 2)

// What the gradient of a channel's window sums adds to all pixels, and to those at the borders.
struct Border {
    float all, top, bottom, left, right, corners[4];  // of which top left, top right, bottom left, bottom right
    DEVICE Border(const float* windows, float factor) {
        float s[9];
#pragma unroll
        for (int k = 0; k < 9; k++) s[k] = windows[k] * factor;
        bottom = -(s[0] + s[1] + s[2]), top = -(s[6] + s[7] + s[8]);
        right = -(s[0] + s[3] + s[6]), left = -(s[2] + s[5] + s[8]);
        all = s[3] + s[4] + s[5] - bottom - top;
        corners[0] = s[8], corners[1] = s[6], corners[2] = s[2], corners[3] = s[0];
    }
};

struct Channel {  // as it is in shared memory
    float taps[9], kappa, offset, slope;
    float corners[4], all, top, bottom, left, right, unused[3];
};

KERNEL input_gradient(
    const Element* __restrict__ grad, const Element* __restrict__ x, const float* gates, const float* __restrict__ gate,
    const float* __restrict__ delta, const float* __restrict__ coefficients, const float* __restrict__ taps,
    const float* __restrict__ dmeans, const float* __restrict__ dwindows, Element* __restrict__ dx, int of_instance,
    int of_channel, int instances
    GIVEN(GIVEN_SIZES, int given_chunks, int given_bands, int given_stack, int given_groups, int given_chunk)
) {
    SIZES; SIZE(chunks); SIZE(bands); SIZE(stack); SIZE(groups); SIZE(chunk);
    const int side_rows = stack * PADDED_ROWS;
    const int tid = threadIdx.x, rest = blockIdx.x % (bands * chunks);
    const i64 n = blockIdx.x / (bands * chunks);
    const int top = rest / chunks * (stack * ROWS), first = rest % chunks * chunk, count = min(chunk, K - first);
    Channel* const channels = (Channel*)shared_memory;      // (chunk)
    float2* const rows = (float2*)(channels + chunk);       // (chunk, side_rows): a, what is added to a row
    float2* const columns = rows + chunk * side_rows;            // (chunk, W): d, what is added to a column

    for (int c = tid; c < count; c += THREADS) {
        Channel& to = channels[c];
        const Border border(dwindows + (n * K + first + c) * 9, 1.0f / P);
#pragma unroll
        for (int i = 0; i < 9; i++) to.taps[i] = taps[(first + c) * 9 + i];
        const float* from = coefficients + n * 3 * K + first + c;
        to.kappa = from[0], to.offset = from[K], to.slope = from[2 * K];
#pragma unroll
        for (int i = 0; i < 4; i++) to.corners[i] = border.corners[i];
        to.all = border.all, to.top = border.top, to.bottom = border.bottom;
        to.left = border.left, to.right = border.right;
    }
    __syncthreads();
    const float per_row = 1.0f / W, per_column = 1.0f / H;
    const Sides all_gates = {gates, of_instance, of_channel}, all_dmeans = {dmeans, L, instances * L};
    for (int c = tid >> 5; c < count; c += WARPS) {
        const Channel& of = channels[c];
        const float *of_gates = all_gates.of(n, first + c), *of_means = all_dmeans.of(n, first + c);
#pragma unroll 1
        for (int l = tid & 31; l < side_rows; l += 32) {
            const int h = top + l / PADDED_ROWS * ROWS + l % PADDED_ROWS;
            float2 side = make_float2(0, 0);
            if (h < H) {
                side = make_float2(of_gates[h], fmaf(of_means[h], per_row, of.all));
                side.y += (h == 0 ? of.top : 0.0f) + (h == H - 1 ? of.bottom : 0.0f);
            }
            rows[c * side_rows + l] = side;
        }
#pragma unroll 1
        for (int w = tid & 31; w < W; w += 32) {
            const float border = (w == 0 ? of.left : 0.0f) + (w == W - 1 ? of.right : 0.0f);
            columns[c * W + w] = make_float2(of_gates[H + w], fmaf(of_means[H + w], per_column, border));
        }
    }

    const int group = tid / (stack * W), s = tid - group * (stack * W), level = s / W, w = s - level * W;
    const int h = top + level * ROWS;
    const bool active = group < groups && h < H;
    float around[ROWS + 2][3], value[ROWS];
    if (active) {
        const float* from = delta + (n * (H + 2) + h) * (W + 2) + w;
#pragma unroll
        for (int r = 0; r < ROWS + 2; r++)
#pragma unroll
            for (int k = 0; k < 3; k++)
                around[r][k] = r < SURE + 2 || h + r < H + 2 ? from[r * (W + 2) + k] : 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) value[r] = r < SURE || h + r < H ? gate[n * P + (h + r) * W + w] : 0.0f;
    }
    __syncthreads();
    if (!active) return;

    // Shares of the corners' numbers in the first row, and in the last, which is the SUREth of the lowest threads.
    const float left = w == 0, right = w == W - 1, at_top = h == 0, at_bottom = h + SURE == H;
    i64 at = (n * K + first + group) * P + h * W + w;
#pragma unroll 1
    for (int c = group; c < count; c += groups, at += (i64)groups * P) {
        Element of_x[ROWS], of_grad[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const bool inside = r < SURE || h + r < H;
            of_x[r] = inside ? x[at + r * W] : (Element)0;
            of_grad[r] = inside ? grad[at + r * W] : (Element)0;
        }
        const float4* numbers = (const float4*)(channels + c);
        const float4 t0 = numbers[0], t1 = numbers[1], t2 = numbers[2];
        const float2 column = columns[c * W + w];
        float a[PADDED_ROWS], side[PADDED_ROWS], result[ROWS];
#pragma unroll
        for (int r = 0; r < PADDED_ROWS; r += 2) {
            const float4 two = *(const float4*)(rows + c * side_rows + level * PADDED_ROWS + r);
            a[r] = two.x, side[r] = two.y, a[r + 1] = two.z, side[r + 1] = two.w;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float ad = a[r] * column.x;
            float sum = fmaf(number(of_grad[r]), value[r], side[r] + column.y);
            sum = fmaf(ad, fmaf(t2.w, number(of_x[r]) * ad, fmaf(t2.y, around[r + 1][1], t2.z)), sum);
            // Tap (ky, kx) meets delta at (h - ky + 1, w - kx + 1).
            sum = fmaf(t0.x, around[r + 2][2], sum);
            sum = fmaf(t0.y, around[r + 2][1], sum);
            sum = fmaf(t0.z, around[r + 2][0], sum);
            sum = fmaf(t0.w, around[r + 1][2], sum);
            sum = fmaf(t1.x, around[r + 1][1], sum);
            sum = fmaf(t1.y, around[r + 1][0], sum);
            sum = fmaf(t1.z, around[r][2], sum);
            sum = fmaf(t1.w, around[r][1], sum);
            result[r] = fmaf(t2.x, around[r][0], sum);
        }
        const float4 corners = numbers[3];
        result[0] = fmaf(at_top, left * corners.x + right * corners.y, result[0]);
        const float low_corners = left * corners.z + right * corners.w;
#if SURE
        result[SURE - 1] = fmaf(at_bottom, low_corners, result[SURE - 1]);
#else
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (h + r == H - 1) result[r] += low_corners;
#endif
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (r < SURE || h + r < H) dx[at + r * W] = element(result[r]);
    }
}
