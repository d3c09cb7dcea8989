"""The pass over a data set: decode every image, add it up, survive kills and bad files.

    `squares` or `full_images` -> RgbMoments -> RgbStats

The sums are saved about once a second (`state.py`), so a killed pass resumes where it stopped. They are integers, so
the result has the same bits, resumed or not, from one process or many. Training looks for it at `stats.stats_path`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pipeline.dataset.images import Dataset
from ..pipeline.decode.bad_images import describe_bad
from ..pipeline.decode.settings import Settings
from ..pipeline.errors import StatsError, TooManyBadFiles
from ..pipeline.geometry import SHORT_SIDE
from ..pipeline.squares import Decoded, full_images, squares
from .oracle import self_check
from .state import SAMPLE_PER_IMAGE, PassState, saved_position
from .stats import BadFile, Part, Region, RgbStats, tool_versions

# Takes ascending dataset indices, int64 (n,). Each comes back once, in the batch whose turn it is, decoded or bad.
ImageSource = Callable[[NDArray[np.int64]], Iterator[Decoded]]

log = logging.getLogger("alexnet")

STATE_VERSION = 1
SAVE_IMAGES, SAVE_SECONDS, MIN_SAVE_SECONDS = 512, 10.0, 1.0  # a save takes 20 ms
MAX_SAMPLE = 2**18  # pixels for scikit-learn, from 8,192 images: good for eigenvalues to about 3%
MIN_CHECKED = 16  # images; with fewer, the sampling error cannot be estimated
POLL_SECONDS = 0.2


def compute_stats(
    dataset: Dataset,
    *,
    work_dir: Path | None = None,
    region: Region = "centre",
    settings: Settings | None = None,
    batch_size: int = 64,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] = lambda done: None,
    images: ImageSource | None = None,
) -> RgbStats:
    """Compute the statistics of a data set, or of slice i of n contiguous ones: `shard` is (i, n).

    `work_dir` keeps the state of the pass, even once it is finished, so that it need not be repeated; None keeps
    nothing. `progress` gets the number of images done. `images` replaces the decoder. Raise `TooManyBadFiles` when
    more than the share `settings.max_bad` of the data set cannot be used.
    """
    slice_ = _Slice(dataset, work_dir, region, settings or Settings(), shard)
    state = slice_.finish(images or slice_.decoder(batch_size), progress)
    return _stats_of(slice_, state)


def compute_stats_sharded(
    dataset: Dataset,
    *,
    rank: int,
    world_size: int,
    work_dir: Path,
    timeout_seconds: float = 600.0,
    region: Region = "centre",
    settings: Settings | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda done: None,
    images: ImageSource | None = None,
) -> RgbStats | None:
    """Split `compute_stats` among processes that share `work_dir`: return the same bits on rank 0, None on the others.

    Rank 0 does its slice, then waits for the others; raise `StatsError` once none has made progress for
    `timeout_seconds`. `progress` gets this rank's images, and on rank 0, while it waits, those of all ranks.
    """
    slices = [
        _Slice(dataset, work_dir, region, settings or Settings(), (shard, world_size)) for shard in range(world_size)
    ]
    state = slices[rank].finish(images or slices[rank].decoder(batch_size), progress)
    if rank != 0:
        return None
    _wait_for_all(slices, timeout_seconds, progress)
    for other in slices[1:]:
        found = other.load()
        if found.position != other.stop:
            raise StatsError(f"{other.path}: it was damaged after it was finished. Start all ranks again.")
        state.merge(found)
    return _stats_of(slices[0], state)


def merge_stats(paths: Sequence[Path]) -> RgbStats:
    """Merge statistics files, exactly as if one pass had seen all their images.

    Check every file by itself (`RgbStats.load`), that all have the same region, decoding and image size, and
    that no image of a data set, identified by its fingerprint, counts twice. An image that is in two data sets
    goes unnoticed.
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
    versions: dict[str, set[str]] = {}
    for stats in all_stats:
        for name, version in stats.versions.items():
            versions.setdefault(name, set()).add(version)
    return RgbStats.from_moments(
        moments,
        decode=first.decode,
        parts=_join_neighbours([(p, path) for path, stats in zip(paths, all_stats, strict=True) for p in stats.parts]),
        bad_files=tuple(bad for stats in all_stats for bad in stats.bad_files),
        versions={name: ", ".join(sorted(found)) for name, found in versions.items()},
    )


class _Slice:
    """A contiguous part of a data set, how to decode it, and where to keep the state of its pass."""

    def __init__(
        self,
        dataset: Dataset,
        work_dir: Path | None,
        region: Region,
        settings: Settings,
        shard: tuple[int, int],
    ) -> None:
        shard_id, num_shards = shard
        if not 0 <= shard_id < num_shards:
            raise ValueError(f"shard {shard_id} of {num_shards}: expected 0 <= shard < number of shards")
        self.dataset, self.region, self.settings, self.shared = dataset, region, settings, num_shards > 1
        self.start, self.stop = (len(dataset) * i // num_shards for i in (shard_id, shard_id + 1))
        self.decode = f"{settings.decode}, {'gpu' if settings.on_gpu else 'cpu'}"
        self.size = SHORT_SIDE if region == "centre" else None
        self.limit = settings.max_bad * len(dataset)  # bad files allowed
        self.stride = max(1, -(-len(dataset) * SAMPLE_PER_IMAGE // MAX_SAMPLE))  # from one sampled image to the next
        images = [dataset.fingerprint, self.start, self.stop, settings.max_pixels]
        self.key = json.dumps([STATE_VERSION, *images, region, self.decode, tool_versions()])
        name = f"{hashlib.blake2b(self.key.encode(), digest_size=12).hexdigest()}.npz"
        self.work_dir, self.path = work_dir, work_dir and work_dir / name  # of the state, if it is kept

    def load(self) -> PassState:
        """Return the saved state, or a fresh one."""
        saved = self.path and PassState.load(self.path, self.key, self.start, self.stop, self.size)
        return saved or PassState.fresh(self.start, self.size)

    def save(self, state: PassState) -> None:
        """Keep the state; a pass of a single slice goes on without, for nobody waits for it."""
        if not self.path:
            return
        try:
            state.save(self.path, self.key)
        except OSError as error:
            if self.shared:
                raise
            log.warning("%s cannot be written (%s): if interrupted, this pass starts over.", self.path, error.strerror)
            self.path = None

    def saved_position(self) -> int:
        return saved_position(self.path, self.key, self.start) if self.path else self.start

    def decoder(self, batch_size: int) -> ImageSource:
        settings = replace(self.settings, max_bad=1.0)  # `finish` counts them, over all runs of the pass
        decode = squares if self.region == "centre" else full_images
        return lambda indices: decode(self.dataset, indices, batch_size=batch_size, settings=settings)

    def finish(self, images: ImageSource, progress: Callable[[int], None]) -> PassState:
        """Add up the remaining images. Unless the pass is complete, retry the files that were bad."""
        state = self.load()
        complete = state.position == self.stop and len(state.bad) <= self.limit
        again = [] if complete else sorted(state.bad)
        todo = np.concatenate([np.array(again, np.int64), np.arange(state.position, self.stop)])
        taken, saved, saved_at = 0, 0, time.monotonic()
        progress(state.position - self.start - len(again))
        batches = images(todo)
        with closing(batches) if isinstance(batches, Generator) else nullcontext():
            while taken < len(todo):
                taken += self._add_batch(state, next(batches, None), todo[taken:])
                untried = max(0, len(again) - taken)
                too_many = len(state.bad) - untried > self.limit
                seconds = time.monotonic() - saved_at
                due = seconds >= (MIN_SAVE_SECONDS if taken - saved >= SAVE_IMAGES else SAVE_SECONDS)
                if due or too_many or taken == len(todo):
                    self.save(state)
                    saved, saved_at = taken, time.monotonic()
                if too_many:
                    raise TooManyBadFiles(describe_bad(self.dataset, state.bad, self.settings.max_bad))
                progress(state.position - self.start - untried)
        return state

    def _add_batch(self, state: PassState, batch: Decoded | None, expected: NDArray[np.int64]) -> int:
        """Add a batch; return the number of images it covers, which must be the first of those `expected`."""
        if batch is None:
            raise RuntimeError(f"the image source ended before image {expected[0]}")
        found = sorted([*batch.indices.tolist(), *(index for index, _ in batch.bad)])
        if found != expected[: len(found)].tolist():
            raise RuntimeError(f"expected images from {expected[0]} on, but the image source gave {found}")
        if self.region == "full":
            for image in batch.pixels:
                state.moments.update_image(image)
        elif getattr(batch.pixels, "is_cuda", False):
            state.moments.update_on_device(batch.pixels)
        else:
            state.moments.update(np.asarray(batch.pixels))
        for row, index in enumerate(batch.indices.tolist()):
            state.bad.pop(index, None)  # it was bad in an earlier run
            if index % self.stride == 0:
                state.sample[index] = _sample(index, batch.pixels[row])
        state.bad |= dict(batch.bad)
        state.position = max([state.position, *(index + 1 for index in found)])
        return len(found)


def _sample(index: int, image: Any) -> NDArray[np.uint8]:
    """Return random pixels (32, 3) of an image (H, W, 3), numpy or torch; the choice depends on `index` alone."""
    pixels = np.asarray(image.cpu() if hasattr(image, "cpu") else image).reshape(-1, 3)
    return pixels[np.random.default_rng([index]).integers(len(pixels), size=SAMPLE_PER_IMAGE)]


def _stats_of(slice_: _Slice, state: PassState) -> RgbStats:
    """Return the statistics of a finished pass, checked with scikit-learn on a sample of the same pixels."""
    dataset = slice_.dataset
    if len(state.bad) > slice_.limit:
        raise TooManyBadFiles(describe_bad(dataset, state.bad, slice_.settings.max_bad))
    stats = RgbStats.from_moments(
        state.moments,
        decode=slice_.decode,
        parts=(Part(dataset.fingerprint, state.start, state.position, len(dataset)),),
        bad_files=tuple(BadFile(dataset.name(index), reason) for index, reason in state.bad.items()),
    )
    if len(state.sample) < MIN_CHECKED:
        return stats
    sample = np.stack([pixels for _, pixels in sorted(state.sample.items())])
    check = self_check(stats.eigenvalues, stats.eigenvectors, sample)
    if not check.passed:
        log.warning("scikit-learn's PCA of a sample differs by more than chance: %s", check)
    return replace(stats, self_check=check)


def _wait_for_all(slices: Sequence[_Slice], timeout_seconds: float, progress: Callable[[int], None]) -> None:
    """Return when every slice is finished; see `compute_stats_sharded`."""
    last, deadline = -1, 0.0
    while True:
        left = [part.stop - part.saved_position() for part in slices]
        done = len(slices[0].dataset) - sum(left)
        progress(done)
        if not any(left):
            return
        if done != last:
            last, deadline = done, time.monotonic() + timeout_seconds
        if time.monotonic() > deadline:
            late = ", ".join(str(rank) for rank, images in enumerate(left) if images)
            raise StatsError(
                f"no progress for {timeout_seconds:g} s; unfinished: rank {late} of {len(slices)} "
                f"(all must share {slices[0].work_dir}). Start all ranks again; they resume where they stopped."
            )
        time.sleep(POLL_SECONDS)


def _join_neighbours(parts: Sequence[tuple[Part, Path]]) -> tuple[Part, ...]:
    """Join adjacent parts; raise `StatsError` where two have an image in common."""
    joined: list[tuple[Part, Path]] = []
    for part, path in sorted(parts):
        last, last_path = joined[-1] if joined else (None, path)
        if last is None or last.fingerprint != part.fingerprint or last.stop < part.start:
            joined.append((part, path))
        elif last.stop > part.start:
            raise StatsError(
                f"{path} has images {part.start} to {part.stop} of data set {part.fingerprint}, but {last_path} has "
                f"{last.start} to {last.stop}: merge only files that do not overlap"
            )
        else:
            joined[-1] = (replace(last, stop=part.stop), path)
    return tuple(part for part, _ in joined)
