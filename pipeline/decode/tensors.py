"""TODO"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..dataset.images import Dataset
from .resample import Resampler
from .settings import Settings
from .stream import Feed, ImageStream


def decoding(dataset: Dataset, settings: Settings) -> dict[str, Any]:
    """The arguments that tell a graph how to decode this data set."""
    return {"decode": "raw" if dataset.raw else settings.decode, "hw_decoder_load": settings.hw_decoder_load}


def resampled(
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
