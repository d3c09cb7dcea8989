"""The finished batches of a stream as torch tensors: resampled if DALI has not done so, and never copied.

Last of `decode/`: `loader.py` and `squares.py` build a stream and take their batches from here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..dataset.images import Dataset
from .crops import Cropper
from .dct import DctCropper
from .dct_gpu import GpuCropper
from .resample import Resampler
from .settings import Settings
from .stream import Feed, ImageStream
from .upload import Upload


def decoder_arguments(dataset: Dataset, settings: Settings) -> dict[str, Any]:
    """Return the arguments that tell a graph how to decode this data set."""
    decode = "raw" if dataset.stored == "raw" else settings.decode
    return {"decode": decode, "hw_decoder_load": settings.hw_decoder_load}


def resampled(
    stream: ImageStream,
    size: int,
    settings: Settings,
    mean: NDArray[np.float32] | None = None,
    divisor: NDArray[np.float32] | None = None,
    half: bool = False,
) -> Iterator[tuple[torch.Tensor, Feed]]:
    """Yield the batches of a stream, (b, size, size, 3): uint8, or with a mean treated, float32 or `half`.

    The next batch is made while this one is in use, unless a graph has done everything on a GPU.
    """
    if settings.on_gpu and stream.stored != "dct":
        yield from _held_while_in_use(stream, size, settings.device)
        return
    begun: deque[tuple[Callable[[], Any], Feed]] = deque()
    with (
        stream,
        _cropper(stream, size, settings, mean, divisor, half) as crops,
        _as_tensors(settings) as deliver,
    ):
        for images, feed in stream:
            begun.append((crops.start([] if images is None else images, feed.inputs), feed))
            if len(begun) > 1:
                yield _finished(*begun.popleft(), deliver, half)
        while begun:
            yield _finished(*begun.popleft(), deliver, half)


def _cropper(
    stream: ImageStream,
    size: int,
    settings: Settings,
    mean: NDArray[np.float32] | None,
    divisor: NDArray[np.float32] | None,
    half: bool,
) -> Cropper:
    if settings.on_gpu:
        return GpuCropper(size, torch.device(settings.device), mean, divisor, half)
    kind = DctCropper if stream.stored == "dct" else Resampler
    return kind(size, settings.threads, mean, divisor, page_locked=settings.upload_to is not None)


@contextmanager
def _as_tensors(settings: Settings) -> Iterator[Callable[[Any], torch.Tensor]]:
    """Yield what turns finished crops into tensors, on the GPU where they are wanted."""
    if settings.upload_to is None:
        yield torch.as_tensor
        return
    with closing(Upload(torch.device("cuda", settings.upload_to))) as upload:
        yield upload


def _finished(
    wait: Callable[[], Any], feed: Feed, deliver: Callable[[Any], torch.Tensor], half: bool
) -> tuple[torch.Tensor, Feed]:
    images = deliver(wait())
    return images.half() if half else images, feed


def _held_while_in_use(stream: ImageStream, size: int, device: str) -> Iterator[tuple[torch.Tensor, Feed]]:
    """Yield a GPU's batches.

    They lie in DALI's memory, which DALI gets back once the work begun on a batch is done. Until then nothing that it
    was made from is changed either.
    """
    kept: deque[tuple[tuple[torch.Tensor, Feed], torch.cuda.Event]] = deque()
    empty = torch.empty((0, size, size, 3), dtype=torch.uint8)
    with stream:
        try:
            for output, feed in stream:
                images = empty if output is None else as_tensor(output, device)
                yield images, feed
                if images.is_cuda:
                    kept.append(((images, feed), torch.cuda.current_stream(device).record_event()))
                if len(kept) > 2:
                    kept.popleft()[1].synchronize()
        finally:  # before the memory goes to another pipeline
            torch.cuda.current_stream(device).synchronize()


def as_tensor(output: Any, device: str) -> torch.Tensor:
    """View a DALI output of equal shapes, which is ready, as one torch tensor over the same memory.

    Not by DLPack: whenever torch dropped one, DALI would wait for the whole device, and spoil a CUDA graph that was
    being recorded.
    """
    return torch.as_tensor(output.as_tensor(), device=device)
