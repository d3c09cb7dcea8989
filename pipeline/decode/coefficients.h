/* The layout of an image of quantised DCT coefficients: see docs/coefficient-packs.md.
 *
 *     header | tables | where each row of blocks begins | rows: maps, DC, values | zeros
 *
 * Anyone can have made an image, so a length is checked before it is followed. `dct.c` makes pixels of it, `transcode.c`
 * converts from and to JPEG. */
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "The format is little-endian, and so must the processor be."
#endif

enum { BLOCK = 64, SIDE = 8, COMPONENTS = 3, BYTES_A_BLOCK = 10 /* map and DC */, PADDING = 64, VERSION = 1 };
enum { AT_VERSION = 4, AT_FACTOR = 5, AT_HEIGHT = 8, AT_WIDTH = 10, AT_SIZE = 12, AT_SUMS = 16, AT_TABLES = 24,
       AT_STARTS = AT_TABLES + COMPONENTS * BLOCK };
static const char MAGIC[4] = "ADCT";

/* What is wrong with an image; `dct.py` has words for each, in this order. */
enum { SOUND, NO_COEFFICIENTS, OTHER_VERSION, WRONG_SIZE, WRONG_HEADER, WRONG_ROW, WRONG_CHECKSUM, OUT_OF_MEMORY,
       OUTSIDE };

typedef struct {
    const uint8_t *bytes;
    int64_t size;
    int height, width;
    int factor; /* how many pixels share a sample of chroma, each way: 1 or 2 */
    int num_rows;
} Image;

/* One row of blocks. */
typedef struct {
    const uint8_t *maps;   /* 8 bytes a block: bit 8 * y + x: coefficient (y, x) is stored; bit 0: in two bytes */
    const uint8_t *dc;     /* 2 bytes a block */
    const uint8_t *values; /* of a block: their low bytes, then, if bit 0 of its map is set, as many high bytes */
} Row;

static inline uint16_t load16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return v; }
static inline uint32_t load32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static inline uint64_t load64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }

static inline int blocks_down(const Image *image, int component) {
    return image->height / SIDE / (component ? image->factor : 1);
}

static inline int blocks_across(const Image *image, int component) {
    return image->width / SIDE / (component ? image->factor : 1);
}

/* How many bytes the values of a block take. */
static inline __attribute__((always_inline)) int num_bytes(uint64_t map) {
    return __builtin_popcountll(map >> 1) << (map & 1);
}

/* Two sums of the 32-bit words from `AT_TABLES` on: of the words, and of each times its place. */
static inline __attribute__((always_inline)) void add_up(const uint8_t *bytes, int64_t size, uint32_t sums[2]) {
    uint32_t plain = 0, weighted = 0;
    const uint8_t *words = bytes + AT_TABLES;
    const uint32_t count = (uint32_t)((size - AT_TABLES) / 4);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t word = load32(words + 4 * (size_t)i);
        plain += word;
        weighted += word * (i + 1);
    }
    sums[0] = plain, sums[1] = weighted;
}

static inline int open_image(const uint8_t *bytes, int64_t size, Image *image) {
    if (size < (int64_t)sizeof MAGIC || memcmp(bytes, MAGIC, sizeof MAGIC)) return NO_COEFFICIENTS;
    if (size < AT_STARTS) return WRONG_SIZE;
    if (bytes[AT_VERSION] != VERSION) return OTHER_VERSION;
    *image = (Image){bytes, size, load16(bytes + AT_HEIGHT), load16(bytes + AT_WIDTH), bytes[AT_FACTOR], 0};
    if (image->factor != 1 && image->factor != 2) return WRONG_HEADER;
    int unit = SIDE * image->factor;
    if (!image->height || !image->width || image->height % unit || image->width % unit) return WRONG_HEADER;
    if (load32(bytes + AT_SIZE) != size || size % 4) return WRONG_SIZE;
    image->num_rows = blocks_down(image, 0) + 2 * blocks_down(image, 1);
    return size < AT_STARTS + 4 * (image->num_rows + 1) + PADDING ? WRONG_SIZE : SOUND;
}

/* Row `number` of a component, once its length is known to be that of its blocks. */
static inline __attribute__((always_inline)) int open_row(const Image *image, int component, int number, Row *row) {
    const int64_t width = blocks_across(image, component), data = AT_STARTS + 4 * ((int64_t)image->num_rows + 1);
    if (component) number += blocks_down(image, 0) + (component - 1) * blocks_down(image, 1);
    const uint8_t *starts = image->bytes + AT_STARTS + 4 * (int64_t)number;
    const int64_t begin = load32(starts), end = load32(starts + 4);
    if (begin < data || end > image->size - PADDING || end - begin < BYTES_A_BLOCK * width) return WRONG_ROW;
    row->maps = image->bytes + begin;
    row->dc = row->maps + 8 * width;
    row->values = row->dc + 2 * width;
    int64_t wanted = BYTES_A_BLOCK * width;
    for (int64_t i = 0; i < width; i++) wanted += num_bytes(load64(row->maps + 8 * i));
    return wanted == end - begin ? SOUND : WRONG_ROW;
}

/* The coefficients of one block, row by row, each `stride` after the last. */
static inline void unpack_block(uint64_t map, int16_t dc, const uint8_t *values, int16_t *block, int stride) {
    const int num = __builtin_popcountll(map >> 1), wide = map & 1;
    for (int y = 0; y < SIDE; y++) memset(block + y * stride, 0, SIDE * sizeof *block);
    block[0] = dc;
    for (map &= ~(uint64_t)1; map; map &= map - 1, values++) {
        int at = __builtin_ctzll(map);
        block[at / SIDE * stride + at % SIDE] = (int16_t)(wide ? values[0] | values[num] << 8 : (int8_t)values[0]);
    }
}
