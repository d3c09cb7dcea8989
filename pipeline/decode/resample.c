/* The resampling of `resample.py`: a rectangle of each image to a square of whole grey levels, and what follows it.
 *
 * The filter is the triangle of Pillow, torchvision and DALI: as wide as an output pixel when shrinking, as a source
 * pixel when enlarging. Beyond the border the edge pixel repeats, as in DALI. Sums are float; the vertical one comes
 * first, over whole rows at a time. Plain C without Python in it, so one build serves every interpreter.
 */
#include <math.h>
#include <stdlib.h>
#include "rows.h"

/* Red, green, blue, and a float of the next pixel. */
typedef float pixel __attribute__((vector_size(16), aligned(4), may_alias));

typedef struct {
    int32_t first; /* source index of the first weight */
    int32_t count;
    const float *weights;
} Taps;

/* No output pixel has more weights. */
static int max_taps(float low, float high, int size) {
    float scale = (high - low) / size;
    return 2 * (int)ceilf(scale > 1 ? scale : 1) + 3;
}

/* Which source pixels each of `size` output pixels sums, along an axis of `length` source pixels. `store` has room for
 * size * max_taps weights. */
static void plan_axis(float low, float high, int size, int length, int mirror, Taps *taps, float *store) {
    double scale = ((double)high - low) / size, support = scale > 1 ? scale : 1;
    int room = max_taps(low, high, size);
    for (int out = 0; out < size; out++, store += room) {
        double centre = low + ((mirror ? size - 1 - out : out) + 0.5) * scale, total = 0;
        int begin = (int)floor(centre - support - 0.5) + 1, end = (int)ceil(centre + support - 0.5) - 1;
        int first = begin < 0 ? 0 : begin >= length ? length - 1 : begin;
        int last = end < 0 ? 0 : end >= length ? length - 1 : end;
        memset(store, 0, room * sizeof *store);
        for (int i = begin; i <= end; i++) {
            double weight = 1 - fabs((i + 0.5 - centre) / support);
            int at = i < first ? first : i > last ? last : i;
            if (weight > 0) store[at - first] += (float)weight, total += weight;
        }
        while (last > first && store[last - first] == 0) last--;
        int skip = 0;
        while (skip < last - first && store[skip] == 0) skip++;
        for (int i = skip; i <= last - first; i++) store[i] = (float)(store[i] / total);
        taps[out] = (Taps){first + skip, last - first + 1 - skip, store + skip};
    }
}

/* The weighted sum of source rows of n bytes each. Two rows at a time: half the trips to `sums`. */
INLINE void add_rows(const uint8_t *restrict pixels, long n, Taps taps, float *restrict sums) {
    const uint8_t *row = pixels + taps.first * n;
    const float first = taps.weights[0];
    for (long i = 0; i < n; i++) sums[i] = first * row[i];
    int t = 1;
    for (; t + 1 < taps.count; t += 2) {
        const uint8_t *a = row + t * n, *b = a + n;
        const float u = taps.weights[t], v = taps.weights[t + 1];
        for (long i = 0; i < n; i++) sums[i] += u * a[i] + v * b[i];
    }
    if (t < taps.count) {
        const uint8_t *a = row + t * n;
        const float u = taps.weights[t];
        for (long i = 0; i < n; i++) sums[i] += u * a[i];
    }
}

/* One output row from one row of sums, a whole pixel at a time. */
INLINE void add_columns(const float *restrict sums, const Taps *taps, int size, float *restrict out) {
    for (int x = 0; x < size; x++, out += CHANNELS) {
        const float *source = sums + CHANNELS * taps[x].first;
        pixel sum = *(const pixel *)source * taps[x].weights[0];
        for (int t = 1; t < taps[x].count; t++) sum += *(const pixel *)(source + CHANNELS * t) * taps[x].weights[t];
        *(pixel *)out = sum; /* its fourth float is overwritten by the next pixel */
    }
}

/* The same if every output pixel is one source pixel; `turned`, 3 * size bytes, is room to turn a mirrored row. */
INLINE void pick_columns(const uint8_t *restrict row, const Taps *columns, int size, uint8_t *restrict turned,
                         float *restrict out) {
    const uint8_t *source = row + CHANNELS * columns[0].first;
    if (columns[size - 1].first < columns[0].first) {
        for (int x = 0; x < size; x++) memcpy(turned + CHANNELS * x, source - CHANNELS * x, CHANNELS);
        source = turned;
    }
    for (long i = 0; i < CHANNELS * size; i++) out[i] = source[i];
}

/* Whether the output pixels are consecutive source pixels, forwards or backwards. */
static int is_picked(const Taps *taps, int size) {
    const int step = taps[size - 1].first < taps[0].first ? -1 : 1;
    for (int i = 0; i < size; i++)
        if (taps[i].count > 1 || taps[i].first != taps[0].first + step * i) return 0;
    return 1;
}

/* One image. With `mean` (size, size, 3), `shift` (3) and `divisor` (3): float (level + shift - mean) / divisor; without:
 * the levels as uint8. Returns -1 if memory runs out, else 0. */
FOR_EACH_PROCESSOR
static int resample_one(const uint8_t *pixels, int height, int width, const float *low, const float *high, int mirror,
                        int size, const float *mean, const float *shift, const float *divisor, void *out) {
    const long n = (long)width * CHANNELS, m = (long)size * CHANNELS;
    const int down = max_taps(low[0], high[0], size), across = max_taps(low[1], high[1], size);
    const size_t num_floats = (size_t)size * (down + across) + (n + 1) + (m + 1) + 2 * m; /* a pixel has a fourth float */
    Taps *rows = malloc(2 * size * sizeof(Taps) + num_floats * sizeof(float));
    if (rows == NULL) return -1;
    Taps *columns = rows + size;
    float *weights = (float *)(columns + size), *sums = weights + (size_t)size * (down + across);
    float *levels = sums + n + 1, *shifts = levels + m + 1, *factors = shifts + m;
    plan_axis(low[0], high[0], size, height, 0, rows, weights);
    plan_axis(low[1], high[1], size, width, mirror, columns, weights + (size_t)size * down);
    const int picked = is_picked(rows, size) && is_picked(columns, size);
    for (long i = 0; mean && i < m; i++) shifts[i] = shift[i % CHANNELS], factors[i] = 1 / divisor[i % CHANNELS];
    sums[n] = 0;
    for (int y = 0; y < size; y++) {
        if (picked) {
            pick_columns(pixels + rows[y].first * n, columns, size, (uint8_t *)sums, levels);
        } else {
            add_rows(pixels, n, rows[y], sums);
            add_columns(sums, columns, size, levels);
        }
        if (mean) {
            float *to = (float *)out + y * m;
            const float *from = mean + y * m;
            for (long i = 0; i < m; i++) levels[i] = (rintf(levels[i]) + shifts[i] - from[i]) * factors[i];
            write_row(to, levels, m);
        } else {
            uint8_t *to = (uint8_t *)out + y * m;
            for (long i = 0; i < m; i++) to[i] = (uint8_t)(int)rintf(levels[i]);
        }
    }
    free(rows);
    return 0;
}

/* `count` images; array arguments are as in resample.py, rows of one image after those of another. */
int resample(int64_t count, const uint8_t *const *pixels, const int32_t *shapes, const float *low, const float *high,
             const int32_t *mirror, int64_t size, const float *mean, const float *shift, const float *divisor, void *out) {
    const long step = size * size * CHANNELS * (mean ? sizeof(float) : 1);
    for (long i = 0; i < count; i++)
        if (resample_one(pixels[i], shapes[2 * i], shapes[2 * i + 1], low + 2 * i, high + 2 * i, mirror[i], size, mean,
                         shift + CHANNELS * i, divisor, (char *)out + i * step))
            return -1;
    finish_rows();
    return 0;
}
