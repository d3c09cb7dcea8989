/* The decoding of `dct.py`: a rectangle of an image of quantised DCT coefficients, to grey levels, or treated as in
 * `resample.c`.
 *
 *     coefficients.h (a row of blocks) -> dct_kernels.h: unpack, transform -> planes -> upsample -> colour -> treat
 *
 * The result is that of libjpeg-turbo for the JPEG with the same coefficients, to the bit, on every processor: all is
 * whole numbers up to the treatment. Only the blocks that the rectangle needs are touched. There is no Python in it. */
#include <stdlib.h>
#include "rows.h"
#include "coefficients.h"
#include "dct_kernels.h"
#include "dct_shuffles.h"
#if defined(__x86_64__) && defined(__GNUC__)
#include "dct_x86.h"
#elif defined(__aarch64__)
#include "dct_arm.h"
#endif

enum { SLACK = 96 }; /* bytes that kernels read and write beyond a row */

/* The kernels, slowest first; returns how many of them this processor can run. */
static int find_kernels(const Kernels *found[3]) {
    int count = 0;
    found[count++] = &PLAIN;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) {
        found[count++] = &WITH_AVX2;
        const int wide = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
        if (wide && __builtin_cpu_supports("avx512vbmi2")) found[count++] = &WITH_AVX512;
    }
#elif defined(__aarch64__)
    found[count++] = &WITH_NEON;
#endif
    return count;
}

int num_kernels(void) {
    const Kernels *found[3];
    return find_kernels(found);
}

/* The samples of one component that a rectangle needs. */
typedef struct {
    int top, left, bottom, right; /* in samples of the component; multiples of 8 */
    long stride;
    uint8_t *samples;
} Plane;

/* Which blocks rows or columns `first` to `last` of pixels need. Upsampling needs a sample more on either side. */
static void span(int first, int last, int length, int factor, int *begin, int *end) {
    int low = factor == 1 ? first : first / 2 - 1, high = factor == 1 ? last : last / 2 + 1;
    if (low < 0) low = 0;
    if (high >= length / factor) high = length / factor - 1;
    *begin = low / SIDE * SIDE;
    *end = (high / SIDE + 1) * SIDE;
}

static size_t plane_room(int height, int width) {
    return (size_t)(height + 3 * SIDE) * (width + 5 * SIDE) + SLACK;
}

FOR_EACH_PROCESSOR /* they count bits in one instruction, or in a dozen */
static int fill_plane(const Image *image, int component, const Kernels *kernels, int16_t *pairs, uint64_t *used,
                      Plane *plane) {
    const uint8_t *bytes = image->bytes + AT_TABLES + component * BLOCK;
    int16_t table[BLOCK];
    for (int i = 0; i < BLOCK; i++) table[i] = bytes[i];
    const int first = plane->left / SIDE, count = (plane->right - plane->left) / SIDE;
    for (int y = plane->top; y < plane->bottom; y += SIDE) {
        Row row;
        if (open_row(image, component, y / SIDE, &row)) return WRONG_ROW;
        for (int i = 0; i < first; i++) row.values += num_bytes(load64(row.maps + 8 * i));
        row.maps += 8 * first, row.dc += 2 * first;
        kernels->unpack(&row, count, pairs, used);
        kernels->transform(pairs, used, (count + 1) / 2, table, plane->samples + (y - plane->top) * plane->stride,
                           plane->stride);
    }
    return SOUND;
}

/* Chroma at `width` pixels from `left` of pixel row `y`, of half the size each way: libjpeg's "fancy" triangle. Nearer
 * rows and columns count three times; at the border of the image, the last one stands in for the one beyond. */
INLINE void upsample(const Plane *plane, int y, int left, int width, int height_limit, int width_limit,
                     uint16_t *restrict sums, uint8_t *restrict out) {
    int near = y / 2, far = near + (y % 2 ? 1 : -1);
    far = far < 0 ? 0 : far >= height_limit ? height_limit - 1 : far;
    const uint8_t *restrict a = plane->samples + (near - plane->top) * plane->stride;
    const uint8_t *restrict b = plane->samples + (far - plane->top) * plane->stride;
    const int n = plane->right - plane->left;
    for (int i = 0; i < n; i++) sums[i + 1] = 3 * a[i] + b[i];
    if (plane->left == 0) sums[0] = sums[1];
    if (plane->right == width_limit) sums[n + 1] = sums[n];
    /* The two pixels of a sample, from the sample of the first pixel on; `out` begins up to one pixel before `left`. */
    const uint16_t *restrict at = sums + 1 + left / 2 - plane->left;
    const int samples = (left + width - 1) / 2 - left / 2 + 1;
    for (int i = 0; i < samples; i++) {
        out[2 * i] = (uint8_t)((3 * at[i] + at[i - 1] + 8) >> 4);
        out[2 * i + 1] = (uint8_t)((3 * at[i] + at[i + 1] + 7) >> 4);
    }
}

INLINE void turn(const uint8_t *restrict from, long n, uint8_t *restrict to) {
    for (long i = 0; i < n; i++) to[i] = from[n - 1 - i];
}

typedef struct {
    int height, width;
    const float *mean;              /* (height, width, 3), or null: grey levels */
    const float *shifts, *factors;  /* (width * 3): of every pixel the same */
} Target;

typedef struct {
    Plane planes[COMPONENTS];
    int16_t *pairs;
    uint64_t *used;
    uint16_t *sums;
    uint8_t *chroma[2], *turned[COMPONENTS], *rgb;
    float *levels;
    void *memory;
} Room;

/* One image's planes to its pixels. */
FOR_EACH_PROCESSOR
static void draw(const Image *image, const Room *room, const Kernels *kernels, int top, int left, int mirror,
                 const Target *target, void *out) {
    const long width = target->width, n = width * CHANNELS;
    for (int y = 0; y < target->height; y++) {
        const uint8_t *from[COMPONENTS];
        for (int c = 0; c < COMPONENTS; c++) {
            const Plane *plane = room->planes + c;
            if (c && image->factor == 2) {
                upsample(plane, top + y, left, (int)width, image->height / 2, image->width / 2, room->sums,
                         room->chroma[c - 1]);
                from[c] = room->chroma[c - 1] + left % 2;
            } else {
                from[c] = plane->samples + (top + y - plane->top) * plane->stride + left - plane->left;
            }
            if (mirror) {
                turn(from[c], width, room->turned[c]);
                from[c] = room->turned[c];
            }
        }
        kernels->colour(from[0], from[1], from[2], width, room->rgb);
        if (target->mean) {
            const float *mean = target->mean + y * n;
            const float *restrict shifts = target->shifts, *restrict factors = target->factors;
            float *restrict levels = room->levels;
            const uint8_t *restrict rgb = room->rgb;
            for (long i = 0; i < n; i++) levels[i] = ((float)rgb[i] + shifts[i] - mean[i]) * factors[i];
            write_row((float *)out + y * n, levels, n);
        } else {
            memcpy((uint8_t *)out + y * n, room->rgb, n);
        }
    }
}

/* Memory for one image after another, of rectangles of this size. */
static int make_room(int height, int width, Room *room) {
    const size_t plane = (plane_room(height, width) + 63) / 64 * 64, row = (width + 5 * SIDE + SLACK + 63) / 64 * 64;
    const size_t blocks = row / SIDE; /* of which each needs its coefficients and a map */
    const size_t total = 64 + COMPONENTS * plane + blocks * (BLOCK * 2 + 8) + (2 + 2 + COMPONENTS + 3 + 12) * row;
    uint8_t *at = room->memory = calloc(total, 1);
    if (!at) return OUT_OF_MEMORY;
    at += -(uintptr_t)at % 64;
    for (int c = 0; c < COMPONENTS; c++, at += plane) room->planes[c].samples = at;
    room->pairs = (int16_t *)at, at += blocks * BLOCK * 2;
    room->levels = (float *)at, at += 12 * row;
    room->used = (uint64_t *)at, at += blocks * 8;
    room->sums = (uint16_t *)at, at += 2 * row;
    for (int c = 0; c < 2; c++, at += row) room->chroma[c] = at;
    for (int c = 0; c < COMPONENTS; c++, at += row) room->turned[c] = at;
    room->rgb = at;
    return SOUND;
}

static int decode_one(const uint8_t *bytes, int64_t size, int top, int left, int mirror, const Kernels *kernels,
                      const Target *target, Room *room, void *out) {
    Image image;
    int status = open_image(bytes, size, &image);
    if (status) return status;
    if (top < 0 || left < 0 || top > image.height - target->height || left > image.width - target->width) return OUTSIDE;
    for (int c = 0; c < COMPONENTS; c++) {
        Plane *plane = room->planes + c;
        const int factor = c ? image.factor : 1;
        span(top, top + target->height - 1, image.height, factor, &plane->top, &plane->bottom);
        span(left, left + target->width - 1, image.width, factor, &plane->left, &plane->right);
        plane->stride = (plane->right - plane->left + LANES - 1) / LANES * LANES;
        if ((status = fill_plane(&image, c, kernels, room->pairs, room->used, plane))) return status;
    }
    draw(&image, room, kernels, top, left, mirror, target, out);
    return SOUND;
}

/* Rectangles of (height, width) pixels of `count` images, from `corners` (count, 2), mirrored if `mirror` (count) says
 * so. With `mean` (height, width, 3), `shift` (count, 3) and `divisor` (3): float (level + shift - mean) / divisor;
 * without: levels as uint8. `kernels` is below `num_kernels()`. Returns what is wrong with the first unsound image. */
int decode(int64_t count, const uint8_t *const *images, const int64_t *sizes, const int32_t *corners,
           const int32_t *mirror, int64_t height, int64_t width, const float *mean, const float *shift,
           const float *divisor, int64_t kernels, void *out) {
    const Kernels *found[3];
    const long n = width * CHANNELS, step = height * n * (mean ? sizeof(float) : 1);
    Room room;
    if (kernels < 0 || kernels >= find_kernels(found) || height < 1 || width < 1) return OUTSIDE;
    float *treatment = malloc(2 * n * sizeof(float));
    if (!treatment) return OUT_OF_MEMORY;
    Target target = {(int)height, (int)width, mean, treatment, treatment + n};
    int status = make_room((int)height, (int)width, &room);
    for (int64_t i = 0; i < count && !status; i++) {
        for (long j = 0; mean && j < n; j++)
            treatment[j] = shift[CHANNELS * i + j % CHANNELS], treatment[n + j] = 1 / divisor[j % CHANNELS];
        status = decode_one(images[i], sizes[i], corners[2 * i], corners[2 * i + 1], mirror[i], found[kernels], &target,
                            &room, (char *)out + i * step);
    }
    finish_rows();
    free(room.memory);
    free(treatment);
    return status;
}

/* Checks all of an image; `shape` gets its height and width once its header is read. */
FOR_EACH_PROCESSOR
int check(const uint8_t *bytes, int64_t size, int32_t *shape) {
    Image image;
    Row row;
    uint32_t sums[2];
    int status = open_image(bytes, size, &image);
    if (status) return status;
    shape[0] = image.height, shape[1] = image.width;
    add_up(bytes, size, sums);
    if (memcmp(sums, bytes + AT_SUMS, sizeof sums)) return WRONG_CHECKSUM;
    for (int c = 0; c < COMPONENTS; c++)
        for (int y = 0; y < blocks_down(&image, c); y++)
            if (open_row(&image, c, y, &row)) return WRONG_ROW;
    return SOUND;
}
