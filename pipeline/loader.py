"""Batches for the trainer, and decoded squares for everything else.

    plan -> requests -> `ImageStream` (DALI) -> `Resampler`, on CPUs -> torch tensors, without a host copy

`Loader` is what training iterates; `SyntheticLoader` looks the same and repeats one batch, to show what a
training step costs when data is free. `squares` and `full_images` decode images without augmentation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset import Dataset, DatasetError
from .geometry import CROP, SHORT_SIDE
from .graph import (
    IMAGE_INPUTS,
    REGION_INPUTS,
    SQUARE_INPUTS,
    TRAIN_INPUTS,
    Decode,
    image_graph,
    region_graph,
    square_graph,
    train_graph,
)
from .plan import draw_ahead, draw_epoch, share
from .resample import Resampler
from .stream import Feed, ImageStream, Request, Settings


@dataclass(frozen=True)
class Batch:
    """What one training step sees, on the trainer's device."""

    images: torch.Tensor  # float (B, 3, 224, 224), channels_last, treated: the mean is gone
    labels: torch.Tensor  # int64 (B,)
    indices: NDArray[np.int64]  # (B,): the images used
    epoch: int
    step: int


@dataclass(frozen=True)
class Decoded:
    """Images without augmentation: `pixels` uint8 (b, 256, 256, 3), or b arrays (H, W, 3) where whole."""

    indices: NDArray[np.int64]  # (b,)
    pixels: Any
    bad: list[tuple[int, str]]  # images asked for in this batch that cannot be used, with reasons


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """How pixels become what the network sees: (x - mean + lighting) / divisor, in grey levels 0..255."""

    mean: NDArray[np.float32]  # the mean image's centre (224, 224, 3), or a colour (3,)
    divisor: NDArray[np.float32] = field(default_factory=lambda: np.ones(3, np.float32))  # (3,)
    basis: NDArray[np.float32] | None = None  # (3, 3): lighting = basis @ three standard normal draws
    lit_divisor: float = 1.0  # a further divisor while lighting is on: the authors' 1 + sigma

    def divisor_when(self, lit: bool) -> NDArray[np.float32]:
        return self.divisor * np.float32(self.lit_divisor if lit else 1.0)

    def apply(self, squares: torch.Tensor, top: int, left: int, mirror: bool) -> torch.Tensor:
        """Evaluation's treatment of one view of uint8 (b, 256, 256, 3): float32 (b, 3, 224, 224)."""
        crop = squares[:, top : top + CROP, left : left + CROP].to(torch.float32)
        crop = crop.flip(2) if mirror else crop
        mean, divisor = (torch.from_numpy(a).to(squares.device) for a in (self.mean, self.divisor))
        return ((crop - mean) / divisor).permute(0, 3, 1, 2)


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
            raise ValueError(
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


def squares(
    dataset: Dataset,
    indices: NDArray[np.int64],
    *,
    batch_size: int,
    settings: Settings,
    decode: Decode = "exact",
    bad: dict[int, str] | None = None,
) -> Iterator[Decoded]:
    """The central 256-squares of images, as torch tensors uint8 (b, 256, 256, 3) on the decoding device.

    Every index comes once, in order: in a batch's `indices`, or in its `bad`. A batch may be short or empty.
    """
    build: Any
    build, inputs = (square_graph, SQUARE_INPUTS) if settings.on_gpu else (region_graph, REGION_INPUTS)
    build = partial(build, **decoding(dataset, decode, settings))
    stream = _in_order(dataset, indices, build, inputs, SHORT_SIDE, batch_size, settings, bad)
    for pixels, feed in _resampled(stream, SHORT_SIDE, settings):
        yield Decoded(feed.indices, pixels, feed.bad)


def full_images(
    dataset: Dataset,
    indices: NDArray[np.int64],
    *,
    batch_size: int,
    settings: Settings,
    decode: Decode = "exact",
    bad: dict[int, str] | None = None,
) -> Iterator[Decoded]:
    """Whole images, as a list of numpy arrays uint8 (H, W, 3) a batch."""
    build = partial(image_graph, **decoding(dataset, decode, settings))
    with _in_order(dataset, indices, build, IMAGE_INPUTS, None, batch_size, settings, bad) as stream:
        for output, feed in stream:
            images = output if isinstance(output, list) else [] if output is None else output.as_cpu()
            pixels = [np.asarray(image) for image in images]
            yield Decoded(feed.indices, pixels, feed.bad)


def decoding(dataset: Dataset, decode: Decode, settings: Settings) -> dict[str, Any]:
    """What every graph is told of how to decode."""
    return {"decode": "raw" if dataset.raw else decode, "hw_decoder_load": settings.hw_decoder_load}


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
    corner = np.zeros((batch_size, 2), np.int64)
    parts = (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
    requests = (Request(part, corner[: len(part)]) for part in parts)
    return ImageStream(
        dataset, requests, build, inputs, batch_size=batch_size, crop=crop, on_bad="drop", settings=settings, bad=bad
    )


def _resampled(
    stream: ImageStream,
    size: int,
    settings: Settings,
    mean: NDArray[np.float32] | None = None,
    divisor: NDArray[np.float32] | None = None,
) -> Iterator[tuple[torch.Tensor, Feed]]:
    """What a stream comes to, (b, size, size, 3). On the CPU each batch is resampled while the one before is used."""
    if settings.on_gpu:
        yield from _in_use(stream, size)
        return
    begun: deque[tuple[Callable[[], NDArray[Any]], Feed]] = deque()
    with stream, Resampler(size, settings.threads, mean, divisor) as resampler:
        for regions, feed in stream:
            begun.append((resampler.start([] if regions is None else regions, feed.inputs), feed))
            if len(begun) > 1:
                yield _finished(*begun.popleft())
        while begun:
            yield _finished(*begun.popleft())


def _finished(wait: Callable[[], NDArray[Any]], feed: Feed) -> tuple[torch.Tensor, Feed]:
    return torch.from_numpy(wait()), feed


def _in_use(stream: ImageStream, size: int) -> Iterator[tuple[torch.Tensor, Feed]]:
    """A GPU's batches lie in DALI's memory, which gets it back when what was begun with a batch is done."""
    kept: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
    with stream:
        for output, feed in stream:
            images = torch.empty((0, size, size, 3), dtype=torch.uint8) if output is None else as_tensor(output)
            yield images, feed
            if images.is_cuda:
                kept.append((images, torch.cuda.current_stream(images.device).record_event()))
            if len(kept) > 2:
                kept.popleft()[1].synchronize()


def as_tensor(output: Any) -> torch.Tensor:
    """A DALI output of equal shapes as one torch tensor over the same memory."""
    return torch.utils.dlpack.from_dlpack(output.as_tensor())
