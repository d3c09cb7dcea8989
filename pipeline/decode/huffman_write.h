/* A baseline JPEG of given coefficients, with the tables of codes that ITU T.81 suggests (annex K): the bytes that
 * libjpeg and Pillow write for them by default. */
static const uint8_t DC_COUNTS[2][LONGEST_CODE] = {{0, 1, 5, 1, 1, 1, 1, 1, 1}, {0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1}};
static const uint8_t DC_SYMBOLS[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
static const uint8_t AC_COUNTS[2][LONGEST_CODE] = {{0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125},
                                                   {0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119}};
static const uint8_t AC_SYMBOLS[2][162] = {
    {0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
     0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0, 0x24, 0x33, 0x62, 0x72,
     0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x34, 0x35, 0x36, 0x37,
     0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
     0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x83,
     0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0xA2, 0xA3,
     0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xC2, 0xC3,
     0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xE1, 0xE2,
     0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA},
    {0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
     0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0, 0x15, 0x62, 0x72, 0xD1,
     0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x35, 0x36,
     0x37, 0x38, 0x39, 0x3A, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
     0x59, 0x5A, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A,
     0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A,
     0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA,
     0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA,
     0xE2, 0xE3, 0xE4, 0xE5, 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA}};

typedef struct {
    uint16_t code[MOST_SYMBOLS];
    uint8_t length[MOST_SYMBOLS]; /* 0: this symbol has no code */
} Codes;

typedef struct {
    uint8_t *at;
    uint64_t bits;
    int count;
} Writer;

static void make_codes(const uint8_t *counts, const uint8_t *symbols, Codes *codes) {
    int next = 0;
    memset(codes, 0, sizeof *codes);
    for (int length = 1; length <= LONGEST_CODE; length++, next <<= 1)
        for (int i = 0; i < counts[length - 1]; i++, symbols++)
            codes->code[*symbols] = (uint16_t)next++, codes->length[*symbols] = (uint8_t)length;
}

static void put(Writer *writer, uint32_t bits, int count) {
    writer->bits = writer->bits << count | bits;
    writer->count += count;
    while (writer->count >= 8) {
        uint8_t byte = (uint8_t)(writer->bits >> (writer->count -= 8));
        *writer->at++ = byte;
        if (byte == 0xFF) *writer->at++ = 0;
    }
}

/* A symbol of `zeros` and the size of a value, then the value. */
static int put_value(Writer *writer, const Codes *codes, int zeros, int value) {
    const int magnitude = value < 0 ? -value : value, size = magnitude ? 32 - __builtin_clz(magnitude) : 0;
    const int symbol = zeros << 4 | size;
    if (size > MOST_DC_BITS || !codes->length[symbol]) return TOO_LARGE;
    put(writer, codes->code[symbol], codes->length[symbol]);
    put(writer, (uint32_t)(value < 0 ? value - 1 : value) & ((1u << size) - 1), size);
    return READ;
}

static int write_block(Writer *writer, const int16_t *block, int predicted, const Codes *dc, const Codes *ac) {
    int zeros = 0, status = put_value(writer, dc, 0, block[0] - predicted);
    for (int k = 1; k < BLOCK && !status; k++) {
        const int value = block[ZIGZAG[k]];
        if (!value) {
            zeros++;
            continue;
        }
        for (; zeros >= 16; zeros -= 16) put(writer, ac->code[0xF0], ac->length[0xF0]);
        status = put_value(writer, ac, zeros, value);
        zeros = 0;
    }
    if (zeros) put(writer, ac->code[0], ac->length[0]);
    return status;
}

static uint8_t *put_bytes(uint8_t *at, const void *bytes, size_t count) {
    return (uint8_t *)memcpy(at, bytes, count) + count;
}

static uint8_t *put_segment(uint8_t *at, int marker, int length) {
    const uint8_t head[] = {0xFF, (uint8_t)marker, (uint8_t)((length + 2) >> 8), (uint8_t)(length + 2)};
    return put_bytes(at, head, sizeof head);
}

static uint8_t *put_codes(uint8_t *at, int kind, const uint8_t *counts, const uint8_t *symbols, int num_symbols) {
    at = put_segment(at, 0xC4, 1 + LONGEST_CODE + num_symbols);
    *at++ = (uint8_t)kind;
    return put_bytes(put_bytes(at, counts, LONGEST_CODE), symbols, num_symbols);
}

static uint8_t *write_header(const Picture *picture, uint8_t *at) {
    static const uint8_t JFIF[] = {'J', 'F', 'I', 'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0};
    const int luma = picture->factor << 4 | picture->factor;
    const int third = memcmp(picture->tables[1], picture->tables[2], BLOCK) ? 2 : 1; /* red has a table of its own? */
    at = put_bytes(at, "\xFF\xD8", 2);
    at = put_bytes(put_segment(at, 0xE0, sizeof JFIF), JFIF, sizeof JFIF);
    for (int c = 0; c <= third; c++) {
        at = put_segment(at, 0xDB, 1 + BLOCK);
        *at++ = (uint8_t)c;
        for (int i = 0; i < BLOCK; i++) *at++ = picture->tables[c][ZIGZAG[i]];
    }
    const uint8_t sizes[] = {(uint8_t)(picture->height >> 8), (uint8_t)picture->height, (uint8_t)(picture->width >> 8),
                             (uint8_t)picture->width};
    const uint8_t frame[] = {8, sizes[0], sizes[1], sizes[2], sizes[3], COMPONENTS,
                             1, (uint8_t)luma, 0, 2, 0x11, 1, 3, 0x11, (uint8_t)third};
    at = put_bytes(put_segment(at, 0xC0, sizeof frame), frame, sizeof frame);
    for (int i = 0; i < 2; i++) {
        at = put_codes(at, i, DC_COUNTS[i], DC_SYMBOLS, sizeof DC_SYMBOLS);
        at = put_codes(at, 0x10 | i, AC_COUNTS[i], AC_SYMBOLS[i], sizeof AC_SYMBOLS[i]);
    }
    static const uint8_t SCAN[] = {COMPONENTS, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0};
    return put_bytes(put_segment(at, 0xDA, sizeof SCAN), SCAN, sizeof SCAN);
}

/* Writes all of a JPEG, which must have room, and returns its end, or null if a number is too large for the codes. */
static uint8_t *write_all(const Picture *picture, const int16_t *coefficients, uint8_t *at) {
    Codes dc[2], ac[2];
    for (int i = 0; i < 2; i++) {
        make_codes(DC_COUNTS[i], DC_SYMBOLS, dc + i);
        make_codes(AC_COUNTS[i], AC_SYMBOLS[i], ac + i);
    }
    Writer writer = {write_header(picture, at), 0, 0};
    int predicted[COMPONENTS] = {0};
    FOR_EACH_UNIT(picture, y, x)
        for (int c = 0; c < COMPONENTS; c++) {
            const Grid grid = grid_of(picture, c);
            const int side = c ? 1 : picture->factor;
            for (int i = 0; i < side * side; i++) {
                const int16_t *block = coefficients + BLOCK * block_at(&grid, y * side + i / side, x * side + i % side);
                if (write_block(&writer, block, predicted[c], dc + !!c, ac + !!c)) return NULL;
                predicted[c] = block[0];
            }
        }
    put(&writer, 0x7F, 7); /* the last byte is filled with ones */
    return put_bytes(writer.at, "\xFF\xD9", 2);
}
