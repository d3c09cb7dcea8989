"""What every contestant is asked to do."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.geometry import CROP, source_region
from alexnet.pipeline.plan import Draws, draw_epoch

Batches = Generator[tuple[torch.Tensor, NDArray[np.int64]], None, None]  # float32 (B, 3, 224, 224), indices (B,)
Box = tuple[int, int, int, int]  # top, bottom, left, right

MEAN = np.full((CROP, CROP, 3), 120, np.float32)  # a mean image; what it shows makes no difference to speed


@dataclass(frozen=True)
class Job:
    """The images, the plan for them (drawn from `seed`), and the resources to use."""

    dataset: Dataset
    batch_size: int
    seed: int
    cores: int
    workers: int | None = None  # processes beside the main one, or threads; None: it chooses

    @property
    def epoch_length(self) -> int:
        """Images in an epoch, without the last, incomplete batch."""
        return len(self.dataset) // self.batch_size * self.batch_size

    def plan(self, epoch: int) -> Draws:
        """Draw all of an epoch."""
        return draw_epoch(len(self.dataset), self.seed, epoch)[:]


def whole_pixel_crops(shapes: NDArray[np.int64], crops: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the source rectangles (n, 4), as in `Box`, of crops (n, 2) in images of `shapes` (n, 2).

    They are rounded, for resizers that start and end at whole pixels.
    """
    region = source_region(shapes, crops, CROP)
    low, high = (np.rint(region.start + edge).astype(np.int64) for edge in (region.low, region.high))
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)


def whole_pixel_crop(height: int, width: int, crop: NDArray[np.integer]) -> Box:
    """Do the same for one image and its crop (2,)."""
    top, bottom, left, right = whole_pixel_crops(np.array([[height, width]]), crop[None])[0].tolist()
    return top, bottom, left, right


def treat(pixels: NDArray[np.uint8], flip: bool, out: torch.Tensor) -> None:
    """Flip one crop (224, 224, 3) if asked and subtract the mean; torch is quicker at it than numpy."""
    image = torch.from_numpy(pixels)
    torch.sub(image.flip(1) if flip else image, torch.from_numpy(MEAN), out=out)
