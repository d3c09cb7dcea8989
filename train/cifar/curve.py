"""Training error by epoch, as Figure 1 shows it: arrays in, arrays out.

`run.py` counts wrong answers window by window; `race.py` and `figure1.py` ask when 25% was reached.

The error is the one that cuda-convnet prints: of each image as the network trains on it, before the update. Nothing is
computed for it, and without dropout, crops and decay it is the error on the training set. It is averaged over one
epoch, so that each image counts about once, and stands at the middle of that epoch: the averaging neither delays the
curve nor hurries it. A new average every fifth of an epoch allows interpolation within epochs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .settings import WINDOWS

TARGET = 0.25  # the paper's line
Floats = NDArray[np.float64]


def window_sizes(num_images: int) -> NDArray[np.int64]:
    """Return the number of images in each window of an epoch (5,)."""
    return np.diff(window_bounds(num_images))


def window_bounds(num_images: int) -> NDArray[np.int64]:
    """Return where the windows of an epoch begin, and where the last one ends (6,)."""
    return np.arange(WINDOWS + 1) * num_images // WINDOWS


def error_curve(wrong: Sequence[int], num_images: int) -> tuple[Floats, Floats]:
    """Return epochs since the start, and the share of wrong answers over an epoch around each, both (n - 4,).

    `wrong` (n,) counts the wrong answers in each window since the start.
    """
    sizes = np.resize(window_sizes(num_images), len(wrong))
    if len(wrong) < WINDOWS:
        return np.empty(0), np.empty(0)
    ones = np.ones(WINDOWS, np.int64)
    error = np.convolve(np.asarray(wrong, np.int64), ones, "valid") / np.convolve(sizes, ones, "valid")
    return np.arange(len(error)) / WINDOWS + 0.5, error


def epochs_to(at: Floats, error: Floats, target: float = TARGET) -> float | None:
    """Return when a curve first came down to `target`, by a straight line between its points; None if it did not."""
    below = np.flatnonzero(error <= target)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(at[0])
    share = (error[i - 1] - target) / (error[i - 1] - error[i])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))
