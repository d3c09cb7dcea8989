"""Decoded images without augmentation: 256-squares for evaluation, statistics and packs, or whole images.

    indices -> requests -> `ImageStream` (DALI) -> `resampled`, on CPUs -> uint8 (b, 256, 256, 3)

`loader.py` does the same for training, with the plan's crops, flips and lighting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset.images import Dataset
from .decode.graph import IMAGE_INPUTS, REGION_INPUTS, SQUARE_INPUTS, image_graph, region_graph, square_graph
from .decode.settings import Settings
from .decode.stream import ImageStream, Request
from .decode.tensors import decoder_arguments, resampled
from .geometry import SHORT_SIDE


@dataclass(frozen=True)
class Decoded:
    """Images without augmentation: `pixels` uint8 (b, 256, 256, 3), or b whole ones (H, W, 3)."""

    indices: NDArray[np.int64]  # (b,)
    pixels: Any
    bad: list[tuple[int, str]]  # images asked for in this batch that cannot be used, with reasons


def squares(
    dataset: Dataset,
    indices: NDArray[np.int64],
    *,
    batch_size: int,
    settings: Settings,
    bad: dict[int, str] | None = None,
) -> Iterator[Decoded]:
    """The central 256-squares of images, as torch tensors uint8 (b, 256, 256, 3) on the decoding device.

    Every index comes once, in order: in a batch's `indices`, or in its `bad`. A batch may be short or empty.
    """
    build: Any
    build, inputs = (square_graph, SQUARE_INPUTS) if settings.on_gpu else (region_graph, REGION_INPUTS)
    build = partial(build, **decoder_arguments(dataset, settings))
    stream = _in_order(dataset, indices, build, inputs, SHORT_SIDE, batch_size, settings, bad)
    for pixels, feed in resampled(stream, SHORT_SIDE, settings):
        yield Decoded(feed.indices, pixels, feed.bad)


def full_images(
    dataset: Dataset,
    indices: NDArray[np.int64],
    *,
    batch_size: int,
    settings: Settings,
    bad: dict[int, str] | None = None,
) -> Iterator[Decoded]:
    """Whole images, as a list of numpy arrays uint8 (H, W, 3) per batch."""
    build = partial(image_graph, **decoder_arguments(dataset, settings))
    with _in_order(dataset, indices, build, IMAGE_INPUTS, None, batch_size, settings, bad) as stream:
        for output, feed in stream:
            images = output if isinstance(output, list) else [] if output is None else output.as_cpu()
            pixels = [np.asarray(image) for image in images]
            yield Decoded(feed.indices, pixels, feed.bad)


def _in_order(
    dataset: Dataset,
    indices: NDArray[np.int64],
    build: Any,
    inputs: tuple[str, ...],
    crop: int | None,
    batch_size: int,
    settings: Settings,
    bad: dict[int, str] | None,
) -> ImageStream:
    return ImageStream(
        dataset,
        _requests(dataset, indices, batch_size),
        build,
        inputs,
        batch_size=batch_size,
        crop=crop,
        on_bad="drop",
        settings=settings,
        bad=bad,
    )


def _requests(dataset: Dataset, indices: NDArray[np.int64], batch_size: int) -> Iterator[Request]:
    corner, reached = np.zeros((batch_size, 2), np.int64), dataset.ahead(indices)
    for start in range(0, len(indices), batch_size):
        reached(start)
        part = indices[start : start + batch_size]
        yield Request(part, corner[: len(part)])
