/* The kernels with AVX2, where a pair is eight registers of sixteen numbers; with AVX-512 VBMI2 one instruction unpacks
 * the low bytes of a block. */
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,bmi,bmi2,popcnt,lzcnt,fma")))
#ifndef AVX512 /* a test emulates it */
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,avx2,bmi,bmi2,popcnt,lzcnt,fma")))
#endif
#define AVX2_INLINE AVX2 INLINE

/* A row of eight coefficients, from the next bytes. Loads may read beyond them, into the padding. */
AVX2_INLINE __m128i unpack_eight(unsigned map, const uint8_t *values) {
    __m128i shuffle = _mm_loadl_epi64((const __m128i *)SHUFFLES[map]);
    return _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i *)values), shuffle);
}

AVX2_INLINE void unpack_block_avx2(uint64_t map, const uint8_t *values, int16_t *block) {
    const int num = _mm_popcnt_u64(map >> 1), wide = map & 1;
    map &= ~(uint64_t)1;
    for (int y = 0; y < SIDE; y++, map >>= SIDE, block += LANES) {
        __m128i low = unpack_eight(map & 255, values), eight = _mm_cvtepi8_epi16(low);
        if (__builtin_expect(wide, 0)) eight = _mm_unpacklo_epi8(low, unpack_eight(map & 255, values + num));
        _mm_store_si128((__m128i *)block, eight);
        values += _mm_popcnt_u32(map & 255);
    }
}

AVX2 static void unpack_avx2(Row *row, int count, int16_t *pairs, uint64_t *used) {
    for (int i = 0; i < count; i++) {
        uint64_t map = load64(row->maps + 8 * i);
        int16_t *block = pairs + i / 2 * PAIR + i % 2 * SIDE;
        unpack_block_avx2(map, row->values, block);
        block[0] = (int16_t)load16(row->dc + 2 * i);
        row->values += num_bytes(map);
        used[i / 2] = i % 2 ? used[i / 2] | map : map;
    }
}

AVX512 static void unpack_avx512(Row *row, int count, int16_t *pairs, uint64_t *used) {
    for (int i = 0; i < count; i++) {
        const uint64_t map = load64(row->maps + 8 * i), places = map & ~(uint64_t)1;
        int16_t *block = pairs + i / 2 * PAIR + i % 2 * SIDE;
        __m512i low = _mm512_maskz_expand_epi8(places, _mm512_loadu_si512(row->values)), high = _mm512_setzero_si512();
        if (map & 1)
            high = _mm512_maskz_expand_epi8(places, _mm512_loadu_si512(row->values + _mm_popcnt_u64(places)));
        else
            high = _mm512_movm_epi8(_mm512_movepi8_mask(low)); /* the sign */
        /* rows 0, 2, 4, 6; rows 1, 3, 5, 7 */
        __m512i even = _mm512_unpacklo_epi8(low, high), odd = _mm512_unpackhi_epi8(low, high);
        _mm_store_si128((__m128i *)block, _mm512_castsi512_si128(even));
        _mm_store_si128((__m128i *)(block + LANES), _mm512_castsi512_si128(odd));
        _mm_store_si128((__m128i *)(block + 2 * LANES), _mm512_extracti32x4_epi32(even, 1));
        _mm_store_si128((__m128i *)(block + 3 * LANES), _mm512_extracti32x4_epi32(odd, 1));
        _mm_store_si128((__m128i *)(block + 4 * LANES), _mm512_extracti32x4_epi32(even, 2));
        _mm_store_si128((__m128i *)(block + 5 * LANES), _mm512_extracti32x4_epi32(odd, 2));
        _mm_store_si128((__m128i *)(block + 6 * LANES), _mm512_extracti32x4_epi32(even, 3));
        _mm_store_si128((__m128i *)(block + 7 * LANES), _mm512_extracti32x4_epi32(odd, 3));
        block[0] = (int16_t)load16(row->dc + 2 * i);
        row->values += num_bytes(map);
        used[i / 2] = i % 2 ? used[i / 2] | map : map;
    }
}

/* a * u + b * v in 32 bits: four columns of either block of a pair in [0], the other four in [1]. */
#define PRODUCTS(a, b, u, v)                                                                       \
    {_mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), _mm256_set1_epi32((uint16_t)(u) | (uint32_t)(v) << 16)), \
     _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), _mm256_set1_epi32((uint16_t)(u) | (uint32_t)(v) << 16))}
/* a * 2 ** FIX_BITS, rounding of the last shift included */
#define SCALED(a)                                                                                            \
    {_mm256_add_epi32(half, _mm256_srai_epi32(_mm256_unpacklo_epi16(zero, a), 16 - FIX_BITS)),               \
     _mm256_add_epi32(half, _mm256_srai_epi32(_mm256_unpackhi_epi16(zero, a), 16 - FIX_BITS))}
#define SUM(a, b) {_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])}
#define DIFFERENCE(a, b) {_mm256_sub_epi32(a[0], b[0]), _mm256_sub_epi32(a[1], b[1])}
#define OUT(y, operation, a, b)                                                                              \
    r[y] = _mm256_packs_epi32(_mm256_srai_epi32(operation(a[0], b[0]), shift),                               \
                              _mm256_srai_epi32(operation(a[1], b[1]), shift))

AVX2_INLINE void pass_avx2(__m256i r[SIDE], const int shift) {
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (shift - 1));
    const __m256i plus = _mm256_add_epi16(r[0], r[4]), minus = _mm256_sub_epi16(r[0], r[4]);
    const __m256i z3 = _mm256_add_epi16(r[7], r[3]), z4 = _mm256_add_epi16(r[5], r[1]);
    const __m256i even2[] = PRODUCTS(r[2], r[6], FIX_0_541, FIX_0_541 - FIX_1_847);
    const __m256i even3[] = PRODUCTS(r[2], r[6], FIX_0_541 + FIX_0_765, FIX_0_541);
    const __m256i even0[] = SCALED(plus), even1[] = SCALED(minus);
    const __m256i a0[] = SUM(even0, even3), a3[] = DIFFERENCE(even0, even3);
    const __m256i a1[] = SUM(even1, even2), a2[] = DIFFERENCE(even1, even2);
    const __m256i w3[] = PRODUCTS(z3, z4, FIX_1_175 - FIX_1_961, FIX_1_175);
    const __m256i w4[] = PRODUCTS(z3, z4, FIX_1_175, FIX_1_175 - FIX_0_390);
    const __m256i p0[] = PRODUCTS(r[7], r[1], FIX_0_298 - FIX_0_899, -FIX_0_899), b0[] = SUM(p0, w3);
    const __m256i p3[] = PRODUCTS(r[7], r[1], -FIX_0_899, FIX_1_501 - FIX_0_899), b3[] = SUM(p3, w4);
    const __m256i p1[] = PRODUCTS(r[5], r[3], FIX_2_053 - FIX_2_562, -FIX_2_562), b1[] = SUM(p1, w4);
    const __m256i p2[] = PRODUCTS(r[5], r[3], -FIX_2_562, FIX_3_072 - FIX_2_562), b2[] = SUM(p2, w3);
    OUT(0, _mm256_add_epi32, a0, b3), OUT(7, _mm256_sub_epi32, a0, b3);
    OUT(1, _mm256_add_epi32, a1, b2), OUT(6, _mm256_sub_epi32, a1, b2);
    OUT(2, _mm256_add_epi32, a2, b1), OUT(5, _mm256_sub_epi32, a2, b1);
    OUT(3, _mm256_add_epi32, a3, b0), OUT(4, _mm256_sub_epi32, a3, b0);
}
#undef OUT

#define UNPACK(bits, to, i, j, a, b) to[i] = _mm256_unpacklo_epi##bits(a, b), to[j] = _mm256_unpackhi_epi##bits(a, b)

AVX2_INLINE void transpose_avx2(__m256i r[SIDE]) {
    __m256i s[SIDE];
    for (int i = 0; i < 4; i++) UNPACK(16, s, 2 * i, 2 * i + 1, r[i], r[i + 4]); /* 0 4, 1 5, 2 6, 3 7 */
    for (int i = 0; i < 4; i++) UNPACK(16, r, 2 * i, 2 * i + 1, s[i], s[i + 4]); /* 0 2 4 6, 1 3 5 7 */
    for (int i = 0; i < 4; i++) UNPACK(16, s, 2 * i, 2 * i + 1, r[i], r[i + 4]);
    for (int i = 0; i < SIDE; i++) r[i] = s[i];
}

/* From eight columns of either block to eight rows of both, 16 bytes each. */
AVX2_INLINE void store_avx2(const __m256i c[SIDE], uint8_t *samples, long stride) {
    __m256i p[4], q[4], s[4];
    for (int i = 0; i < 4; i++)
        p[i] = _mm256_add_epi8(_mm256_packs_epi16(c[i], c[i + 4]), _mm256_set1_epi8(-128));
    UNPACK(8, q, 0, 2, p[0], p[1]);
    UNPACK(8, q, 1, 3, p[2], p[3]);
    UNPACK(16, s, 0, 1, q[0], q[1]);
    UNPACK(16, s, 2, 3, q[2], q[3]);
    UNPACK(32, p, 0, 1, s[0], s[2]);
    UNPACK(32, p, 2, 3, s[1], s[3]);
    for (int i = 0; i < 4; i++, samples += 2 * stride) {
        __m256i two = _mm256_permute4x64_epi64(p[i], 0xD8);
        _mm_storeu_si128((__m128i *)samples, _mm256_castsi256_si128(two));
        _mm_storeu_si128((__m128i *)(samples + stride), _mm256_extracti128_si256(two, 1));
    }
}

/* A pair with no coefficients but DC: every sample of a block is the same. */
AVX2_INLINE void fill_avx2(const int16_t *pair, int16_t factor, uint8_t *samples, long stride) {
    uint64_t eight[2];
    for (int i = 0; i < 2; i++) {
        int16_t dc = narrow((int16_t)(pair[i * SIDE] * factor) * (1 << PASS_BITS));
        eight[i] = level_of(((dc + 16) >> (PASS_BITS + 3)) + 128) * UINT64_C(0x0101010101010101);
    }
    for (int y = 0; y < SIDE; y++) memcpy(samples + y * stride, eight, sizeof eight);
}

AVX2 static void transform_avx2(const int16_t *pairs, const uint64_t *used, int count, const int16_t *table,
                                uint8_t *samples, long stride) {
    for (; count--; pairs += PAIR, used++, samples += LANES) {
        if (*used <= 1) {
            fill_avx2(pairs, table[0], samples, stride);
            continue;
        }
        __m256i r[SIDE];
        for (int y = 0; y < SIDE; y++) {
            __m256i factors = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + y * SIDE)));
            r[y] = _mm256_mullo_epi16(_mm256_load_si256((const __m256i *)(pairs + y * LANES)), factors);
        }
        pass_avx2(r, FIX_BITS - PASS_BITS);
        transpose_avx2(r);
        pass_avx2(r, FIX_BITS + PASS_BITS + 3);
        store_avx2(r, samples, stride);
    }
}

/* Sixteen chroma samples, less 128. */
AVX2_INLINE __m256i load_chroma(const uint8_t *from) {
    return _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from)), _mm256_set1_epi16(128));
}

/* c * constant / 2 ** 16, rounded, for a constant of less than 2 ** 15. */
AVX2_INLINE __m256i portion(__m256i c, int16_t constant) {
    __m256i high = _mm256_mulhi_epi16(_mm256_add_epi16(c, c), _mm256_set1_epi16(constant));
    return _mm256_srai_epi16(_mm256_add_epi16(high, _mm256_set1_epi16(1)), 1);
}

/* Sixteen pixels, their colours interleaved. */
AVX2_INLINE void store_pixels(__m128i red, __m128i green, __m128i blue, uint8_t *rgb) {
    static const int8_t FROM[3][3][16] = {
        {{0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5},
         {-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1},
         {-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1}},
        {{-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1},
         {5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10},
         {-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1}},
        {{-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1},
         {-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1},
         {10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15}}};
    const __m128i planes[] = {red, green, blue};
    for (int part = 0; part < 3; part++) {
        __m128i bytes = _mm_setzero_si128();
        for (int c = 0; c < 3; c++)
            bytes = _mm_or_si128(bytes, _mm_shuffle_epi8(planes[c], _mm_loadu_si128((const __m128i *)FROM[part][c])));
        _mm_storeu_si128((__m128i *)(rgb + 16 * part), bytes);
    }
}

AVX2_INLINE __m128i levels_avx2(__m256i values) {
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi16(values, values), 0xD8));
}

AVX2 static void colour_avx2(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, long n, uint8_t *rgb) {
    const __m256i half = _mm256_set1_epi32(32768);
    for (; n > 0; n -= 16, luma += 16, blue += 16, red += 16, rgb += 48) {
        const __m256i y = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)luma));
        const __m256i b = load_chroma(blue), r = load_chroma(red);
        const __m256i g[] = PRODUCTS(b, r, -22554, 65536 - 46802); /* 65536 more than it should be: r more */
        const __m256i low = _mm256_srai_epi32(_mm256_add_epi32(g[0], half), 16);
        const __m256i high = _mm256_srai_epi32(_mm256_add_epi32(g[1], half), 16);
        const __m256i from_red = _mm256_add_epi16(r, portion(r, 91881 - 65536));
        const __m256i from_blue = _mm256_add_epi16(_mm256_add_epi16(b, b), portion(b, 116130 - 131072));
        const __m256i green = _mm256_sub_epi16(_mm256_packs_epi32(low, high), r);
        store_pixels(levels_avx2(_mm256_add_epi16(y, from_red)), levels_avx2(_mm256_add_epi16(y, green)),
                     levels_avx2(_mm256_add_epi16(y, from_blue)), rgb);
    }
}

static const Kernels WITH_AVX2 = {unpack_avx2, transform_avx2, colour_avx2};
static const Kernels WITH_AVX512 = {unpack_avx512, transform_avx2, colour_avx2};
