"""Orders for remote shards of which the cache holds only a part.

An epoch that mixes all images reads from all shards at once; `plan.py` can also mix within a window, which reads from
few at a time. This says how wide the window may be, and what it costs. `loader.py` comes next.
"""

from __future__ import annotations

import numpy as np

from .dataset.images import Dataset
from .errors import RemoteError
from .plan import draw_epoch
from .remote.shards import AHEAD
from .sizes import as_size


def window_of(dataset: Dataset, *others: Dataset) -> int | None:
    """Return within how many images an epoch's order may mix without fetching a shard twice; None: within all.

    `others` are read between epochs; as far as there is room, they do not drive out what the next steps need. An order
    that mixes within W images reads at any time from shards that begin within the last W, so from as many as W images
    need and one more; and a few are fetched ahead. The window is never narrower than a shard.
    """
    if dataset.remote is None or (limit := dataset.remote.cache.limit) >= _bytes_of_shards(dataset):
        return None
    counts = np.bincount(dataset.container, minlength=len(dataset.remote.files))
    sizes, counts = dataset.remote.sizes[counts > 0], counts[counts > 0]
    beside = sum(_bytes_of_shards(other) for other in others)
    left = limit - min(beside, limit // 4) - (AHEAD + 1) * int(sizes.max())
    return max(int(left / (sizes / counts).max()), int(counts.max()))


def describe_fetching(dataset: Dataset, window: int | None) -> str:
    """Say how remote shards come and what that means for training; empty if they are all here, and for local data.

    A window has its price: it is told from how many images and classes a batch is drawn.
    """
    if dataset.remote is None or (window is None and all(path.exists() for path in dataset.remote.paths)):
        return ""
    if window is None:
        size, folder = as_size(_bytes_of_shards(dataset)), dataset.remote.cache.folder
        return f"The first epoch fetches {size} of shards into {folder}; it mixes all of them, so it waits for most."
    plan = draw_epoch(len(dataset), 0, 0, shards=dataset.container, window=window)
    middle = max((len(dataset) - window) // 2, 0)
    share, classes = window / len(dataset), len(np.unique(dataset.labels[plan.order[middle : middle + window]]))
    return (
        f"--cache-size {as_size(dataset.remote.cache.limit)} holds a part of the {as_size(_bytes_of_shards(dataset))} "
        f"of shards. Each epoch goes through them in random order and mixes within {window:,} images: a batch is drawn "
        f"from {min(share, 1):.0%} of the images, of {classes:,} of {dataset.num_classes:,} classes, instead of all."
    )


def require_all_shards(dataset: Dataset) -> None:
    """Raise RemoteError if the cache does not hold all the shards that have images of a data set."""
    if dataset.remote and dataset.remote.cache.limit < (wanted := _bytes_of_shards(dataset)):
        raise RemoteError(
            f"The images of {dataset.where} are wanted in an order that mixes all of them, but --cache-size "
            f"{as_size(dataset.remote.cache.limit)} holds only a part of their {as_size(wanted)}: give a larger one, "
            "or copy the data."
        )


def first_shards(dataset: Dataset, num_bytes: int) -> Dataset:
    """Return the images of the first shards: of as many as `num_bytes` and the cache hold, but at least of one."""
    assert dataset.remote
    ends = np.cumsum(dataset.remote.sizes)
    count = max(int(np.searchsorted(ends, min(num_bytes, dataset.remote.cache.limit), side="right")), 1)
    return dataset.subset(np.flatnonzero(dataset.container < count))


def _bytes_of_shards(dataset: Dataset) -> int:
    """The size of the remote shards that have images of a data set."""
    return int(dataset.remote.sizes[np.unique(dataset.container)].sum()) if dataset.remote else 0
