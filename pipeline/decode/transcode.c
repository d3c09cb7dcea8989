/* The conversions of `transcode.py`: a baseline JPEG to its coefficients and back, and coefficients to the layout of
 * `coefficients.h` and back. Nothing is lost in any of them. Plain C without Python in it. */
#include "coefficients.h"
#include "huffman.h"
#include "huffman_read.h"
#include "huffman_write.h"

/* Reads the header of a plain JPEG; with `coefficients`, room for all blocks, 64 numbers each, its data too. Returns what
 * is wrong; `transcode.py` has words for it. */
int read_coefficients(const uint8_t *jpeg, int64_t size, Picture *picture, int16_t *coefficients) {
    static _Thread_local Reader reader;
    int codes[COMPONENTS];
    if (size < 4) return DAMAGED;
    memset(&reader, 0, sizeof reader);
    reader.at = jpeg + 2, reader.end = jpeg + size, reader.adobe = -1;
    int status = read_header(&reader, picture, codes);
    if (status || !coefficients) return status;
    memset(coefficients, 0, num_blocks(picture) * BLOCK * sizeof *coefficients);
    return read_data(&reader, picture, codes, coefficients);
}

/* Bytes that suffice for a JPEG: a block has at most 64 codes of 16 bits and values of 11, and any byte may double. */
int64_t jpeg_room(const Picture *picture) { return 1024 + num_blocks(picture) * BLOCK * 7; }

/* Returns the number of bytes written, or -1 if a number is too large for a baseline JPEG. */
int64_t write_jpeg(const Picture *picture, const int16_t *coefficients, uint8_t *jpeg) {
    const uint8_t *end = write_all(picture, coefficients, jpeg);
    return end ? end - jpeg : -1;
}

static int64_t num_rows(const Picture *picture) {
    return grid_of(picture, 0).down + 2 * (int64_t)grid_of(picture, 1).down;
}

int64_t packed_room(const Picture *picture) {
    return AT_STARTS + 4 * (num_rows(picture) + 1) + num_blocks(picture) * (BYTES_A_BLOCK + 2 * BLOCK) + PADDING + 4;
}

/* Puts the values of a block at `at`; returns its map. */
static uint64_t pack_block(const int16_t *block, uint8_t *at) {
    uint64_t map = 0, wide = 0;
    int num = 0, done = 0;
    for (int i = 1; i < BLOCK; i++)
        if (block[i]) map |= UINT64_C(1) << i, num++, wide |= block[i] != (int8_t)block[i];
    for (int i = 1; i < BLOCK; i++)
        if (block[i]) {
            at[done] = (uint8_t)block[i];
            if (wide) at[num + done] = (uint8_t)(block[i] >> 8);
            done++;
        }
    return map | wide;
}

/* Returns the number of bytes written. */
int64_t pack_coefficients(const Picture *picture, const int16_t *coefficients, uint8_t *packed) {
    uint8_t *starts = packed + AT_STARTS, *at = starts + 4 * (num_rows(picture) + 1);
    memset(packed, 0, AT_STARTS);
    memcpy(packed, MAGIC, sizeof MAGIC);
    packed[AT_VERSION] = VERSION, packed[AT_FACTOR] = (uint8_t)picture->factor;
    const uint16_t sizes[] = {(uint16_t)picture->height, (uint16_t)picture->width};
    memcpy(packed + AT_HEIGHT, sizes, sizeof sizes);
    memcpy(packed + AT_TABLES, picture->tables, sizeof picture->tables);
    for (int c = 0; c < COMPONENTS; c++) {
        const Grid grid = grid_of(picture, c);
        for (int y = 0; y < grid.down; y++, starts += 4) {
            const uint32_t start = (uint32_t)(at - packed);
            memcpy(starts, &start, sizeof start);
            uint8_t *maps = at, *dc = maps + 8 * grid.across;
            at = dc + 2 * grid.across;
            for (int x = 0; x < grid.across; x++) {
                const int16_t *block = coefficients + BLOCK * block_at(&grid, y, x);
                const uint64_t map = pack_block(block, at);
                memcpy(maps + 8 * x, &map, sizeof map);
                memcpy(dc + 2 * x, block, sizeof *block);
                at += num_bytes(map);
            }
        }
    }
    const uint32_t end = (uint32_t)(at - packed), size = (end + PADDING + 3) / 4 * 4;
    memcpy(starts, &end, sizeof end);
    memset(at, 0, size - end);
    memcpy(packed + AT_SIZE, &size, sizeof size);
    uint32_t sums[2];
    add_up(packed, size, sums);
    memcpy(packed + AT_SUMS, sums, sizeof sums);
    return size;
}

/* Reads the header; with `coefficients`, all blocks. Returns what is wrong, as `check` in `dct.c`. */
int unpack_coefficients(const uint8_t *packed, int64_t size, Picture *picture, int16_t *coefficients) {
    Image image;
    int status = open_image(packed, size, &image);
    if (status) return status;
    *picture = (Picture){image.height, image.width, image.factor, {{0}}};
    memcpy(picture->tables, packed + AT_TABLES, sizeof picture->tables);
    for (int c = 0; coefficients && c < COMPONENTS; c++) {
        const Grid grid = grid_of(picture, c);
        for (int y = 0; y < grid.down; y++) {
            Row row;
            if (open_row(&image, c, y, &row)) return WRONG_ROW;
            for (int x = 0; x < grid.across; x++) {
                const uint64_t map = load64(row.maps + 8 * x);
                int16_t *block = coefficients + BLOCK * block_at(&grid, y, x);
                unpack_block(map, (int16_t)load16(row.dc + 2 * x), row.values, block, SIDE);
                row.values += num_bytes(map);
            }
        }
    }
    return SOUND;
}
