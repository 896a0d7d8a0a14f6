/* What lanes of a warp do together: shuffles, sums over a warp, products of matrices. */
#pragma once
#include "hazards.h"
#include "numbers.h"

static bool is_active(uint32_t lanes, int lane) { return (lanes >> lane) & 1; }

/* The lane that `lane` reads, or -1 where it keeps its own value. */
static int partner(int mode, int lane, uint32_t distance, uint32_t control) {
    const int b = distance & 31, clamp = control & 31, segment = (control >> 8) & 31;
    const int last = (lane & segment) | (clamp & ~segment), first = lane & segment;
    switch (mode) {
        case SHUFFLE_BUTTERFLY:
            return (lane ^ b) <= last ? lane ^ b : -1;
        case SHUFFLE_INDEX:
            return (first | (b & ~segment)) <= last ? first | (b & ~segment) : -1;
        case SHUFFLE_UP:
            return lane - b >= last ? lane - b : -1;
        default:
            return lane + b <= last ? lane + b : -1;
    }
}

static void shuffle(Block& block, Warp& warp, const Instruction& in, uint32_t lanes) {
    const uint32_t *value = lanes_of<uint32_t>(warp, in.source[0]), *distance = lanes_of<uint32_t>(warp, in.source[1]);
    const uint32_t *control = lanes_of<uint32_t>(warp, in.source[2]), *members = lanes_of<uint32_t>(warp, in.source[3]);
    uint32_t read[LANES], valid = 0;
    for (int lane = 0; lane < LANES; lane++) {
        if (!is_active(lanes, lane)) continue;
        const int other = partner(in.variant, lane, distance[lane], control[lane]);
        const int from = other < 0 ? lane : other;
        if (!is_active(lanes, from) || members[lane] != lanes)
            report(block, FOUND_INACTIVE_LANE, in, warp, lane, from, "(shuffle)");
        read[lane] = value[from];
        valid |= (uint32_t)(other >= 0) << lane;
    }
    for (int lane = 0; lane < LANES; lane++)
        if (is_active(lanes, lane)) lanes_of<uint32_t>(warp, in.target[0])[lane] = read[lane];
    if (in.target[1] >= 0) {
        uint32_t& predicate = warp.predicates[in.target[1]];
        predicate = (predicate & ~lanes) | (valid & lanes);
    }
}

static uint32_t combined(int mode, uint32_t a, uint32_t b) {
    switch (mode) {
        case REDUCE_SUM:
            return a + b;
        case REDUCE_LEAST_SIGNED:
            return (uint32_t)std::min((int32_t)a, (int32_t)b);
        case REDUCE_MOST_SIGNED:
            return (uint32_t)std::max((int32_t)a, (int32_t)b);
        case REDUCE_LEAST:
            return std::min(a, b);
        case REDUCE_MOST:
            return std::max(a, b);
        case REDUCE_AND:
            return a & b;
        case REDUCE_OR:
            return a | b;
        default:
            return a ^ b;
    }
}

static void reduce(Block& block, Warp& warp, const Instruction& in, uint32_t lanes) {
    const uint32_t *value = lanes_of<uint32_t>(warp, in.source[0]), *members = lanes_of<uint32_t>(warp, in.source[1]);
    uint32_t result = 0;
    bool first = true;
    for (int lane = 0; lane < LANES; lane++) {
        if (!is_active(lanes, lane)) continue;
        if (members[lane] != lanes) report(block, FOUND_INACTIVE_LANE, in, warp, lane, 0, "(reduce)");
        result = first ? value[lane] : combined(in.variant, result, value[lane]);
        first = false;
    }
    for (int lane = 0; lane < LANES; lane++)
        if (is_active(lanes, lane)) lanes_of<uint32_t>(warp, in.target[0])[lane] = result;
}

/* mma m16n8k16 and m16n8k8: D = A B + C in float32, A and B of 16 bits. Sources: 4 of A, 2 of B, 4 of C.
 *
 * Hardware truncates while it adds; here the sum is exact to float64 and rounded once.
 */
static void multiply_matrices(Block& block, Warp& warp, const Instruction& in, uint32_t lanes) {
    if (lanes != ~0u) report(block, FOUND_INACTIVE_LANE, in, warp, 0, 0, "(mma)");
    float a[16][16] = {}, b[16][8] = {}, sum[4][LANES];
    auto number = [&](int source, int lane, int half) {
        uint32_t bits = (lanes_of<uint32_t>(warp, in.source[source])[lane] >> (16 * half)) & 0xffff;
        return in.variant & OF_FLOAT16 ? from_float16(bits) : from_bfloat16(bits);
    };
    for (int lane = 0; lane < LANES; lane++)
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < in.count; k += 8) { /* in.count is the depth, 8 or 16 */
                const int deep = k + 2 * (lane % 4) + half;
                for (int r = 0; r < 2; r++) a[lane / 4 + 8 * r][deep] = number(r + k / 4, lane, half);
                b[deep][lane / 4] = number(4 + k / 8, lane, half);
            }
    for (int r = 0; r < 4; r++)
        for (int lane = 0; lane < LANES; lane++) {
            const int row = lane / 4 + 8 * (r >> 1), column = 2 * (lane % 4) + (r & 1);
            double total = lanes_of<float>(warp, in.source[6 + r])[lane];
            for (int k = 0; k < in.count; k++) total += (double)a[row][k] * b[k][column];
            sum[r][lane] = one_nan((float)total);
        }
    for (int r = 0; r < 4; r++) memcpy(lanes_of<float>(warp, in.target[r]), sum[r], sizeof sum[r]);
}
