/* The coefficients of a baseline JPEG: three components in one scan, 4:4:4 or 4:2:0. Anything else is refused, and so is
 * damage that libjpeg would paint over. */
enum { QUICK = 9 }; /* bits of a code that are looked up at once */
enum { READ, NOT_BASELINE, NOT_THESE_COLOURS, NOT_THIS_SAMPLING, NOT_WHOLE_BLOCKS, NOT_ONE_SCAN, DAMAGED, TOO_LARGE };

typedef struct {
    uint16_t quick[1 << QUICK]; /* length << 8 | symbol, or 0 */
    int32_t end[LONGEST_CODE + 1]; /* one past the last code of each length, to 16 bits; then never reached */
    int32_t shift[LONGEST_CODE + 1]; /* from a code to its place among the symbols */
    uint8_t symbols[MOST_SYMBOLS];
    int num_symbols;
} Code;

typedef struct {
    const uint8_t *at, *end;
    uint64_t bits; /* the next ones, from the top */
    int count, beyond; /* how many, and how many of them are zeros from beyond the last */
} Bits;

typedef struct {
    const uint8_t *at, *end;
    uint8_t tables[COMPONENT_TABLES][BLOCK];
    int defined[COMPONENT_TABLES];
    Code dc[COMPONENT_TABLES], ac[COMPONENT_TABLES];
    int ids[COMPONENTS], quantisation[COMPONENTS], interval;
    int jfif, adobe; /* its transform; -1: none */
    int frame;
} Reader;

static int word_at(const uint8_t *at) { return at[0] << 8 | at[1]; }

static int make_code(const uint8_t *counts, const uint8_t *symbols, Code *code) {
    int next = 0, place = 0;
    memset(code, 0, sizeof *code);
    for (int length = 1; length <= LONGEST_CODE; length++, next <<= 1) {
        code->shift[length] = place - next;
        for (int i = 0; i < counts[length - 1]; i++, next++, place++) {
            if (next >= 1 << length) return DAMAGED;
            code->symbols[place] = symbols[place];
            for (int j = 0; length <= QUICK && j < 1 << (QUICK - length); j++)
                code->quick[next << (QUICK - length) | j] = (uint16_t)(length << 8 | symbols[place]);
        }
        code->end[length] = next << (LONGEST_CODE - length);
    }
    code->num_symbols = place;
    return READ;
}

static int read_codes(Reader *reader, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        int total = 0;
        if (end - at < 1 + LONGEST_CODE) return DAMAGED;
        for (int i = 1; i <= LONGEST_CODE; i++) total += at[i];
        if (at[0] >> 4 > 1 || (at[0] & 15) >= COMPONENT_TABLES) return DAMAGED;
        if (total > MOST_SYMBOLS || end - at < 1 + LONGEST_CODE + total) return DAMAGED;
        Code *code = at[0] >> 4 ? reader->ac + (at[0] & 15) : reader->dc + (at[0] & 15);
        if (make_code(at + 1, at + 1 + LONGEST_CODE, code)) return DAMAGED;
        at += 1 + LONGEST_CODE + total;
    }
    return READ;
}

static int read_tables(Reader *reader, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at += 1 + BLOCK) {
        if (at[0] >> 4) return NOT_BASELINE; /* 16 bits a factor */
        if (at[0] >= COMPONENT_TABLES || end - at < 1 + BLOCK) return DAMAGED;
        for (int i = 0; i < BLOCK; i++)
            if (!(reader->tables[at[0]][ZIGZAG[i]] = at[1 + i])) return DAMAGED;
        reader->defined[at[0]] = 1;
    }
    return READ;
}

static int read_frame(Reader *reader, const uint8_t *at, const uint8_t *end, Picture *picture) {
    if (reader->frame++ || end - at != 6 + 3 * COMPONENTS || at[5] != COMPONENTS) return NOT_THESE_COLOURS;
    if (at[0] != 8) return NOT_BASELINE;
    picture->height = word_at(at + 1), picture->width = word_at(at + 3);
    for (int c = 0; c < COMPONENTS; c++) {
        reader->ids[c] = at[6 + 3 * c], reader->quantisation[c] = at[8 + 3 * c];
        if (reader->quantisation[c] >= COMPONENT_TABLES) return DAMAGED;
    }
    if (at[10] != 0x11 || at[13] != 0x11 || (at[7] != 0x11 && at[7] != 0x22)) return NOT_THIS_SAMPLING;
    picture->factor = at[7] & 15;
    int unit = SIDE * picture->factor;
    if (!picture->height || !picture->width || picture->height % unit || picture->width % unit) return NOT_WHOLE_BLOCKS;
    return READ;
}

/* As libjpeg tells YCbCr from RGB. */
static int has_luma(const Reader *reader) {
    if (reader->jfif) return 1;
    if (reader->adobe >= 0) return reader->adobe != 0;
    return !(reader->ids[0] == 'R' && reader->ids[1] == 'G' && reader->ids[2] == 'B');
}

/* All up to the first scan's data, at which `reader->at` is left; `codes` gets the tables of each component. */
static int read_header(Reader *reader, Picture *picture, int codes[COMPONENTS]) {
    for (;;) {
        if (reader->end - reader->at < 4 || reader->at[0] != 0xFF) return DAMAGED;
        const int marker = reader->at[1], length = word_at(reader->at + 2);
        const uint8_t *body = reader->at + 4, *end = reader->at + 2 + length;
        int status = READ;
        if (length < 2 || end > reader->end) return DAMAGED;
        if (marker == 0xC4) status = read_codes(reader, body, end);
        else if (marker == 0xDB) status = read_tables(reader, body, end);
        else if (marker == 0xC0 || marker == 0xC1) status = read_frame(reader, body, end, picture);
        else if ((marker & 0xF0) == 0xC0) return NOT_BASELINE;
        else if (marker == 0xDD && length == 4) reader->interval = word_at(body);
        else if (marker == 0xE0 && length >= 16 && !memcmp(body, "JFIF", 5)) reader->jfif = 1;
        else if (marker == 0xEE && length >= 14 && !memcmp(body, "Adobe", 5)) reader->adobe = body[11];
        if (status) return status;
        reader->at = end;
        if (marker != 0xDA) continue;
        if (!reader->frame || length != 6 + 2 * COMPONENTS || body[0] != COMPONENTS) return NOT_ONE_SCAN;
        if (body[7] || body[8] != BLOCK - 1 || body[9]) return NOT_ONE_SCAN;
        for (int c = 0; c < COMPONENTS; c++) {
            codes[c] = body[2 + 2 * c];
            if (codes[c] >> 4 >= COMPONENT_TABLES || (codes[c] & 15) >= COMPONENT_TABLES) return DAMAGED;
            if (body[1 + 2 * c] != reader->ids[c] || !reader->defined[reader->quantisation[c]]) return DAMAGED;
            memcpy(picture->tables[c], reader->tables[reader->quantisation[c]], BLOCK);
        }
        return has_luma(reader) ? READ : NOT_THESE_COLOURS;
    }
}

/* Makes at least 57 bits ready; zeros follow the last before a marker. */
static void refill(Bits *bits) {
    for (; bits->count <= 56; bits->count += 8) {
        const uint8_t *at = bits->at;
        if (at < bits->end && (at[0] != 0xFF || (at + 1 < bits->end && at[1] == 0))) {
            bits->bits |= (uint64_t)at[0] << (56 - bits->count);
            bits->at += at[0] == 0xFF ? 2 : 1;
        } else {
            bits->beyond += 8;
        }
    }
}

static unsigned take(Bits *bits, int count) {
    unsigned value = count ? (unsigned)(bits->bits >> (64 - count)) : 0;
    bits->bits = count ? bits->bits << count : bits->bits;
    bits->count -= count;
    return value;
}

/* The next symbol, or -1. */
static int symbol_of(Bits *bits, const Code *code) {
    int quick = code->quick[bits->bits >> (64 - QUICK)];
    if (quick) {
        take(bits, quick >> 8);
        return quick & 255;
    }
    const int next = (int)(bits->bits >> (64 - LONGEST_CODE));
    for (int length = 1; length <= LONGEST_CODE; length++)
        if (next < code->end[length]) {
            int place = (int)take(bits, length) + code->shift[length];
            return place >= 0 && place < code->num_symbols ? code->symbols[place] : -1;
        }
    return -1;
}

/* A number of so many bits; those that begin with 0 are negative. */
static int number_of(Bits *bits, int count) {
    int value = (int)take(bits, count);
    return count && value < 1 << (count - 1) ? value - (1 << count) + 1 : value;
}

static int read_block(Bits *bits, const Code *dc, const Code *ac, const uint8_t *table, int *predicted, int16_t *block) {
    refill(bits);
    int size = symbol_of(bits, dc);
    if (size < 0 || size > MOST_DC_BITS) return DAMAGED;
    *predicted += number_of(bits, size);
    if (*predicted * table[0] > LARGEST || *predicted * table[0] < -LARGEST) return TOO_LARGE;
    block[0] = (int16_t)*predicted;
    for (int k = 1; k < BLOCK; k++) {
        refill(bits);
        const int symbol = symbol_of(bits, ac), zeros = symbol >> 4;
        if (symbol < 0 || (size = symbol & 15) > MOST_AC_BITS) return DAMAGED;
        if (!size && zeros != 15) return zeros ? DAMAGED : READ;
        if ((k += zeros) >= BLOCK) return DAMAGED;
        const int value = number_of(bits, size), at = ZIGZAG[k];
        if (value * table[at] > LARGEST || value * table[at] < -LARGEST) return TOO_LARGE;
        block[at] = (int16_t)value;
    }
    return READ;
}

/* Ends an interval: nothing but the rest of a byte is left before a restart marker. */
static int restart(Bits *bits, int number) {
    const uint8_t *at = bits->at;
    const int left = bits->count - bits->beyond;
    if (left < 0 || left >= 8 || bits->end - at < 2 || at[0] != 0xFF || at[1] != (0xD0 | (number & 7))) return DAMAGED;
    *bits = (Bits){at + 2, bits->end, 0, 0, 0};
    return READ;
}

/* All blocks of all components: `coefficients` has room for those of `picture`. */
static int read_data(const Reader *reader, const Picture *picture, const int codes[COMPONENTS], int16_t *coefficients) {
    Bits bits = {reader->at, reader->end, 0, 0, 0};
    int predicted[COMPONENTS] = {0}, units = 0;
    FOR_EACH_UNIT(picture, y, x) {
        if (reader->interval && units && units % reader->interval == 0) {
            if (restart(&bits, units / reader->interval - 1)) return DAMAGED;
            memset(predicted, 0, sizeof predicted);
        }
        units++;
        for (int c = 0; c < COMPONENTS; c++) {
            const Grid grid = grid_of(picture, c);
            const int side = c ? 1 : picture->factor;
            for (int i = 0; i < side * side; i++) {
                int16_t *block = coefficients + BLOCK * block_at(&grid, y * side + i / side, x * side + i % side);
                const Code *dc = reader->dc + (codes[c] >> 4), *ac = reader->ac + (codes[c] & 15);
                int status = read_block(&bits, dc, ac, picture->tables[c], predicted + c, block);
                if (status) return status;
            }
        }
    }
    return bits.count < bits.beyond ? DAMAGED : READ;
}
