"""What figures show of a data set: the central 224x224 of images, in grey levels, whatever a network sees of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.dataset.images import Dataset
from ...pipeline.decode.settings import Settings
from ...pipeline.geometry import CROP, centred
from ...pipeline.squares import squares

BATCH = 32


def central_views(pixels: Any) -> Any:
    """The central 224x224 of squares (b, 256, 256, 3), as arrays or tensors."""
    edge = centred(CROP)
    return pixels[:, edge : edge + CROP, edge : edge + CROP]


def pictures(dataset: Dataset, images: NDArray[np.int64], settings: Settings, size: int = CROP) -> NDArray[np.uint8]:
    """Return the central views of some images, in any order and number of times: uint8 (..., size, size, 3).

    A `size` that divides 224 shrinks them, by the mean of what a pixel covers. TooManyBadFiles if one cannot be used.
    """
    wanted, places = np.unique(images, return_inverse=True)
    found = np.empty((len(wanted), size, size, 3), np.uint8)
    done, factor = 0, CROP // size
    for batch in squares(dataset, wanted, batch_size=BATCH, settings=replace(settings, max_bad=0.0)):
        views = np.asarray(central_views(batch.pixels).cpu())
        cells = views.reshape(len(views), size, factor, size, factor, 3)
        found[done : done + len(views)] = np.rint(cells.mean((2, 4)))
        done += len(views)
    return found[places.reshape(images.shape)]
