"""The pass over a data set: decode every image, add it up, survive kills and bad files.

    loader.squares or loader.full_images -> RgbMoments -> RgbStats

What has been added up is written down about twice a second, so a pass that was killed goes on where it was.
Sums are integers: resumed or not, by one process or by many, the result has the same bits.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..pipeline.geometry import SHORT_SIDE
from ..pipeline.graph import Decode
from ..pipeline.stream import Settings, TooManyBadFiles, describe_bad
from .checked import StatsError, write_atomically
from .moments import RgbMoments
from .oracle import self_check
from .stats import BadFile, Part, Region, RgbStats

log = logging.getLogger("alexnet")

STATE_VERSION = 1
SAVE_IMAGES, SAVE_SECONDS, MIN_SAVE_SECONDS = 512, 10.0, 0.5
SAMPLE_PER_IMAGE, MAX_SAMPLE = 32, 2**20  # pixels for scikit-learn
POLL_SECONDS = 0.2


class Images(Protocol):
    """What the pass needs of a `Dataset`."""

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def name(self, i: int) -> str: ...


class Decoded(Protocol):
    """What the pass needs of `loader.Decoded`."""

    @property
    def indices(self) -> NDArray[np.int64]: ...

    @property
    def pixels(self) -> Any: ...  # uint8 (b, 256, 256, 3), numpy or torch; or b arrays (H, W, 3)

    @property
    def bad(self) -> Sequence[tuple[int, str]]: ...


# Takes dataset indices int64 (n,); each comes back once, in order of batches, decoded or bad.
ImageSource = Callable[[NDArray[np.int64]], Iterator[Decoded]]


def compute_stats(
    dataset: Any,
    *,
    work_dir: Path,
    region: Region = "centre",
    decode: Decode = "exact",
    settings: Settings | None = None,
    batch_size: int = 64,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] = lambda done: None,
    images: ImageSource | None = None,
) -> RgbStats:
    """The statistics of a data set, or of the i-th of n contiguous slices of it (`shard`).

    The state of the pass is kept in `work_dir`, also of a finished one, which is then returned at once.
    `progress` is told the number of images done. Raises `TooManyBadFiles` when more than `settings.max_bad` of
    the data set cannot be used. `images` replaces the decoder.
    """
    run = _Pass(dataset, work_dir, region, decode, settings or Settings(), shard)
    state = run.finish(images or run.decoder(batch_size), progress)
    return _stats(run, state, run.part)


def compute_stats_sharded(
    dataset: Any,
    *,
    rank: int,
    world_size: int,
    work_dir: Path,
    timeout_seconds: float = 600.0,
    region: Region = "centre",
    decode: Decode = "exact",
    settings: Settings | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda done: None,
    images: ImageSource | None = None,
) -> RgbStats | None:
    """`compute_stats` split over processes that share `work_dir`: the same bits on rank 0, None on the others.

    Rank 0 does its slice, then waits for the others as long as any of them makes progress; `TimeoutError` after
    `timeout_seconds` without.
    """
    runs = [
        _Pass(dataset, work_dir, region, decode, settings or Settings(), (shard, world_size))
        for shard in range(world_size)
    ]
    state = runs[rank].finish(images or runs[rank].decoder(batch_size), progress)
    if rank != 0:
        return None
    _wait(runs, timeout_seconds, progress)
    for run in runs[1:]:
        state.merge(run.load())
    return _stats(runs[0], state, Part(dataset.fingerprint, 0, len(dataset), len(dataset)))


def merge_stats(paths: Sequence[Path]) -> RgbStats:
    """The statistics of the images of several files together, exactly as if they had been one pass.

    Checked: every file itself (`RgbStats.load`), the same region, decoding and image size, and that no image of
    a data set, by its fingerprint, is counted twice. Two data sets with images in common go unnoticed.
    """
    if not paths:
        raise StatsError("nothing to merge: no files given")
    all_stats = [RgbStats.load(path) for path in paths]
    first, moments = all_stats[0], all_stats[0].moments()
    for path, stats in zip(paths[1:], all_stats[1:], strict=True):
        for key in ("region", "decode"):
            if (found := getattr(stats, key)) != (expected := getattr(first, key)):
                raise StatsError(f"{path}: {key}: expected {expected!r} as in {paths[0]}, found {found!r}")
        try:
            moments.merge(stats.moments())
        except (ValueError, OverflowError) as error:
            raise StatsError(f"{path}: {error}") from error
    return RgbStats.from_moments(
        moments,
        decode=first.decode,
        parts=_join_parts([(path, part) for path, s in zip(paths, all_stats, strict=True) for part in s.parts]),
        bad_files=tuple(bad for stats in all_stats for bad in stats.bad_files),
        versions=_join_versions([stats.versions for stats in all_stats]),
    )
