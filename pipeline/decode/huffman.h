/* What reading and writing the entropy-coded data of a baseline JPEG have in common (ITU T.81). */
enum { COMPONENT_TABLES = 4, LONGEST_CODE = 16, MOST_SYMBOLS = 256, MOST_AC_BITS = 10, MOST_DC_BITS = 11,
       LARGEST = 8191 /* dequantised: pixels give no more than 1,024, and rounding to a table less than twice that */ };

/* Where each coefficient in JPEG's order is in a block of rows. */
static const uint8_t ZIGZAG[BLOCK] = {
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* Sizes, tables and coefficients of an image: the same fields as `_Picture` in `transcode.py`. */
typedef struct {
    int32_t height, width;
    int32_t factor;                      /* how many pixels share a sample of chroma, each way: 1 or 2 */
    uint8_t tables[COMPONENTS][BLOCK];   /* quantisation, row by row */
} Picture;

/* The blocks of a component, and where its first is among those of all. */
typedef struct {
    int down, across;
    int64_t first;
} Grid;

static Grid grid_of(const Picture *picture, int component) {
    const int unit = SIDE * picture->factor, down = picture->height / unit, across = picture->width / unit;
    const int scale = picture->factor;
    if (!component) return (Grid){down * scale, across * scale, 0};
    const int64_t luma = (int64_t)down * across * scale * scale;
    return (Grid){down, across, luma + (component - 1) * (int64_t)down * across};
}

static int64_t block_at(const Grid *grid, int y, int x) { return grid->first + (int64_t)y * grid->across + x; }

static int64_t num_blocks(const Picture *picture) {
    const Grid last = grid_of(picture, COMPONENTS - 1);
    return last.first + (int64_t)last.down * last.across;
}

/* The units of the data, in order: the blocks that share a block of chroma. */
#define FOR_EACH_UNIT(picture, y, x)                                         \
    for (int y = 0; y < (picture)->height / (SIDE * (picture)->factor); y++) \
        for (int x = 0; x < (picture)->width / (SIDE * (picture)->factor); x++)
