/* The walk of `jpeg.py` through the segments and scans of a JPEG, as libjpeg walks it. Every image is walked before it is
 * decoded, so it must cost next to nothing. Plain C without Python in it, as in `resample.c`. */
#include <stdint.h>
#include <string.h>

enum { /* markers: ITU T.81, table B.1 */
    TEMPORARY = 0x01, HUFFMAN_TABLES = 0xC4, JPEG_EXTENSION = 0xC8, ARITHMETIC_TABLES = 0xCC, START = 0xD8, END = 0xD9,
    SCAN = 0xDA, QUANTISATION_TABLES = 0xDB, NUM_LINES = 0xDC, RESTART_INTERVAL = 0xDD, JFIF = 0xE0, ADOBE = 0xEE,
    COMMENT = 0xFE, FILL = 0xFF
};

/* What became of a walk; `jpeg.py` has words for each, in this order. */
enum { WHOLE, TRUNCATED, NO_PICTURE, TWO_IMAGES, WRONG_MARKER, TWO_FRAMES, FRAME_HEADER, SCAN_HEADER, TOO_MANY_SCANS,
       SEGMENT_LENGTH };

typedef struct {
    int64_t end;       /* of the image, from the first byte */
    int64_t num_parts; /* that a decoder needs */
    int32_t plain;     /* whether those bytes hold nothing but one image's own segments and scans */
    int32_t process;   /* the marker of its frame: baseline, progressive, ... */
    int32_t bits, height, width, components;
    int32_t marker;    /* that is in a wrong place */
} Jpeg;

static int is_restart(int marker) { return (marker & 0xF8) == 0xD0; }

static int is_table(int marker) {
    return marker == HUFFMAN_TABLES || marker == QUANTISATION_TABLES || marker == ARITHMETIC_TABLES;
}

static int is_frame(int marker) {
    return (marker & 0xF0) == 0xC0 && !is_table(marker) && marker != JPEG_EXTENSION;
}

/* How components become colours. */
static int has_colours(int marker) { return marker == JFIF || marker == ADOBE; }

static int is_needed(int marker) {
    return is_frame(marker) || is_table(marker) || marker == SCAN || marker == RESTART_INTERVAL || has_colours(marker);
}

static int is_known(int marker) {
    return is_needed(marker) || (marker & 0xF0) == JFIF || marker == COMMENT || marker == NUM_LINES;
}

static int big_endian(const uint8_t *bytes) { return bytes[0] << 8 | bytes[1]; }

enum { BETWEEN_SEGMENTS, IN_DATA, IN_DATA_WITH_RESTARTS };

/* The next marker at or after `at`, or -1. In a scan's data FF 00 is a byte, restarts belong to it, and what is no marker
 * of any use is damage that ends with the next restart. */
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

/* At an end without a picture: keeps the tables for the image that follows. */
static int64_t only_tables(const uint8_t *bytes, int64_t *parts, int64_t num_parts) {
    int64_t kept = 0;
    for (int64_t part = 0; parts && part < num_parts; part++)
        if (is_table(bytes[parts[2 * part] + 1])) {
            parts[2 * kept] = parts[2 * part];
            parts[2 * kept++ + 1] = parts[2 * part + 1];
        }
    return parts ? kept : num_parts;
}

/* Walks through `size` bytes that begin with a JPEG's signature. Fills `parts` with where each needed part begins and
 * ends, unless it is null; it needs room for the `num_parts` of a walk without. */
int walk(const uint8_t *bytes, int64_t size, Jpeg *jpeg, int64_t *parts) {
    int64_t next, at = 2, num_scans = 0;
    int restarts = 0, several_scans = 0;
    memset(jpeg, 0, sizeof *jpeg);
    jpeg->plain = 1;
    for (;; at = next) {
        int64_t found = find_marker(bytes, at, size, BETWEEN_SEGMENTS);
        if (found < 0)
            return TRUNCATED;
        jpeg->plain &= found == at;
        at = found;
        int marker = jpeg->marker = bytes[at + 1];
        if (marker == END && num_scans) {
            jpeg->end = at + 2;
            return WHOLE;
        }
        if (marker == END) {
            if (jpeg->process || at + 4 > size || bytes[at + 2] != 0xFF || bytes[at + 3] != START)
                return NO_PICTURE;
            jpeg->num_parts = only_tables(bytes, parts, jpeg->num_parts);
            jpeg->plain = restarts = 0;
            next = at + 4;
            continue;
        }
        if (marker == TEMPORARY || is_restart(marker)) {
            jpeg->plain = 0;
            next = at + 2;
            continue;
        }
        if (!is_known(marker))
            return marker == START ? TWO_IMAGES : WRONG_MARKER;
        if (at + 4 > size)
            return TRUNCATED;
        int length = big_endian(bytes + at + 2);
        int needed = is_needed(marker);
        if (length < 2 && !has_colours(marker) && needed)
            return SEGMENT_LENGTH;
        if (length < 2)
            length = 2, needed = jpeg->plain = 0; /* as libjpeg has it */
        next = at + 2 + length;
        if (next > size)
            return TRUNCATED;
        if (marker == RESTART_INTERVAL && length != 4)
            return SEGMENT_LENGTH;
        if (marker == RESTART_INTERVAL)
            restarts = big_endian(bytes + at + 4) > 0;
        if (is_frame(marker)) {
            if (jpeg->process)
                return TWO_FRAMES;
            if (length < 8 || length != 8 + 3 * bytes[at + 9])
                return FRAME_HEADER;
            jpeg->process = marker;
            jpeg->bits = bytes[at + 4];
            jpeg->height = big_endian(bytes + at + 5);
            jpeg->width = big_endian(bytes + at + 7);
            jpeg->components = bytes[at + 9];
        }
        if (marker == SCAN) {
            int count = length >= 3 ? bytes[at + 4] : 0;
            if (!jpeg->process || count < 1 || count > 4 || length != 6 + 2 * count)
                return SCAN_HEADER;
            if (num_scans++ && !several_scans)
                return TOO_MANY_SCANS;
            several_scans = (jpeg->process & 3) == 2 || count < jpeg->components; /* progressive, or one by one */
            next = find_marker(bytes, next, size, restarts ? IN_DATA_WITH_RESTARTS : IN_DATA);
            if (next < 0)
                return TRUNCATED;
        }
        if (needed) {
            if (parts) {
                parts[2 * jpeg->num_parts] = at;
                parts[2 * jpeg->num_parts + 1] = next;
            }
            jpeg->num_parts++;
        }
    }
}
