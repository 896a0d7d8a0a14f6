/* exp and the sigmoid, in forms that compilers vectorise; within 2 units in the last place. NaN stays NaN. */
#pragma once
#include "vectors.h"

/* x = n ln 2 + r; adding ROUNDER leaves n in the lowest bits of the sum. exp(r) by its series. */
INLINE float exponential_float(float x) {
    const float rounder = 12582912.0f; /* 1.5 * 2^23 */
    x = x < -88.0f ? -88.0f : x;       /* at the ends the power is zero, and infinity */
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * 1.44269504088896341f + rounder, n = shifted - rounder;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f; /* Cephes' expf */
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, 4);
    bits = (bits + 127) << 23;
    memcpy(&power, &bits, 4);
    return y * power;
}

INLINE double exponential_double(double x) {
    const double rounder = 6755399441055744.0; /* 1.5 * 2^52 */
    x = x < -709.0 ? -709.0 : x;
    x = x > 710.0 ? 710.0 : x;
    double shifted = x * 1.4426950408889634 + rounder, n = shifted - rounder;
    double r = x - n * 6.93145751953125e-1 - n * 1.42860682030941723212e-6;
    double y = 1.0 / 6227020800.0; /* 1 / 13! */
    y = y * r + 1.0 / 479001600.0;
    y = y * r + 1.0 / 39916800.0;
    y = y * r + 1.0 / 3628800.0;
    y = y * r + 1.0 / 362880.0;
    y = y * r + 1.0 / 40320.0;
    y = y * r + 1.0 / 5040.0;
    y = y * r + 1.0 / 720.0;
    y = y * r + 1.0 / 120.0;
    y = y * r + 1.0 / 24.0;
    y = y * r + 1.0 / 6.0;
    y = y * r + 0.5;
    y = y * r * r + r + 1.0;
    uint64_t bits;
    double power;
    memcpy(&bits, &shifted, 8);
    bits = (bits + 1023) << 52;
    memcpy(&power, &bits, 8);
    return y * power;
}

INLINE SCALAR exponential(SCALAR x) { return JOINED(exponential, SCALAR)(x); }
/* Zero where exp(-x) overflows, a little below the smallest normal number. */
INLINE SCALAR sigmoid(SCALAR x) { return 1 / (1 + exponential(-x)); }

/* v[0..n) = softmax(v). A NaN makes all of them NaN. */
static inline void softmax(SCALAR* v, idx n) {
    SCALAR top = v[0], sum = 0;
    for (idx i = 1; i < n; i++) top = v[i] > top ? v[i] : top;
    for (idx i = 0; i < n; i++) {
        v[i] = exponential(v[i] - top);
        sum += v[i];
    }
    for (idx i = 0; i < n; i++) v[i] /= sum;
}
