/* Local response normalisation on CPUs, forward and backward: `lrn.py` has the formulas, `lrn_cpu.py` calls it.
 *
 * A segment is the channels of one tower at one pixel, side by side in memory. A few at a time are copied into a buffer
 * with zeros between them: window sums are then sums of long shifted runs, and all intermediate results stay in the
 * first-level cache. Plain C, without Python, so one build serves every interpreter.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE static inline __attribute__((always_inline))

enum { BLOCK = 1024 }; /* floats in each of four buffers, roughly */

/* sums[i] = x[i - half] + ... + x[i + half] */
INLINE void window_sums(const float *restrict x, long n, long half, float *restrict sums) {
    if (half == 2) { /* the paper's window: one pass */
        for (long i = 0; i < n; i++) sums[i] = x[i - 2] + x[i - 1] + x[i] + x[i + 1] + x[i + 2];
        return;
    }
    for (long i = 0; i < n; i++) sums[i] = x[i];
    for (long d = 1; d <= half; d++)
        for (long i = 0; i < n; i++) sums[i] += x[i - d] + x[i + d];
}

/* s ** -1/4: a guess from the bits of the exponent, 3% off, then three Newton steps, to 2e-7. Roots and divisions take
 * twice as long. */
INLINE float inverse_fourth_root(float s) {
    int32_t bits;
    float y;
    memcpy(&bits, &s, sizeof s);
    bits = 0x4F586000 - (bits >> 2);
    memcpy(&y, &bits, sizeof y);
    for (int step = 0; step < 3; step++) y *= 1.25f - 0.25f * s * ((y * y) * (y * y));
    return y;
}

/* powers = s ** -beta and s = 1 / s; the paper's 3/4 takes a tenth of the time of other powers. */
INLINE void invert(float *restrict s, long n, float beta, float *restrict powers) {
    if (beta != 0.75f) {
        for (long i = 0; i < n; i++) powers[i] = powf(s[i], -beta), s[i] = 1 / s[i];
        return;
    }
    for (long i = 0; i < n; i++) {
        const float root = inverse_fourth_root(s[i]);
        powers[i] = root * root * root, s[i] = powers[i] * root;
    }
}

/* Copy `count` segments of `size` floats to places `step` apart, or back. */
INLINE void spread(const float *restrict from, long count, long size, long step, float *restrict to) {
    for (long i = 0; i < count; i++) memcpy(to + i * step, from + i * size, size * sizeof *to);
}
INLINE void collect(const float *restrict from, long count, long size, long step, float *restrict to) {
    for (long i = 0; i < count; i++) memcpy(to + i * size, from + i * step, size * sizeof *to);
}

/* With `g` NULL out = x r, else out = g r - 2 alpha beta x W(g x r / s). Returns 0, or -1 if out of memory. */
FOR_EACH_PROCESSOR
int response_norm(int64_t count, int64_t size, int64_t half, float alpha, float beta, float k, const float *x,
                  const float *g, float *out) {
    const long step = size + half, most = BLOCK / step > 0 ? BLOCK / step : 1, room = most * step + 2 * half;
    float *buffers = calloc(4 * room, sizeof *buffers);
    if (buffers == NULL) return -1;
    float *restrict a = buffers + half, *restrict b = a + room, *restrict s = b + room, *restrict r = s + room;
    for (long done = 0; done < count; done += most) {
        const long segments = count - done < most ? count - done : most, n = segments * step;
        spread(x + done * size, segments, size, step, a);
        for (long i = 0; i < n; i++) b[i] = a[i] * a[i];
        for (long i = n; i < n + half; i++) b[i] = 0; /* a shorter last block leaves old values behind it */
        window_sums(b, n, half, s);
        for (long i = 0; i < n; i++) s[i] = k + alpha * s[i];
        invert(s, n, beta, r);
        if (g == NULL) {
            for (long i = 0; i < n; i++) b[i] = a[i] * r[i];
        } else {
            spread(g + done * size, segments, size, step, b); /* squares remain between segments, but x is zero there */
            for (long i = 0; i < n; i++) r[i] *= b[i], b[i] = a[i] * r[i] * s[i];
            window_sums(b, n, half, s);
            for (long i = 0; i < n; i++) b[i] = r[i] - 2 * alpha * beta * a[i] * s[i];
        }
        collect(b, segments, size, step, out + done * size);
    }
    free(buffers);
    return 0;
}
