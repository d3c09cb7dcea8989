"""What `dct.c` does, on NVIDIA GPUs: from images of quantised DCT coefficients in device memory to treated crops.

    blocks_to_planes    maps, DC and values -> samples of three planes, as much of them as the crop needs
    planes_to_pixels    upsampling of chroma, crop, mirror image, colours, lighting, mean, divisor -> NHWC

There are two kernels because fancy upsampling needs the samples around each: in one, a program would decode its
neighbours' blocks too. Between them the planes of a batch, 170 KB an image, stay in the second-level cache.

A warp takes a row of 32 blocks. A prefix sum over the sizes that their maps tell finds where the values of each begin,
one over the bits of a map where each value is; then every thread has 64 coefficients, and exchanges them with others
once, between the two passes. The arithmetic is that of `dct_kernels.h`, in whole numbers up to the treatment, and so
are the results, to the bit; tests compare the two. `dct_gpu.py` brings the images here, which must be checked before:
an unsound one would make the kernels read anywhere.

An estimate, on paper, of crops of 224 of 4:4:4 on an H100, from the code that Triton 3.7 makes: 5,500 instructions of
a warp for each of 87 rows of blocks (235 registers, none spilled), and some 110 of a thread for each of 50,176 pixels,
are 21 million of a thread an image. At 14.8 x 10^12 a second (132 x 64 at 1.75 GHz) that is 700,000 images/s; with the
stalls of eight warps a multiprocessor perhaps a third of it. Memory could feed more: 61 KB of coefficients in and
301 KB of float16 out, at 3.3 TB/s, are 9 million images/s.
"""
# ruff: noqa: N803, N806

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, PIXELS = 1, 512  # of a program: rows of blocks, by a warp; pixels, by four
INTERPRETED_ROWS, INTERPRETED_PIXELS = 512, 8192  # by Triton's interpreter, which takes a program at a time

# Neither the number of images nor where it puts the arrays after the first one: a last batch must not compile anew.
_jit_for_any_batch = triton.jit(
    do_not_specialize=["num_images"], do_not_specialize_on_alignment=["corners_ptr", "mirror_ptr", "shift_ptr"]
)


@triton.jit
def _wrap(x):
    """Keep 16 bits of an int32."""
    return x.to(tl.int16).to(tl.int32)


@triton.jit
def _clamp(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def _num_bits(x):
    """Count the ones of a uint32."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    return (((x + (x >> 4)) & 0x0F0F0F0F) * 0x01010101 >> 24).to(tl.int32)


@triton.jit
def _word(start, mask):
    """Load a uint32 from an address of any alignment."""
    word = tl.load(start, mask, 0).to(tl.uint32)
    for i in tl.static_range(1, 4):
        word |= tl.load(start + i, mask, 0).to(tl.uint32) << 8 * i
    return word


@triton.jit
def _span(first, SIZE: tl.constexpr, length, halved):
    """Which blocks, from begin to end, pixels `first` to `first + SIZE` of `length` need; see `span` in dct.c."""
    last = first + SIZE - 1
    low = tl.where(halved, tl.maximum(first // 2 - 1, 0), first)
    high = tl.where(halved, tl.minimum(last // 2 + 1, length // 2 - 1), last)
    return low // 8, high // 8 + 1


@triton.jit
def _unstack(x, N: tl.constexpr):
    """Take (N, 8, 8) apart along its last axis: a tuple of eight (N, 8)."""
    even, odd = tl.split(tl.reshape(x, (N, 8, 2, 2, 2)))
    x04, x26 = tl.split(even)
    x15, x37 = tl.split(odd)
    x0, x4 = tl.split(x04)
    x1, x5 = tl.split(x15)
    x2, x6 = tl.split(x26)
    x3, x7 = tl.split(x37)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _stack(x, N: tl.constexpr):
    """Undo `_unstack`."""
    even = tl.join(tl.join(x[0], x[4]), tl.join(x[2], x[6]))
    odd = tl.join(tl.join(x[1], x[5]), tl.join(x[3], x[7]))
    return tl.reshape(tl.join(even, odd), (N, 8, 8))


@triton.jit
def _inverse(x, ROUNDING: tl.constexpr):
    """Transform eight int32 tensors of 16-bit numbers to sums of 32 bits, as `pass_plain` does: all of them wrap."""
    e0, e1 = (_wrap(x[0] + x[4]) << 13) + ROUNDING, (_wrap(x[0] - x[4]) << 13) + ROUNDING
    z3, z4 = _wrap(x[7] + x[3]), _wrap(x[5] + x[1])
    e2, e3 = 4433 * x[2] - 10704 * x[6], 10703 * x[2] + 4433 * x[6]
    w3, w4 = 9633 * z4 - 6436 * z3, 9633 * z3 + 6437 * z4
    b0, b3 = w3 - 4927 * x[7] - 7373 * x[1], w4 - 7373 * x[7] + 4926 * x[1]
    b1, b2 = w4 - 4176 * x[5] - 20995 * x[3], w3 - 20995 * x[5] + 4177 * x[3]
    a0, a1, a2, a3 = e0 + e3, e1 + e2, e1 - e2, e0 - e3
    return a0 + b3, a1 + b2, a2 + b1, a3 + b0, a3 - b0, a2 - b1, a1 - b2, a0 - b3


@triton.jit
def _level(x):
    """Turn a sum of the second pass into a sample, 0 to 255."""
    return _clamp((x >> 18) + 128, 0, 255)


@triton.jit
def _four_levels(a, b, c, d):
    """Pack four samples into an int32, the first one lowest."""
    return _level(a) | _level(b) << 8 | _level(c) << 16 | _level(d) << 24


@triton.jit
def _coefficients(low, high, num, dc, values, table, used, N: tl.constexpr):
    """Unpack and dequantise N blocks to int32 (N, 64), of 16 bits.

    `low` and `high` are the halves of the maps, with `num` bits beside the lowest; the rest are pointers.
    """
    place = tl.arange(0, 64)[None, :]
    first = tl.load(dc, used, 0).to(tl.int32) | tl.load(dc + 1, used, 0).to(tl.int32) << 8
    used, wide = used[:, None], ((low & 1) != 0)[:, None]
    half = tl.where(place < 32, low[:, None], high[:, None])
    bit = tl.where(place > 0, (half >> place % 32 & 1).to(tl.int32), 0)
    values = values[:, None] + tl.cumsum(bit, axis=1) - bit
    stored = used & (bit != 0)
    value = tl.load(values, stored, 0).to(tl.int32)
    upper = tl.load(values + num[:, None], stored & wide, 0).to(tl.int32)
    value = tl.where(wide, (value & 255) | upper << 8, value)
    return _wrap(tl.where(place > 0, value, first[:, None]) * tl.load(table[:, None] + place, used, 0).to(tl.int32))


@_jit_for_any_batch
def blocks_to_planes(
    images_ptr,
    corners_ptr,
    planes_ptr,
    num_images,
    SIZE: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    ACROSS: tl.constexpr,
):
    """Decode ROWS rows of up to ACROSS blocks each; a plane has SPAN rows of SPAN blocks, four samples to an int32."""
    N: tl.constexpr = ROWS * ACROSS
    lane = tl.arange(0, N)
    job, column = tl.program_id(0) * ROWS + lane // ACROSS, lane % ACROSS
    image, component, down = job // (3 * SPAN), job // SPAN % 3, job % SPAN
    live = image < num_images
    start = tl.load(images_ptr + image, live, 0)
    data, words = start.to(tl.pointer_type(tl.uint8)), start.to(tl.pointer_type(tl.uint32))
    factor = ((tl.load(words + 1, live, 0) >> 8) & 255).to(tl.int32)
    halved = tl.where(live & (component > 0), factor - 1, 0)  # 0 or 1: how far to shift sizes and places
    shape = tl.load(words + 2, live, 0).to(tl.int32)
    height, width = shape & 65535, (shape >> 16) & 65535
    top, bottom = _span(tl.load(corners_ptr + 2 * image, live, 0), SIZE, height, halved != 0)
    left, right = _span(tl.load(corners_ptr + 2 * image + 1, live, 0), SIZE, width, halved != 0)
    there = live & (top + down < bottom) & (column < right)
    used = there & (column >= left)

    across = width // 8 >> halved
    rows_before = tl.where(component > 0, height // 8, 0) + tl.where(component > 1, height // 8 >> halved, 0)
    row = data + tl.load(words + 54 + rows_before + top + down, there, 0)
    low, high = _word(row + 8 * column, there), _word(row + 8 * column + 4, there)
    num = _num_bits(low & 0xFFFFFFFE) + _num_bits(high)
    size = num << (low & 1).to(tl.int32)
    before = tl.reshape(tl.cumsum(tl.reshape(size, (ROWS, ACROSS)), axis=1), (N,)) - size
    dc = row + 8 * across + 2 * column
    values = (row + 10 * across + before).to(tl.pointer_type(tl.int8))
    x = _coefficients(low, high, num, dc, values, data + 24 + 64 * component, used, N)

    columns = _inverse(_unstack(tl.permute(tl.reshape(x, (N, 8, 8)), (0, 2, 1)), N), 1 << 10)
    rows = tl.permute(_clamp(_stack(columns, N) >> 11, -32768, 32767), (0, 2, 1))
    x = _inverse(_unstack(rows, N), 1 << 17)
    plane = planes_ptr + (image.to(tl.int64) * 3 + component) * (SPAN * SPAN * 16) + (column - left) * 2
    plane = (plane + down * (SPAN * 16))[:, None] + tl.arange(0, 8)[None, :] * (SPAN * 2)
    tl.store(plane, _four_levels(x[0], x[1], x[2], x[3]), used[:, None])
    tl.store(plane + 1, _four_levels(x[4], x[5], x[6], x[7]), used[:, None])


@triton.jit
def _upsampled(plane, near_row, far_row, near_column, far_column, odd, mask):
    """libjpeg's "fancy" triangle: the nearer row and column count three times."""
    near = 3 * tl.load(plane + near_row + near_column, mask, 0).to(tl.int32)
    near += tl.load(plane + far_row + near_column, mask, 0).to(tl.int32)
    far = 3 * tl.load(plane + near_row + far_column, mask, 0).to(tl.int32)
    far += tl.load(plane + far_row + far_column, mask, 0).to(tl.int32)
    return (3 * near + far + 8 - odd) >> 4


@_jit_for_any_batch
def planes_to_pixels(
    images_ptr,
    corners_ptr,
    mirror_ptr,
    shift_ptr,
    planes_ptr,
    mean_ptr,
    factor_ptr,
    out_ptr,
    SIZE: tl.constexpr,
    SPAN: tl.constexpr,
    PIXELS: tl.constexpr,
    TREATED: tl.constexpr,
):
    """Finish PIXELS pixels of an image: (level + shift - mean) * factor, or the level alone."""
    image = tl.program_id(1)
    words = tl.load(images_ptr + image).to(tl.pointer_type(tl.uint32))
    halved = ((tl.load(words + 1) >> 8) & 255).to(tl.int32) - 1
    shape = tl.load(words + 2).to(tl.int32)
    height, width = shape & 65535, (shape >> 16) & 65535
    top, left = tl.load(corners_ptr + 2 * image), tl.load(corners_ptr + 2 * image + 1)
    top_chroma, _ = _span(top, SIZE, height, halved != 0)
    left_chroma, _ = _span(left, SIZE, width, halved != 0)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < SIZE * SIZE
    x = pixel % SIZE
    y, x = top + pixel // SIZE, left + tl.where(tl.load(mirror_ptr + image) != 0, SIZE - 1 - x, x)
    stride: tl.constexpr = 8 * SPAN
    luma = planes_ptr + image.to(tl.int64) * (3 * stride * stride)
    blue = luma + stride * stride - 8 * (top_chroma * stride + left_chroma)
    red = blue + stride * stride
    grey = tl.load(luma + (y - top // 8 * 8) * stride + x - left // 8 * 8, inside, 0).to(tl.int32)
    near_row, near_column = (y >> halved) * stride, x >> halved
    if halved == 0:
        b = tl.load(blue + near_row + near_column, inside, 0).to(tl.int32)
        r = tl.load(red + near_row + near_column, inside, 0).to(tl.int32)
    else:
        far_row = _clamp(y // 2 + 2 * (y % 2) - 1, 0, height // 2 - 1) * stride
        far_column = _clamp(x // 2 + 2 * (x % 2) - 1, 0, width // 2 - 1)
        b = _upsampled(blue, near_row, far_row, near_column, far_column, x % 2, inside)
        r = _upsampled(red, near_row, far_row, near_column, far_column, x % 2, inside)
    b, r = b - 128, r - 128
    levels = (
        grey + ((91881 * r + 32768) >> 16),
        grey + ((-22554 * b - 46802 * r + 32768) >> 16),
        grey + ((116130 * b + 32768) >> 16),
    )
    out = out_ptr + image.to(tl.int64) * (SIZE * SIZE * 3) + 3 * pixel
    for c in tl.static_range(3):
        level = _clamp(levels[c], 0, 255)
        if TREATED:
            shifted = level.to(tl.float32) + tl.load(shift_ptr + 3 * image + c)
            treated = (shifted - tl.load(mean_ptr + 3 * pixel + c, inside, 0)) * tl.load(factor_ptr + c)
            tl.store(out + c, treated.to(out_ptr.dtype.element_ty), inside)
        else:
            tl.store(out + c, level.to(tl.uint8), inside)


def decode_crops(
    images: Tensor,
    corners: Tensor,
    mirror: Tensor,
    shift: Tensor,
    mean: Tensor | None,
    factor: Tensor,
    out: Tensor,
    *,
    widest: int = 256,
) -> None:
    """Fill `out` (b, size, size, 3) with crops of images of coefficients, treated if there is a mean.

    All are contiguous and on one device: `images` int64 (b,), the address of each in its memory, a multiple of 4;
    `corners` int32 (b, 2), top and left; `mirror` int32 (b,); `shift` float32 (b, 3); `mean` float32 (size, size, 3);
    `factor` float32 (3,), what a divisor is the inverse of. `out` is uint8 without a mean, else of any kind of float.
    No image is wider than `widest` pixels. Nothing is checked.
    """
    count, size = out.shape[:2]
    if not count:
        return
    span = size // 8 + 2  # blocks that a crop can touch each way
    planes = torch.empty((count, 3, 8 * span, 2 * span), dtype=torch.int32, device=out.device)
    rows, pixels = (ROWS, PIXELS) if out.is_cuda else (INTERPRETED_ROWS, INTERPRETED_PIXELS)
    across = triton.next_power_of_2(widest // 8)
    blocks_to_planes[(triton.cdiv(count * 3 * span, rows),)](
        images, corners, planes, count, SIZE=size, SPAN=span, ROWS=rows, ACROSS=across, num_warps=1
    )
    planes_to_pixels[triton.cdiv(size * size, pixels), count](
        images,
        corners,
        mirror,
        shift,
        planes.view(torch.uint8),
        mean,
        factor,
        out,
        SIZE=size,
        SPAN=span,
        PIXELS=pixels,
        TREATED=mean is not None,
        num_warps=4,
    )
