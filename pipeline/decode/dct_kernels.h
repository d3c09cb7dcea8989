/* The three steps from coefficients to colours, in plain C: what every processor can do, and what vectors must equal.
 *
 * Two blocks that are neighbours in a row make a pair, stored row by row: 8 x 16 numbers. The arithmetic is that of
 * libjpeg-turbo with vectors (`jidctint`, 16 bits between its two passes); its plain C differs only where a sample is
 * further than 384 levels outside 0..255, and wraps there. */

typedef struct {
    /* Unpack `count` blocks of a row into pairs, and move `values` past theirs. `used` gets a pair's maps, or'ed. */
    void (*unpack)(Row *row, int count, int16_t *pairs, uint64_t *used);
    /* Multiply by `table`, 64 numbers, and transform pairs to samples: 8 rows of 16 bytes each, `stride` apart. */
    void (*transform)(const int16_t *pairs, const uint64_t *used, int count, const int16_t *table, uint8_t *samples,
                      long stride);
    /* n pixels; vectors may write up to 96 bytes beyond them, and read as many samples. */
    void (*colour)(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, long n, uint8_t *rgb);
} Kernels;

enum { PAIR = 2 * BLOCK, LANES = 2 * SIDE };
enum { FIX_0_298 = 2446, FIX_0_390 = 3196, FIX_0_541 = 4433, FIX_0_765 = 6270, FIX_0_899 = 7373, FIX_1_175 = 9633,
       FIX_1_501 = 12299, FIX_1_847 = 15137, FIX_1_961 = 16069, FIX_2_053 = 16819, FIX_2_562 = 20995, FIX_3_072 = 25172,
       FIX_BITS = 13, PASS_BITS = 2 }; /* sums of cosines in 2 ** -13, and what the first pass leaves in */

static void unpack_plain(Row *row, int count, int16_t *pairs, uint64_t *used) {
    for (int i = 0; i < count; i++) {
        uint64_t map = load64(row->maps + 8 * i);
        unpack_block(map, (int16_t)load16(row->dc + 2 * i), row->values, pairs + i / 2 * PAIR + i % 2 * SIDE, LANES);
        row->values += num_bytes(map);
        used[i / 2] = i % 2 ? used[i / 2] | map : map;
    }
}

INLINE int16_t narrow(int32_t value) {
    return (int16_t)(value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value);
}

/* One pass over the columns of a pair. Sums wrap: unsigned, so that the language allows it. */
INLINE void pass_plain(const int16_t *in, int shift, int16_t *out) {
    for (int x = 0; x < LANES; x++, in++, out++) {
#define IN(y) ((int32_t)in[(y) * LANES])
#define TIMES(a, constant) ((uint32_t)(a) * (uint32_t)(constant))
#define OUT(y, sum) out[(y) * LANES] = narrow((int32_t)(sum) >> shift)
        const uint32_t half = 1u << (shift - 1);
        const int32_t plus = (int16_t)(IN(0) + IN(4)), minus = (int16_t)(IN(0) - IN(4));
        const uint32_t even2 = TIMES(IN(2), FIX_0_541) + TIMES(IN(6), FIX_0_541 - FIX_1_847);
        const uint32_t even3 = TIMES(IN(2), FIX_0_541 + FIX_0_765) + TIMES(IN(6), FIX_0_541);
        const uint32_t even0 = ((uint32_t)plus << FIX_BITS) + half, even1 = ((uint32_t)minus << FIX_BITS) + half;
        const uint32_t a0 = even0 + even3, a3 = even0 - even3, a1 = even1 + even2, a2 = even1 - even2;
        const int32_t z3 = (int16_t)(IN(7) + IN(3)), z4 = (int16_t)(IN(5) + IN(1));
        const uint32_t w3 = TIMES(z3, FIX_1_175 - FIX_1_961) + TIMES(z4, FIX_1_175);
        const uint32_t w4 = TIMES(z3, FIX_1_175) + TIMES(z4, FIX_1_175 - FIX_0_390);
        const uint32_t b0 = TIMES(IN(7), FIX_0_298 - FIX_0_899) + TIMES(IN(1), -FIX_0_899) + w3;
        const uint32_t b3 = TIMES(IN(7), -FIX_0_899) + TIMES(IN(1), FIX_1_501 - FIX_0_899) + w4;
        const uint32_t b1 = TIMES(IN(5), FIX_2_053 - FIX_2_562) + TIMES(IN(3), -FIX_2_562) + w4;
        const uint32_t b2 = TIMES(IN(5), -FIX_2_562) + TIMES(IN(3), FIX_3_072 - FIX_2_562) + w3;
        OUT(0, a0 + b3), OUT(7, a0 - b3), OUT(1, a1 + b2), OUT(6, a1 - b2);
        OUT(2, a2 + b1), OUT(5, a2 - b1), OUT(3, a3 + b0), OUT(4, a3 - b0);
#undef IN
#undef TIMES
#undef OUT
    }
}

/* Rows become columns, in each of the two blocks. */
INLINE void transpose_plain(const int16_t *in, int16_t *out) {
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < LANES; x++) out[y * LANES + x] = in[x % SIDE * LANES + x / SIDE * SIDE + y];
}

FOR_EACH_PROCESSOR
static void transform_plain(const int16_t *pairs, const uint64_t *used, int count, const int16_t *table,
                            uint8_t *samples, long stride) {
    int16_t a[PAIR], b[PAIR];
    (void)used;
    for (; count--; pairs += PAIR, samples += LANES) {
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < LANES; x++)
                a[y * LANES + x] = (int16_t)((uint32_t)pairs[y * LANES + x] * (uint32_t)table[y * SIDE + x % SIDE]);
        pass_plain(a, FIX_BITS - PASS_BITS, b);
        transpose_plain(b, a);
        pass_plain(a, FIX_BITS + PASS_BITS + 3, b);
        transpose_plain(b, a);
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < LANES; x++) {
                int level = a[y * LANES + x] + 128;
                samples[y * stride + x] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
            }
    }
}

INLINE uint8_t level_of(int32_t value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* As in libjpeg's tables (`jdcolor.c`): 1.402, 0.344, 0.714 and 1.772 in 2 ** -16, rounded. */
FOR_EACH_PROCESSOR
static void colour_plain(const uint8_t *restrict luma, const uint8_t *restrict blue, const uint8_t *restrict red, long n,
                         uint8_t *restrict rgb) {
    for (long i = 0; i < n; i++) {
        const int32_t y = luma[i], b = blue[i] - 128, r = red[i] - 128;
        rgb[3 * i] = level_of(y + ((91881 * r + 32768) >> 16));
        rgb[3 * i + 1] = level_of(y + ((-22554 * b - 46802 * r + 32768) >> 16));
        rgb[3 * i + 2] = level_of(y + ((116130 * b + 32768) >> 16));
    }
}

static const Kernels PLAIN = {unpack_plain, transform_plain, colour_plain};
