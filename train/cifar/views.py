"""Batches of CIFAR-10 for the networks: whole images, or the 24x24 views of cuda-convnet (paper s3.3).

`run.py` trains and tests on them. The mean image of the training set is subtracted; of views, its middle, wherever a
view was cut from, as in the authors' code ([O] convdata_cifar.py).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from ...pipeline.plan import Plan
from .binary import SIZE

BORDER = 4  # pixels that a view leaves out, on average, on each side: cuda-convnet's --crop-border
VIEW = SIZE - 2 * BORDER  # 24 pixels, both ways
NUM_OFFSETS = 2 * BORDER + 1  # places of a view, each way
TEST_OFFSETS = tuple((top, left) for top in (0, BORDER, 2 * BORDER) for left in (0, BORDER, 2 * BORDER))


class Views:
    """Cuts batches out of one split.

    `pixels` is uint8 (N, 3, 32, 32), `mean` float32 (3, 32, 32); batches are float32 (B, 3, S, S), channels_last, less
    the mean, with S 24 if `cropped` and else 32.
    """

    def __init__(self, pixels: NDArray[np.uint8], mean: NDArray[np.float32], *, cropped: bool) -> None:
        self.size = VIEW if cropped else SIZE
        self.cropped = cropped
        self._windows = sliding_window_view(pixels, (self.size, self.size), (2, 3))  # (N, 3, 9, 9, 24, 24)
        border = (SIZE - self.size) // 2
        self._mean = mean[:, border : SIZE - border, border : SIZE - border]

    def drawn(self, plan: Plan, positions: slice) -> Tensor:
        """Return the images at these positions of an epoch, in the places and directions that were drawn."""
        if not self.cropped:
            return self.at(plan.order[positions], 0, 0)
        draws = plan[positions]
        views = self.at(draws.order, *draws.crops.T)
        return torch.where(torch.from_numpy(draws.flips)[:, None, None, None], views.flip(3), views)

    def at(self, images: NDArray[np.integer], top: NDArray[np.uint8] | int, left: NDArray[np.uint8] | int) -> Tensor:
        """Return these images, each from its place or all from one; `plan.order` and a slice's indices both serve."""
        pixels = self._windows[images, :, top, left]  # (B, 3, S, S)
        views = torch.from_numpy(pixels - self._mean)
        return views.contiguous(memory_format=torch.channels_last)
