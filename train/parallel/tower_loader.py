"""The same images for all ranks that share the network, each image decoded only once.

Each rank decodes its share of the batch; the ranks exchange shares while the step before is computed. `trainer.py`
takes its batches from `build_loader`, `evaluate.py` its squares from `tower_squares`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, repeat
from math import ceil
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...pipeline.dataset.images import Dataset
from ...pipeline.decode.resample import Resampler
from ...pipeline.decode.resident import Resident
from ...pipeline.decode.settings import Settings
from ...pipeline.geometry import SHORT_SIDE
from ...pipeline.loader import Batch, Loader
from ...pipeline.plan import share
from ...pipeline.squares import Decoded, squares
from ...pipeline.treatment import Treatment
from ..config import Config
from .mesh import Mesh

Given = TypeVar("Given")
Collected = TypeVar("Collected")


def build_loader(
    config: Config,
    train_set: Dataset,
    treatment: Treatment,
    mesh: Mesh,
    settings: Settings,
    *,
    num_epochs: int,
    lit: Callable[[int], bool],
    bad: dict[int, str],
    resident: Resident | None = None,
) -> TowerLoader:
    """Return this rank's training batches: float16 on GPUs, else float32.

    `lit(epoch)` says whether an epoch's images get colour noise. `bad` collects the images that this rank cannot
    decode; `resident` has those on its device. DatasetError if there are fewer images than a batch needs.
    """
    source = Loader(
        train_set,
        treatment,
        batch_size=config.batch_size,
        seed=config.seeds.data_seed,
        num_epochs=num_epochs,
        lit=lit,
        settings=settings,
        bad=bad,
        half=mesh.device.type == "cuda",
        resident=resident,
        images_per_crop=config.augment_run,
        random_crop=config.random_crop,
        random_flip=config.random_flip,
        window=config.window,
        rank=mesh.world.index,
        num_ranks=mesh.world.size,
    )
    return TowerLoader(source, mesh)


@dataclass(frozen=True)
class TowerLoader:
    """Batches of a dp rank; `source` loads this rank's share, one of dp x mp, of the global batch."""

    source: Loader
    mesh: Mesh

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, epoch: int = 0, step: int = 0) -> Iterator[Batch]:
        """Yield the source's batches made whole; load each, and start its exchange, one step ahead.

        CPUs exchange grey levels, a quarter of the bytes, and treat them afterwards; GPUs exchange treated images.
        """
        if self.mesh.mp.size == 1:
            return self.source.batches(epoch, step)
        if self.mesh.device.type == "cuda":
            return _one_ahead(self.source.batches(epoch, step), self._start_batch)
        return self._treated(epoch, step)

    def _treated(self, epoch: int, step: int) -> Iterator[Batch]:
        """Yield batches that are exchanged as grey levels and treated once whole."""
        threads, treatment = self.source.settings.threads, self.source.treatment
        with ExitStack() as stack:
            unlit, lit = (
                stack.enter_context(Resampler(treatment.crop, threads, treatment.mean, treatment.divisor_when(on)))
                for on in (False, True)
            )

            def start(part: tuple[Batch, NDArray[np.float32]]) -> Callable[[], Batch]:
                batch, shifts = part
                wait_shifts = self._start_rows(torch.from_numpy(shifts))
                resampler = lit if self.source.lit(batch.epoch) else unlit

                def treat(levels: Tensor) -> Tensor:
                    return torch.from_numpy(resampler.treat(levels.numpy(), wait_shifts().numpy()))

                return self._start_batch(batch, treat)

            yield from _one_ahead(self.source.levels(epoch, step), start)

    def _start_batch(
        self, part: Batch, treat: Callable[[Tensor], Tensor] = lambda images: images
    ) -> Callable[[], Batch]:
        """Start collecting a batch from the ranks' parts; `treat` takes and returns (B, crop, crop, 3)."""
        wait_images = self._start_rows(part.images.permute(0, 2, 3, 1))
        wait_labels = self._start_rows(part.labels)
        wait_indices = self._start_rows(torch.from_numpy(part.indices))

        def finish() -> Batch:
            images = treat(wait_images()).permute(0, 3, 1, 2)
            return Batch(images, wait_labels(), wait_indices().numpy(), part.epoch, part.step)

        return finish

    def _start_rows(self, part: Tensor) -> Callable[[], Tensor]:
        """Start collecting the rows of the ranks along `mp`; their counts differ by one at most."""
        size, num_ranks, mp = self.source.batch_size, self.mesh.dims.num_ranks, self.mesh.mp
        first = self.mesh.dp.index * mp.size
        shares = [share(size, rank, num_ranks) for rank in range(first, first + mp.size)]
        counts = [rows.stop - rows.start for rows in shares]
        if missing := max(counts) - len(part):
            part = torch.cat([part, part.new_zeros((missing, *part.shape[1:]))])
        wait = mp.start_gather(part)
        if len(set(counts)) == 1:
            return lambda: wait().flatten(0, 1)
        return lambda: torch.cat([rows[:count] for rows, count in zip(wait(), counts, strict=True)])


def _one_ahead(items: Iterator[Given], start: Callable[[Given], Callable[[], Collected]]) -> Iterator[Collected]:
    """Start each item before yielding the one before it.

    An item is finished before the next one is requested, so both may use the same memory.
    """
    ready: list[Collected] = []
    for item in items:
        finish = start(item)
        yield from ready
        ready = [finish()]
    yield from ready


def tower_squares(
    dataset: Dataset, mesh: Mesh, *, batch_size: int, settings: Settings, bad: dict[int, str]
) -> Iterator[Decoded]:
    """Return the central squares of this dp rank's share of a data set, every image once, like `pipeline.squares`.

    `bad` collects what this rank could not decode; other ranks along `mp` may have failed on more of the share.
    """
    rows, mp = share(len(dataset), mesh.dp.index, mesh.dp.size), mesh.mp
    indices = np.arange(rows.start, rows.stop, dtype=np.int64)
    part_size = ceil(batch_size / mp.size)
    starts = range(0, len(indices), part_size * mp.size)
    mine = [indices[start + mp.index * part_size :][:part_size] for start in starts]
    parts = squares(dataset, np.concatenate([indices[:0], *mine]), batch_size=part_size, settings=settings, bad=bad)
    if mp.size == 1:
        return parts
    nothing = Decoded(indices[:0], torch.empty((0, SHORT_SIDE, SHORT_SIDE, 3), dtype=torch.uint8), [])
    # As many parts as the other ranks have, the last perhaps empty. zip asks for one more, which ends the stream.
    in_step = (part for part, _ in zip(chain(parts, repeat(nothing)), starts, strict=False))
    return _one_ahead(in_step, lambda part: _start_squares(part, part_size, mesh))


def _start_squares(part: Decoded, part_size: int, mesh: Mesh) -> Callable[[], Decoded]:
    """Start collecting the squares of all parts. Any part may be short: index -1 marks an empty place."""
    places: NDArray[np.int64] = np.full(part_size, -1, np.int64)
    places[: len(part.indices)] = part.indices
    pixels = torch.zeros((part_size, SHORT_SIDE, SHORT_SIDE, 3), dtype=torch.uint8, device=mesh.device)
    pixels[: len(part.indices)] = part.pixels
    wait_places, wait_pixels = mesh.mp.start_gather(torch.from_numpy(places)), mesh.mp.start_gather(pixels)

    def finish() -> Decoded:
        indices = wait_places().flatten()
        filled = indices >= 0
        return Decoded(indices[filled].numpy(), wait_pixels().flatten(0, 1)[filled.to(mesh.device)], part.bad)

    return finish
