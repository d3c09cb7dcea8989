/* Unpacking with NEON, which every 64-bit ARM has; compilers vectorise the other two kernels well. */
#include <arm_neon.h>

static void unpack_block_neon(uint64_t map, const uint8_t *values, int16_t *block) {
    const int num = __builtin_popcountll(map >> 1), wide = map & 1;
    map &= ~(uint64_t)1;
    for (int y = 0; y < SIDE; y++, map >>= SIDE, block += LANES) {
        const uint8x8_t shuffle = vld1_u8(SHUFFLES[map & 255]);
        const uint8x8_t low = vtbl1_u8(vld1_u8(values), shuffle); /* may read beyond, into the padding */
        int16x8_t eight = vmovl_s8(vreinterpret_s8_u8(low));
        if (wide) {
            const uint8x8_t high = vtbl1_u8(vld1_u8(values + num), shuffle);
            eight = vreinterpretq_s16_u16(vorrq_u16(vmovl_u8(low), vshlq_n_u16(vmovl_u8(high), 8)));
        }
        vst1q_s16(block, eight);
        values += __builtin_popcount(map & 255);
    }
}

static void unpack_neon(Row *row, int count, int16_t *pairs, uint64_t *used) {
    for (int i = 0; i < count; i++) {
        uint64_t map = load64(row->maps + 8 * i);
        int16_t *block = pairs + i / 2 * PAIR + i % 2 * SIDE;
        unpack_block_neon(map, row->values, block);
        block[0] = (int16_t)load16(row->dc + 2 * i);
        row->values += num_bytes(map);
        used[i / 2] = i % 2 ? used[i / 2] | map : map;
    }
}

static const Kernels WITH_NEON = {unpack_neon, transform_plain, colour_plain};
