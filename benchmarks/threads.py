"""Python threads around a decoder that releases the interpreter, following our plan: 256-squares alone, as in packs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.pipeline.geometry import CROP
from alexnet.pipeline.plan import Draws
from job import Batches, Job, treat

Decode = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]  # JPEG -> (256, 256, 3)
Loaded = tuple[torch.Tensor, NDArray[np.int64]]


def threaded(job: Job, decode: Decode) -> Batches:
    """Yield batches until closed. A thread makes a whole batch, since handing over single images would cost more."""
    threads, begun = job.workers or 1, deque[Future[Loaded]]()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for epoch in count():
                plan = job.plan(epoch)
                for start in range(0, job.epoch_length, job.batch_size):
                    begun.append(pool.submit(_load, job, plan, slice(start, start + job.batch_size), decode))
                    if len(begun) > threads + 1:
                        yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def _load(job: Job, plan: Draws, rows: slice, decode: Decode) -> Loaded:
    indices, crops, flips = plan.order[rows], plan.crops[rows].tolist(), plan.flips[rows].tolist()
    images = torch.empty(len(indices), CROP, CROP, 3)
    for index, (top, left), flip, image in zip(indices.tolist(), crops, flips, images, strict=True):
        treat(decode(job.dataset.read(index))[top : top + CROP, left : left + CROP], flip, image)
    return images.permute(0, 3, 1, 2), indices
