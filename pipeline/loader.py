"""Batches for the trainer, and decoded squares for everything else.

    plan -> requests -> `ImageStream` (DALI) -> `Resampler`, on CPUs -> torch tensors, without a host copy

`Loader` is what training iterates; `SyntheticLoader` looks the same and repeats one batch, to show what a
training step costs when data is free. `squares` and `full_images` decode images without augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset.images import Dataset
from .decode.graph import (
    REGION_INPUTS,
    TRAIN_INPUTS,
    region_graph,
    train_graph,
)
from .decode.settings import Decode, Settings
from .decode.stream import Feed, ImageStream, Request
from .decode.tensors import _resampled, decoding
from .errors import DatasetError, UserError
from .geometry import CROP
from .plan import draw_ahead, draw_epoch, share
from .treatment import Treatment


@dataclass(frozen=True)
class Batch:
    """What one training step sees, on the trainer's device."""

    images: torch.Tensor  # float (B, 3, 224, 224), channels_last, treated: the mean is gone
    labels: torch.Tensor  # int64 (B,)
    indices: NDArray[np.int64]  # (B,): the images used
    epoch: int
    step: int


class BatchSource(Protocol):
    """What the trainer asks of a loader."""

    def __len__(self) -> int:
        """Steps per epoch."""

    def batches(self, epoch: int, step: int, num_epochs: int, lit: Callable[[int], bool]) -> Iterator[Batch]:
        """Every batch from (epoch, step) to the end of the last epoch; `lit(epoch)`: is lighting on?"""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Training batches of a data set. The last, incomplete batch of an epoch is left out.

    `rank` of `num_ranks` takes its rows of every global batch of `batch_size`. `bad` collects images that could
    not be used: each is replaced by the next good one in the data set, in the same place of the plan.
    """

    dataset: Dataset
    treatment: Treatment
    batch_size: int
    seed: int
    settings: Settings
    bad: dict[int, str]
    decode: Decode = "exact"
    half: bool = False
    run: int = 1
    random_crop: bool = True
    random_flip: bool = True
    rank: int = 0
    num_ranks: int = 1

    def __post_init__(self) -> None:
        if len(self.dataset) < self.batch_size:
            count, size = len(self.dataset), self.batch_size
            raise DatasetError(f"The training set has {count} images, less than a batch of {size}: lower --batch-size.")
        if self.batch_size < self.num_ranks:
            raise UserError(
                f"A batch of {self.batch_size} cannot be shared by {self.num_ranks} ranks: raise --batch-size."
            )

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def batches(self, epoch: int, step: int, num_epochs: int, lit: Callable[[int], bool]) -> Iterator[Batch]:
        for stream, divisor in self._streams(epoch, step, num_epochs, lit):
            for output, feed in _resampled(stream, CROP, self.settings, self.treatment.mean, divisor):
                yield self._batch(output.half() if self.half else output, feed)

    def levels(
        self,
        epoch: int,
        step: int,
        num_epochs: int,
        lit: Callable[[int], bool],
    ) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
        """The same on the CPU before the treatment: images are uint8, beside them the lighting of each, (B, 3)."""
        for stream, _ in self._streams(epoch, step, num_epochs, lit):
            for output, feed in _resampled(stream, CROP, self.settings):
                yield self._batch(output, feed), feed.inputs["shift"]

    def _streams(
        self,
        epoch: int,
        step: int,
        num_epochs: int,
        lit: Callable[[int], bool],
    ) -> Iterator[tuple[ImageStream, NDArray[np.float32]]]:
        """One pipeline serves all epochs alike in lighting, so an epoch's end costs no refill."""
        for lighting_on, group in groupby(range(epoch, num_epochs), key=lit):
            epochs = list(group)
            stream = self.stream(epochs, step if epochs[0] == epoch else 0, lighting_on)
            yield stream, self.treatment.divisor_when(lighting_on)

    def _batch(self, images: torch.Tensor, feed: Feed) -> Batch:
        labels = torch.from_numpy(self.dataset.labels[feed.indices].astype(np.int64)).to(images.device)
        return Batch(images.permute(0, 3, 1, 2), labels, feed.indices, feed.request.epoch, feed.request.step)

    def stream(self, epochs: list[int], step: int, lit: bool) -> ImageStream:
        """From `step` of the first epoch to the end of the last; outputs inside DALI: float (B, 224, 224, 3) on a GPU,
        regions on the CPU."""
        train = partial(train_graph, mean=self.treatment.mean, divisor=self.treatment.divisor_when(lit), half=self.half)
        build: Any
        build, inputs = (train, TRAIN_INPUTS) if self.settings.on_gpu else (region_graph, REGION_INPUTS)
        rows = share(self.batch_size, self.rank, self.num_ranks)
        build = partial(build, **decoding(self.dataset, self.decode, self.settings))
        return ImageStream(
            self.dataset,
            self.requests(epochs, step, lit),
            build,
            inputs,
            batch_size=rows.stop - rows.start,
            crop=CROP,
            on_bad="replace",
            settings=self.settings,
            bad=self.bad,
        )

    def requests(self, epochs: list[int], first_step: int, lit: bool) -> Iterator[Request]:
        """The plan of these epochs, batch by batch, for this rank."""
        rows = share(self.batch_size, self.rank, self.num_ranks)
        basis = self.treatment.basis if lit and self.treatment.basis is not None else np.zeros((3, 3), np.float32)
        draw = partial(
            draw_epoch,
            len(self.dataset),
            self.seed,
            run=self.run,
            random_crop=self.random_crop,
            random_flip=self.random_flip,
        )
        for epoch, plan in zip(epochs, draw_ahead(draw, epochs), strict=True):
            for step in range(first_step if epoch == epochs[0] else 0, len(self)):
                begin = step * self.batch_size
                draws = plan[begin + rows.start : begin + rows.stop]
                shifts = (draws.lighting[:, None] * basis).sum(axis=2)  # a matrix product rounds by its rows
                inputs = {
                    "mirror": draws.flips.astype(np.int32),
                    "shift": shifts.astype(np.float32),
                }
                yield Request(draws.order, draws.crops, inputs, epoch, step)


@dataclass(frozen=True)
class SyntheticLoader:
    """The same interface over one cached batch."""

    batch: Batch
    steps: int

    def __len__(self) -> int:
        return self.steps

    def batches(self, epoch: int, step: int, num_epochs: int, lit: Callable[[int], bool]) -> Iterator[Batch]:
        for e in range(epoch, num_epochs):
            for s in range(step if e == epoch else 0, self.steps):
                yield Batch(self.batch.images, self.batch.labels, self.batch.indices, e, s)
