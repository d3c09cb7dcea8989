"""Which part of a source image a crop is.

The paper (section 2) rescales an image until its shorter side is 256 and keeps the central 256x256; training
(section 4.1) takes a 224x224 crop of that. Rescaling and cropping commute, so a crop is one resampling of one
rectangle of the source. This module computes that rectangle, and which pixels must be decoded for it.

`plan.py`, before it, draws the crops; `decode/stream.py` asks for the regions of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHORT_SIDE = 256
CROP = 224  # what the paper says; others crop 227


def centred(crop: int) -> int:
    """Top and left of the central crop of this size in the 256-square, rounded down."""
    return (SHORT_SIDE - crop) // 2


def num_offsets(crop: int) -> int:
    """Count the places of a crop of this size in the 256-square, on each axis, both ends included."""
    return SHORT_SIDE - crop + 1


class Region(NamedTuple):
    """Rectangles of n source images; each array is (n, 2): vertical, horizontal."""

    start: NDArray[np.int32]  # first pixel to decode
    end: NDArray[np.int32]  # one past the last
    low: NDArray[np.float32]  # where the crop begins, in pixels from `start`
    high: NDArray[np.float32]  # where it ends


def resized_shape(shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Heights and widths (n, 2) once the shorter side is 256; the longer is rounded to the nearest pixel."""
    short = shapes.min(axis=1, keepdims=True)
    return np.maximum(np.rint(shapes * (SHORT_SIDE / short)).astype(np.int64), SHORT_SIDE)


def centre_offset(resized: NDArray[np.int64]) -> NDArray[np.int64]:
    """Top and left (n, 2) of the central 256-square in the resized image, rounded down as the authors did."""
    return (resized - SHORT_SIDE) // 2


def source_region(shapes: NDArray[np.int64], crops: NDArray[np.integer], size: int) -> Region:
    """The source rectangles of crops of `size` x `size` output pixels at `crops` (n, 2) in the central 256-square.

    Beyond the rectangle a triangle filter reaches half an output pixel when shrinking, and less than a source pixel
    when enlarging. One output pixel, or source pixel if that is larger, is decoded around it, so the result does not
    depend on what is left out.
    """
    resized = resized_shape(shapes)
    scale = shapes / resized  # source pixels per output pixel; the axes differ by the rounding of the longer side
    low = (centre_offset(resized) + crops) * scale
    high = low + size * scale
    margin = np.maximum(scale, 1)
    start = np.floor(np.maximum(low - margin, 0)).astype(np.int32)
    end = np.ceil(np.minimum(high + margin, shapes)).astype(np.int32)
    return Region(start, end, (low - start).astype(np.float32), (high - start).astype(np.float32))


def region_of_square(crops: NDArray[np.integer], size: int) -> Region:
    """The same for images that are 256-squares already: the whole square, since there is nothing to decode."""
    start = np.zeros(crops.shape, np.int32)
    low = crops.astype(np.float32)
    return Region(start, start + np.int32(SHORT_SIDE), low, low + np.float32(size))
