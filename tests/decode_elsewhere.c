/* Decodes an image of coefficients by the kernels of another processor: ARM's, under an emulator, or those with AVX-512,
 * whose few instructions are written here in C after Intel's description, where a processor lacks them.
 *
 *     decode_elsewhere IMAGE PIXELS */
#include <stdio.h>
#ifdef EMULATED_AVX512
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#define AVX512 __attribute__((target("avx2,bmi,bmi2,popcnt,lzcnt,fma")))
typedef struct { uint8_t bytes[64]; } wide;

static wide loaded(const void *from) { wide w; memcpy(&w, from, 64); return w; }
static wide zeros(void) { wide w; memset(&w, 0, 64); return w; }
static wide expanded(uint64_t mask, wide from) {
    wide to = zeros();
    for (int i = 0, next = 0; i < 64; i++)
        if (mask >> i & 1) to.bytes[i] = from.bytes[next++];
    return to;
}
static uint64_t sign_bits(wide w) {
    uint64_t mask = 0;
    for (int i = 0; i < 64; i++) mask |= (uint64_t)(w.bytes[i] >> 7) << i;
    return mask;
}
static wide filled(uint64_t mask) {
    wide w;
    for (int i = 0; i < 64; i++) w.bytes[i] = mask >> i & 1 ? 255 : 0;
    return w;
}
static wide interleaved(wide a, wide b, int half) {
    wide w;
    for (int lane = 0; lane < 64; lane += 16)
        for (int i = 0; i < 8; i++) {
            w.bytes[lane + 2 * i] = a.bytes[lane + half + i];
            w.bytes[lane + 2 * i + 1] = b.bytes[lane + half + i];
        }
    return w;
}
static __m128i quarter(wide w, int i) { return _mm_loadu_si128((const __m128i *)(w.bytes + 16 * i)); }

#define __m512i wide
#define _mm512_loadu_si512 loaded
#define _mm512_setzero_si512 zeros
#define _mm512_maskz_expand_epi8 expanded
#define _mm512_movepi8_mask sign_bits
#define _mm512_movm_epi8 filled
#define _mm512_unpacklo_epi8(a, b) interleaved(a, b, 0)
#define _mm512_unpackhi_epi8(a, b) interleaved(a, b, 8)
#define _mm512_castsi512_si128(w) quarter(w, 0)
#define _mm512_extracti32x4_epi32 quarter
#endif
#include "../pipeline/decode/dct.c"

#ifdef EMULATED_AVX512
static const Kernels *const KERNELS = &WITH_AVX512;
#else
static const Kernels *const KERNELS = &WITH_NEON;
#endif

int main(int count, char **paths) {
    static uint8_t bytes[1 << 20];
    FILE *from = fopen(paths[1], "rb"), *to = fopen(paths[2], "wb");
    Image image;
    Room room;
    if (count != 3 || !from || !to) return 1;
    const int64_t size = (int64_t)fread(bytes, 1, sizeof bytes, from);
    if (open_image(bytes, size, &image) || make_room(image.height, image.width, &room)) return 2;
    const Target target = {image.height, image.width, NULL, NULL, NULL};
    uint8_t *pixels = malloc((size_t)image.height * image.width * CHANNELS);
    if (!pixels || decode_one(bytes, size, 0, 0, 0, KERNELS, &target, &room, pixels)) return 3;
    return fwrite(pixels, (size_t)image.width * CHANNELS, image.height, to) != (size_t)image.height || fclose(to);
}
