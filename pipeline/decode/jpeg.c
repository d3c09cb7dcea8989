/* The walk of `jpeg.py` through the segments and scans of a JPEG, as libjpeg walks it. Every image is walked before it is
 * decoded, so it must cost next to nothing. Plain C without Python in it, as in `resample.c`. */
#include <stdint.h>
#include <string.h>

enum { /* markers: ITU T.81, table B.1 */
    TEMPORARY = 0x01, HUFFMAN_TABLES = 0xC4, JPEG_EXTENSION = 0xC8, ARITHMETIC_TABLES = 0xCC, START = 0xD8, END = 0xD9,
    SCAN = 0xDA, QUANTISATION_TABLES = 0xDB, NUM_LINES = 0xDC, RESTART_INTERVAL = 0xDD, JFIF = 0xE0, ADOBE = 0xEE,
    COMMENT = 0xFE, FILL = 0xFF
};

/* How a walk ended; `jpeg.py` has words for each, in this order. */
enum { WHOLE, TRUNCATED, NO_PICTURE, TWO_IMAGES, WRONG_MARKER, TWO_FRAMES, FRAME_HEADER, SCAN_HEADER, TOO_MANY_SCANS,
       SEGMENT_LENGTH };

typedef struct {
    int64_t end;       /* of the image, from the first byte */
    int64_t num_parts; /* that a decoder needs */
    int32_t plain;     /* whether those bytes hold nothing but one image's own segments and scans */
    int32_t process;   /* the marker of its frame: baseline, progressive, ... */
    int32_t bits, height, width, components;
    int32_t marker;    /* the last one met: after WRONG_MARKER, the culprit */
} Jpeg;

static int is_restart(int marker) { return (marker & 0xF8) == 0xD0; }

static int is_table(int marker) {
    return marker == HUFFMAN_TABLES || marker == QUANTISATION_TABLES || marker == ARITHMETIC_TABLES;
}

static int is_frame(int marker) {
    return (marker & 0xF0) == 0xC0 && !is_table(marker) && marker != JPEG_EXTENSION;
}

/* Tells how components become colours. */
static int has_colours(int marker) { return marker == JFIF || marker == ADOBE; }

static int is_needed(int marker) {
    return is_frame(marker) || is_table(marker) || marker == SCAN || marker == RESTART_INTERVAL || has_colours(marker);
}

static int is_known(int marker) {
    return is_needed(marker) || (marker & 0xF0) == JFIF || marker == COMMENT || marker == NUM_LINES;
}

static int big_endian(const uint8_t *bytes) { return bytes[0] << 8 | bytes[1]; }

enum { BETWEEN_SEGMENTS, IN_DATA, IN_DATA_WITH_RESTARTS };

/* The next marker at or after `at`, or -1. In a scan's data FF 00 is a byte of data, and restarts are part of it. In a
 * scan with restarts, a meaningless marker is damage that ends with the next restart. */
static int64_t find_marker(const uint8_t *bytes, int64_t at, int64_t size, int where) {
    const uint8_t *place = bytes + at, *last = bytes + size - 1;
    for (; place < last && (place = memchr(place, 0xFF, last - place)); place++) {
        int marker = place[1];
        if (marker == 0 || marker == FILL)
            continue;
        if (where == BETWEEN_SEGMENTS)
            return place - bytes;
        if (marker != TEMPORARY && !is_restart(marker) && (marker >= 0xC0 || where == IN_DATA))
            return place - bytes;
    }
    return -1;
}

typedef struct {
    const uint8_t *bytes;
    int64_t size, at;
    Jpeg *jpeg;
    int64_t *parts; /* may be null */
    int64_t num_scans;
    int restarts, several_scans;
} Walk;

/* Remembers the part from here to `next`. */
static void keep(Walk *walk, int64_t next) {
    int64_t *part = walk->parts ? walk->parts + 2 * walk->jpeg->num_parts : NULL;
    walk->jpeg->num_parts++;
    if (part)
        part[0] = walk->at, part[1] = next;
}

/* At an end without a picture: the tables so far may be for the image that follows. */
static int begin_again(Walk *walk) {
    const uint8_t *bytes = walk->bytes;
    int64_t at = walk->at, count = walk->jpeg->num_parts, *parts = walk->parts;
    if (walk->jpeg->process || at + 4 > walk->size || bytes[at + 2] != 0xFF || bytes[at + 3] != START)
        return NO_PICTURE;
    walk->at += 4;
    walk->restarts = walk->jpeg->plain = 0;
    if (!parts)
        return WHOLE;
    walk->jpeg->num_parts = 0;
    for (int64_t *part = parts; part < parts + 2 * count; part += 2)
        if (is_table(bytes[part[0] + 1]))
            memmove(parts + 2 * walk->jpeg->num_parts++, part, 2 * sizeof *part);
    return WHOLE;
}

static int read_frame(Walk *walk, int marker, int length) {
    const uint8_t *header = walk->bytes + walk->at;
    Jpeg *jpeg = walk->jpeg;
    if (jpeg->process)
        return TWO_FRAMES;
    if (length < 8 || length != 8 + 3 * header[9])
        return FRAME_HEADER;
    jpeg->process = marker;
    jpeg->bits = header[4];
    jpeg->height = big_endian(header + 5);
    jpeg->width = big_endian(header + 7);
    jpeg->components = header[9];
    return WHOLE;
}

/* A scan's header; moves `next` over its data. */
static int read_scan(Walk *walk, int length, int64_t *next) {
    const Jpeg *jpeg = walk->jpeg;
    int count = length >= 3 ? walk->bytes[walk->at + 4] : 0, progressive = (jpeg->process & 3) == 2;
    if (!jpeg->process || count < 1 || count > 4 || length != 6 + 2 * count)
        return SCAN_HEADER;
    if (walk->num_scans++ && !walk->several_scans)
        return TOO_MANY_SCANS;
    walk->several_scans = progressive || count < jpeg->components;
    *next = find_marker(walk->bytes, *next, walk->size, walk->restarts ? IN_DATA_WITH_RESTARTS : IN_DATA);
    return *next < 0 ? TRUNCATED : WHOLE;
}

static int read_segment(Walk *walk, int marker) {
    if (!is_known(marker))
        return marker == START ? TWO_IMAGES : WRONG_MARKER;
    if (walk->at + 4 > walk->size)
        return TRUNCATED;
    const uint8_t *segment = walk->bytes + walk->at;
    int length = big_endian(segment + 2), needed = is_needed(marker), status = WHOLE;
    if (length < 2) { /* libjpeg takes it as 2 in segments that do not matter */
        if (needed && !has_colours(marker))
            return SEGMENT_LENGTH;
        length = 2, needed = walk->jpeg->plain = 0;
    }
    int64_t next = walk->at + 2 + length;
    if (next > walk->size)
        return TRUNCATED;
    if (marker == RESTART_INTERVAL && length != 4)
        return SEGMENT_LENGTH;
    if (marker == RESTART_INTERVAL)
        walk->restarts = big_endian(segment + 4) > 0;
    else if (is_frame(marker))
        status = read_frame(walk, marker, length);
    else if (marker == SCAN)
        status = read_scan(walk, length, &next);
    if (needed)
        keep(walk, next);
    walk->at = next;
    return status;
}

/* Walks through `size` bytes that begin with a JPEG's signature. Fills `parts` with where each needed part begins and
 * ends, unless it is null; there must be room for the `num_parts` of a walk without. */
int walk(const uint8_t *bytes, int64_t size, Jpeg *jpeg, int64_t *parts) {
    Walk walk = {.bytes = bytes, .size = size, .at = 2, .jpeg = jpeg, .parts = parts};
    *jpeg = (Jpeg){.plain = 1};
    for (int status = WHOLE;;) {
        int64_t found = find_marker(bytes, walk.at, size, BETWEEN_SEGMENTS);
        if (found < 0)
            return TRUNCATED;
        int marker = jpeg->marker = bytes[found + 1];
        jpeg->plain &= found == walk.at;
        walk.at = found;
        if (marker == END && walk.num_scans) {
            jpeg->end = found + 2;
            return WHOLE;
        }
        if (marker == TEMPORARY || is_restart(marker))
            walk.at += 2, jpeg->plain = 0;
        else
            status = marker == END ? begin_again(&walk) : read_segment(&walk, marker);
        if (status != WHOLE)
            return status;
    }
}
