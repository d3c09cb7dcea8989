/* Response normalisation on CPUs, forward and backward: `lrn.py` has the formulas, `lrn_cpu.py` calls it.
 *
 * Over channels, a segment is the channels of one tower at one pixel, side by side in memory. A few at a time are copied
 * into a buffer with zeros between them: window sums are then sums of long shifted runs, and all intermediate results
 * stay in the first-level cache. Over places, the same is done with the rows of a few channels of one image. Plain C,
 * without Python, so one build serves every interpreter.
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
enum { LANES = 32 };   /* channels that are normalised over places at a time */

/* sums[i] = x[i - half * stride] + ... + x[i] + ... + x[i + half * stride] */
INLINE void window_sums(const float *restrict x, long n, long half, long stride, float *restrict sums) {
    if (half == 2) { /* the paper's window: one pass */
        const float *restrict before = x - 2 * stride, *restrict after = x + 2 * stride;
        for (long i = 0; i < n; i++) sums[i] = before[i] + x[i - stride] + x[i] + x[i + stride] + after[i];
        return;
    }
    for (long i = 0; i < n; i++) sums[i] = x[i];
    for (long d = stride; d <= half * stride; d += stride)
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

/* Copy `lanes` channels of an image (height, width, channels) to rows `step` apart, or back. */
INLINE void gather(const float *restrict image, long height, long width, long channels, long lanes, long step,
                   float *restrict rows) {
    for (long y = 0; y < height; y++)
        for (long x = 0; x < width; x++)
            memcpy(rows + y * step + x * lanes, image + (y * width + x) * channels, lanes * sizeof *rows);
}
INLINE void scatter(const float *restrict rows, long height, long width, long channels, long lanes, long step,
                    float *restrict image) {
    for (long y = 0; y < height; y++)
        for (long x = 0; x < width; x++)
            memcpy(image + (y * width + x) * channels, rows + y * step + x * lanes, lanes * sizeof *rows);
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
        window_sums(b, n, half, 1, s);
        for (long i = 0; i < n; i++) s[i] = k + alpha * s[i];
        invert(s, n, beta, r);
        if (g == NULL) {
            for (long i = 0; i < n; i++) b[i] = a[i] * r[i];
        } else {
            spread(g + done * size, segments, size, step, b); /* squares remain between segments, but x is zero there */
            for (long i = 0; i < n; i++) r[i] *= b[i], b[i] = a[i] * r[i] * s[i];
            window_sums(b, n, half, 1, s);
            for (long i = 0; i < n; i++) b[i] = r[i] - 2 * alpha * beta * a[i] * s[i];
        }
        collect(b, segments, size, step, out + done * size);
    }
    free(buffers);
    return 0;
}

/* The same over places: (count, height, width, channels), and W the sum over (2 half + 1)^2 places of one channel.
 *
 * In a buffer, rows of `lanes` channels have `half` places of zeros between them, so a shifted run never meets another
 * row's numbers. Sums down columns shift by rows; above the first and below the last there are rows of zeros.
 */
FOR_EACH_PROCESSOR
int spatial_norm(int64_t count, int64_t height, int64_t width, int64_t channels, int64_t half, float alpha, float beta,
                 float k, const float *x, const float *g, float *out) {
    const long most = channels < LANES ? channels : LANES, margin = half * (width + half) * most;
    const long room = height * (width + half) * most + 2 * margin;
    float *buffers = calloc(5 * room, sizeof *buffers);
    if (buffers == NULL) return -1;
    float *restrict a = buffers + margin, *restrict b = a + room, *restrict rows = b + room;
    float *restrict s = rows + room, *restrict r = s + room;
    long laid_out = most; /* channels whose places the buffers have now */
    for (long image = 0; image < count; image++)
        for (long first = 0; first < channels; first += most) {
            const long lanes = channels - first < most ? channels - first : most;
            const long step = (width + half) * lanes, n = height * step;
            const long offset = image * height * width * channels + first;
            if (lanes != laid_out) memset(buffers, 0, 5 * room * sizeof *buffers), laid_out = lanes;
            gather(x + offset, height, width, channels, lanes, step, a);
            for (long i = 0; i < n; i++) b[i] = a[i] * a[i];
            window_sums(b, n, half, lanes, rows);
            window_sums(rows, n, half, step, s);
            for (long i = 0; i < n; i++) s[i] = k + alpha * s[i];
            invert(s, n, beta, r);
            if (g == NULL) {
                for (long i = 0; i < n; i++) b[i] = a[i] * r[i];
            } else {
                gather(g + offset, height, width, channels, lanes, step, b);
                for (long i = 0; i < n; i++) r[i] *= b[i], b[i] = a[i] * r[i] * s[i];
                window_sums(b, n, half, lanes, rows);
                window_sums(rows, n, half, step, s);
                for (long i = 0; i < n; i++) b[i] = r[i] - 2 * alpha * beta * a[i] * s[i];
            }
            scatter(b, height, width, channels, lanes, step, out + offset);
        }
    free(buffers);
    return 0;
}
