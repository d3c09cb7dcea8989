"""Augmentation and treatment in plain numpy, step by step as the paper describes them.

Nothing in production calls this module: it is the reference that the DALI graphs and `resample.c` are tested against,
and the place to read what they compute. Images are uint8 (H, W, 3), RGB, 0..255, unless said otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .geometry import CROP, SHORT_SIDE

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def resize_axis_weights(source: int, target: int) -> NDArray[np.float64]:
    """Weights (target, source) of linear resampling with antialiasing: a triangle as wide as an output pixel when
    shrinking, as a source pixel when enlarging. Where it overhangs the edge, the edge pixel repeats, as in DALI;
    Pillow renormalises instead, which differs only in the outermost rows and columns."""
    scale = source / target
    radius = max(scale, 1.0)
    reach = int(np.ceil(radius)) + 1
    centres = (np.arange(target) + 0.5) * scale
    columns = np.arange(-reach, source + reach)
    triangle = np.maximum(1 - np.abs(columns + 0.5 - centres[:, None]) / radius, 0)
    weights = np.zeros((target, source))
    np.add.at(weights.T, np.clip(columns, 0, source - 1), triangle.T)
    return weights / weights.sum(axis=1, keepdims=True)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Linear resampling with antialiasing, in float64, rounded once at the end."""
    rows = resize_axis_weights(image.shape[0], height)
    columns = resize_axis_weights(image.shape[1], width)
    resized = np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def centre_square(image: Pixels) -> Pixels:
    """Shorter side to 256, then the central 256x256 (section 2 of the paper)."""
    height, width = image.shape[:2]
    ratio = SHORT_SIDE / min(height, width)
    resized = resize(image, max(round(height * ratio), SHORT_SIDE), max(round(width * ratio), SHORT_SIDE))
    top, left = (resized.shape[0] - SHORT_SIDE) // 2, (resized.shape[1] - SHORT_SIDE) // 2
    return resized[top : top + SHORT_SIDE, left : left + SHORT_SIDE]


def crop_and_flip(square: Pixels, top: int, left: int, flip: bool, size: int = CROP) -> Pixels:
    """A crop of the square, 224x224 in the paper, mirrored left to right if asked (section 4.1)."""
    crop = square[top : top + size, left : left + size]
    return crop[:, ::-1] if flip else crop


def lighting_offset(
    draws: Floats, eigenvectors: NDArray[np.floating], strengths: NDArray[np.floating], sigma: float
) -> Floats:
    """What lighting adds to every pixel of an image: [p1 p2 p3] (sigma * draws * strengths), float32 (..., 3).

    `draws` (..., 3) are standard normal. `strengths` (3,), in grey levels, belong to the columns of `eigenvectors`
    (3, 3): standard deviations (the authors' code) or eigenvalues on [0,1] pixels (the paper's formula).
    """
    return ((draws * (sigma * strengths)) @ eigenvectors.T).astype(np.float32)


def normalise(
    crop: Pixels, mean: NDArray[np.floating], offset: Floats, divisor: float | NDArray[np.floating]
) -> Floats:
    """(x - mean + offset) / divisor, float32 (224, 224, 3).

    `mean` is the centre 224x224 of the mean image, wherever the crop was taken and never mirrored
    (`data_mean_crop` in the authors' convdata.py), or a colour (3,). `offset` (3,) is the lighting. The authors
    divide by 1 + sigma while lighting is on.
    """
    return ((crop - mean + offset) / divisor).astype(np.float32)


def treat(
    image: Pixels, *, top: int, left: int, flip: bool, mean: NDArray[np.floating], offset: Floats, divisor: float = 1.0
) -> Floats:
    """One training image from decoded pixels to what the network sees, float32 (224, 224, 3)."""
    return normalise(crop_and_flip(centre_square(image), top, left, flip), mean, offset, divisor)
