// The attention map before the sigmoid, from rows that lie in shared memory.
//
// A thread takes a strip, STRIP rows of one column, through its share of the channels. Each element's products with the
// nine taps go to sums[kx][row] of the rows that they reach; the gate's term x a (kappa d) joins the middle tap. The sums
// then move to their columns through shared memory, one kx after the other.
#include "maps.cuh"
#define ROOM by_four(STRIP)  // floats of a strip in the gates of rows, so that they are read four at a time
static_assert(STRIP % 4 != 3, "the compiler would read a gate that nothing writes");
#define REACHED (STRIP + 2)  // rows
#define CONSTANTS 12         // of a channel: nine taps, kappa, its part of the map's constant term, nothing

// Thread's strip: `index` of `strips` = stack x W of them, in the column `w`, `level` strips below the first row.
struct Strip {
    int share, index, level, w;
    bool active;
    DEVICE Strip(int strips, int shares, int W) {
        share = threadIdx.x / strips, index = threadIdx.x - share * strips;
        level = index / W, w = index - level * W;
        active = share < shares;
    }
};

DEVICE int place_of_row(int row) { return STRIP == ROOM ? row : row / STRIP * ROOM + row % STRIP; }

// Loads the gates of a strip's rows.
DEVICE void load_rows(float (&gates)[STRIP], const float* a) {
    constexpr int whole = STRIP / 4 * 4;
#pragma unroll
    for (int r = 0; r < whole; r += 4) {
        const float4 four = *(const float4*)(a + r);
        gates[r] = four.x, gates[r + 1] = four.y, gates[r + 2] = four.z, gates[r + 3] = four.w;
    }
#pragma unroll
    for (int r = whole; r < STRIP; r++) gates[r] = a[r];
}

// Adds a channel to a strip's sums, and its constant to the term that all pixels share.
DEVICE void accumulate(float (&sums)[3][REACHED], float& shared_term, const Element* x, const float* a, float d,
                       const float* constants, const u32 (&mask)[STRIP], int W) {
    const float4 t0 = *(const float4*)constants, t1 = *(const float4*)(constants + 4);
    const float4 t2 = *(const float4*)(constants + 8);
    const float factor = d * t2.y;
    float gates[STRIP];
    load_rows(gates, a);
    shared_term += t2.z;
#pragma unroll
    for (int r = 0; r < STRIP; r++) {  // tap ky reaches row r - ky + 1, which is number r - ky + 2
        const float e = masked(x[r * W], mask[r]), middle = fmaf(gates[r], factor, t1.x);
        sums[0][r + 2] = fmaf(e, t0.x, sums[0][r + 2]);
        sums[1][r + 2] = fmaf(e, t0.y, sums[1][r + 2]);
        sums[2][r + 2] = fmaf(e, t0.z, sums[2][r + 2]);
        sums[0][r + 1] = fmaf(e, t0.w, sums[0][r + 1]);
        sums[1][r + 1] = fmaf(e, middle, sums[1][r + 1]);
        sums[2][r + 1] = fmaf(e, t1.y, sums[2][r + 1]);
        sums[0][r] = fmaf(e, t1.z, sums[0][r]);
        sums[1][r] = fmaf(e, t1.w, sums[1][r]);
        sums[2][r] = fmaf(e, t2.x, sums[2][r]);
    }
}

// Adds up the map's rows of each strip, in the threads of the first share.
DEVICE void exchange(float (&sums)[3][REACHED], float shared_term, float (&map)[STRIP], float* buffer,
                     const Strip& strip, int strips, int stack, int shares, int W) {
    const int size = REACHED * strips;
#pragma unroll
    for (int r = 0; r < STRIP; r++) sums[1][r + 1] += shared_term;
#pragma unroll
    for (int r = 0; r < STRIP; r++) map[r] = 0;
#pragma unroll
    for (int kx = 0; kx < 3; kx++) {
        if (kx) __syncthreads();  // the buffer is free: before, nobody uses it
        if (strip.active) {
            float* to = buffer + strip.share * size + strip.index;
#pragma unroll
            for (int j = 0; j < REACHED; j++) to[j * strips] = sums[kx][j];
        }
        __syncthreads();
        if (shares > 1) {
#pragma unroll 1
            for (int i = threadIdx.x; i < size; i += THREADS) {
                const float* from = buffer + i;
                float sum = *from;
#pragma unroll 8
                for (int share = 1; share < shares; share++) sum += *(from += size);
                buffer[i] = sum;
            }
            __syncthreads();
        }
        const int column = strip.w + kx - 1;
        if (strip.active && strip.share == 0 && column >= 0 && column < W) {
            const float* from = buffer + strip.index + kx - 1;
#pragma unroll
            for (int r = 0; r < STRIP; r++) map[r] += from[(r + 1) * strips];
            if (strip.level > 0) map[0] += from[(STRIP + 1) * strips - W];
            if (strip.level + 1 < stack) map[STRIP - 1] += from[W];
        }
    }
}

DEVICE float sigmoid(float y) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + __expf(-y)));
    return inverse;
}

// What a channel's statistics make of its constants.
DEVICE void set_constants(float* constants, float mean, float rstd, float q, float p, float gamma, float beta,
                          float b3) {
    const float kappa = q * gamma * rstd;
    constants[9] = kappa;
    constants[10] = fmaf(q, beta, fmaf(p, b3, -kappa * mean));
    constants[11] = 0;
}

// Copies the nine taps of each channel to its constants.
DEVICE void load_taps(float* constants, const float* taps, int K) {
    for (int c = threadIdx.x; c < K; c += THREADS) {
#pragma unroll
        for (int tap = 0; tap < 9; tap++) constants[c * CONSTANTS + tap] = taps[c * 9 + tap];
    }
}
