"""Batches to train on.

    plan -> requests -> `ImageStream` (DALI) -> `resampled`, where DALI has not -> torch tensors, not copied on the host

Training iterates over a `Loader`. `SyntheticLoader` has the same interface but repeats one batch, to show what a
training step costs when data is free. `squares.py` decodes images without augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset.images import Dataset
from .decode.graph import REGION_INPUTS, TRAIN_INPUTS, region_graph, train_graph
from .decode.resident import Resident
from .decode.settings import Settings
from .decode.stream import Feed, ImageStream, Request
from .decode.tensors import decoder_arguments, resampled
from .errors import DatasetError, UserError
from .geometry import num_offsets
from .plan import draw_ahead, draw_epoch, share
from .treatment import Treatment
from .window import require_all_shards


@dataclass(frozen=True)
class Batch:
    """What one training step sees, on the trainer's device."""

    images: torch.Tensor  # float (B, 3, crop, crop), channels_last, treated (mean subtracted and so on)
    labels: torch.Tensor  # int64 (B,)
    indices: NDArray[np.int64]  # (B,): the images used
    epoch: int
    step: int


class BatchSource(Protocol):
    """What training asks of a loader."""

    def __len__(self) -> int:
        """Steps per epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """Every batch of every epoch."""

    def batches(self, epoch: int = 0, step: int = 0) -> Iterator[Batch]:
        """Every batch from this step of this epoch to the end of the last epoch."""


def always(epoch: int) -> bool:
    """Lighting in every epoch."""
    return True


def require_batch(train_set: Dataset, batch_size: int) -> None:
    """Raise DatasetError if a training set has fewer images than one batch."""
    if len(train_set) < batch_size:
        found = f"The training set has {len(train_set)} images"
        raise DatasetError(f"{found}, fewer than a batch of {batch_size}: lower --batch-size.")


@dataclass(frozen=True)
class Loader:
    """Training batches of a data set, epoch after epoch. The incomplete last batch of an epoch is left out.

    `rank` of `num_ranks` takes its rows of every global batch of `batch_size`. `bad` collects unusable images, with
    reasons: the next good one in the data set takes the place of each in the plan. DatasetError if the order mixes all
    images, of remote shards of which the cache holds only a part.
    """

    dataset: Dataset
    treatment: Treatment
    _: KW_ONLY
    batch_size: int
    seed: int
    num_epochs: int = 1
    lit: Callable[[int], bool] = always  # is lighting on in this epoch?
    settings: Settings = field(default_factory=Settings)
    bad: dict[int, str] = field(default_factory=dict)
    half: bool = False  # float16 instead of float32
    resident: Resident | None = None  # images that need not be read; the results are the same
    images_per_crop: int = 1  # this many in a row share a crop and a flip: see `plan.draw_epoch`
    random_crop: bool = True
    random_flip: bool = True
    window: int | None = None  # an epoch's order goes over shards and mixes within this many images; None: all
    rank: int = 0
    num_ranks: int = 1

    def __post_init__(self) -> None:
        require_batch(self.dataset, self.batch_size)
        if self.window is None:
            require_all_shards(self.dataset)
        if self.batch_size < self.num_ranks:
            raise UserError(
                f"A batch of {self.batch_size} cannot be shared by {self.num_ranks} ranks: raise --batch-size."
            )

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, epoch: int = 0, step: int = 0) -> Iterator[Batch]:
        """Every batch from this step of this epoch to the end of the last epoch; resumed runs start in the middle."""
        mean, crop = self.treatment.mean, self.treatment.crop
        for stream, divisor in self._streams(epoch, step):
            for output, feed in resampled(stream, crop, self.settings, mean, divisor, self.half):
                yield self._batch(output, feed)

    def levels(self, epoch: int = 0, step: int = 0) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
        """The same batches untreated, uint8, and the lighting of each, (B, 3). On a GPU only those of coefficients."""
        for stream, _ in self._streams(epoch, step):
            for output, feed in resampled(stream, self.treatment.crop, self.settings):
                yield self._batch(output, feed), feed.inputs["shift"]

    def _streams(self, epoch: int, step: int) -> Iterator[tuple[ImageStream, NDArray[np.float32]]]:
        """A stream, and the treatment's divisor, for each run of epochs with the same lighting.

        One pipeline serves all of them, so that it is not refilled at the end of each epoch.
        """
        for lighting_on, group in groupby(range(epoch, self.num_epochs), key=self.lit):
            epochs = list(group)
            stream = self.stream(epochs, step if epochs[0] == epoch else 0, lighting_on)
            yield stream, self.treatment.divisor_when(lighting_on)

    def _batch(self, images: torch.Tensor, feed: Feed) -> Batch:
        labels = torch.from_numpy(self.dataset.labels[feed.indices].astype(np.int64))
        if images.is_cuda:  # from pageable memory the copy would wait for the device
            labels = labels.pin_memory().to(images.device, non_blocking=True)
        return Batch(images.permute(0, 3, 1, 2), labels, feed.indices, feed.request.epoch, feed.request.step)

    def stream(self, epochs: Sequence[int], step: int, lit: bool) -> ImageStream:
        """DALI's outputs, from `step` of the first epoch to the end of the last.

        On a GPU they are float (B, crop, crop, 3); on the CPU they are the regions that the crops need. Of coefficients
        they are the images as they are stored.
        """
        build: Any = region_graph
        inputs: tuple[str, ...] = REGION_INPUTS
        if self.settings.on_gpu:
            divisor = self.treatment.divisor_when(lit)
            mean, crop = self.treatment.mean, self.treatment.crop
            build = partial(train_graph, crop=crop, mean=mean, divisor=divisor, half=self.half)
            inputs = TRAIN_INPUTS
        build = partial(build, **decoder_arguments(self.dataset, self.settings))
        rows = self._rows
        return ImageStream(
            self.dataset,
            self.requests(epochs, step, lit),
            build,
            inputs,
            batch_size=rows.stop - rows.start,
            crop=self.treatment.crop,
            on_bad="replace",
            settings=self.settings,
            bad=self.bad,
            resident=self.resident,
        )

    def requests(self, epochs: Sequence[int], first_step: int, lit: bool) -> Iterator[Request]:
        """The plan of these epochs, batch by batch, for this rank."""
        rows, basis = self._rows, self.treatment.basis
        if basis is None or not lit:
            basis = np.zeros((3, 3), np.float32)
        draw = partial(
            draw_epoch,
            len(self.dataset),
            self.seed,
            num_offsets=num_offsets(self.treatment.crop),
            images_per_crop=self.images_per_crop,
            random_crop=self.random_crop,
            random_flip=self.random_flip,
            shards=self.dataset.container,
            window=self.window,
        )
        for epoch, plan in zip(epochs, draw_ahead(draw, epochs), strict=True):
            first = first_step if epoch == epochs[0] else 0
            reached = self.dataset.ahead(plan.order[first * self.batch_size :])
            for step in range(first, len(self)):
                begin = step * self.batch_size
                reached(begin - first * self.batch_size)
                draws = plan[begin + rows.start : begin + rows.stop]
                # no matrix product: its rounding of a row depends on the number of rows
                shifts = (draws.lighting[:, None] * basis).sum(axis=2)
                inputs = {"mirror": draws.flips.astype(np.int32), "shift": shifts.astype(np.float32)}
                yield Request(draws.order, draws.crops, inputs, epoch, step)

    @property
    def _rows(self) -> slice:
        """This rank's rows of a global batch."""
        return share(self.batch_size, self.rank, self.num_ranks)


@dataclass(frozen=True)
class SyntheticLoader:
    """The same interface over one cached batch."""

    batch: Batch
    steps: int  # per epoch
    num_epochs: int = 1

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, epoch: int = 0, step: int = 0) -> Iterator[Batch]:
        for position in range(epoch * self.steps + step, self.num_epochs * self.steps):
            yield replace(self.batch, epoch=position // self.steps, step=position % self.steps)
