"""Batches of equal crops, made in the background.

Of decoded rectangles (`resample.py`) and coefficients (`dct.py`) by compiled code on CPUs; on GPUs by `dct_gpu.py`.
`tensors.py` asks for them.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..plan import share


class Cropper(ABC):
    """Makes batches of crops in the background, on `threads` of its own, until it is closed."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="alexnet-crop")

    @abstractmethod
    def start(self, images: Sequence[Any], inputs: dict[str, NDArray[Any]]) -> Callable[[], Any]:
        """Begin a batch of b images; return a function that waits for it and returns it, (b, size, size, 3).

        `inputs` are arrays of (b, ...); for training `mirror` and `shift` are among them.
        """

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CompiledCropper(Cropper):
    """Turns batches of images into squares of `size` x `size` pixels on the CPU.

    With `mean`, (size, size, 3) or (3,): float32 (level + shift - mean) / divisor, all in grey levels; without it uint8
    levels. The results do not depend on the number of threads. `page_locked` memory is for batches that go to a GPU.
    """

    def __init__(
        self,
        size: int,
        threads: int,
        mean: NDArray[np.float32] | None = None,
        divisor: NDArray[np.float32] | None = None,
        page_locked: bool = False,
    ) -> None:
        super().__init__(threads)
        shape = (size, size, 3)
        self._size, self._threads, self._function = size, threads, self._load()
        self._mean = None if mean is None else np.ascontiguousarray(np.broadcast_to(mean, shape), np.float32)
        self._divisor = np.ascontiguousarray(np.ones(3) if divisor is None else divisor, np.float32)
        self._memory = Memory(shape, np.dtype(np.uint8 if mean is None else np.float32), page_locked)

    def start(self, images: Sequence[Any], inputs: dict[str, NDArray[Any]]) -> Callable[[], NDArray[Any]]:
        count = len(images)
        defaults = {"mirror": np.zeros(count), "shift": np.zeros((count, 3))}  # evaluation has neither
        given = self._given(images, defaults | inputs)
        out = self._memory.take(count)
        parts = [share(count, thread, self._threads) for thread in range(self._threads)]
        futures = [self._pool.submit(self._make_part, given, out, part) for part in parts]

        def finish(_kept: Sequence[Any] = images) -> NDArray[Any]:  # the images must outlive their addresses
            for future in futures:
                future.result()
            return out

        return finish

    def _make_part(self, given: dict[str, NDArray[Any]], out: NDArray[Any], part: slice) -> None:
        """One thread's rows of a batch."""
        begin = {name: values[part].ctypes for name, values in given.items()}
        begin["divisor"] = self._divisor.ctypes
        mean = None if self._mean is None else self._mean.ctypes
        self._make(part.stop - part.start, begin, mean, out[part].ctypes)

    @staticmethod
    @abstractmethod
    def _load() -> Any:
        """Return the compiled function; raise `NotBuilt` if it is missing."""

    @abstractmethod
    def _given(self, images: Sequence[Any], inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return what the compiled code needs, an array of (b, ...) each, contiguous and of its type."""

    @abstractmethod
    def _make(self, count: int, begin: dict[str, Any], mean: Any, out: Any) -> None:
        """Call the compiled function with where each array begins."""


class Memory:
    """Batches of one shape. Memory no longer in use is reused: fresh pages cost as much time as filling them."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], page_locked: bool = False) -> None:
        self._shape, self._dtype, self._page_locked = shape, dtype, page_locked
        self._free: list[NDArray[Any]] = []

    def take(self, count: int) -> NDArray[Any]:
        """Return (count, *shape), contents undefined; take its memory back once no array or tensor uses it."""
        size = count * prod(self._shape)
        block = self._free.pop() if self._free else None
        if block is None or block.size < size:
            block = self._new(size)
        array = np.frombuffer(block.data, self._dtype, size)  # over a buffer, so it is the base of all views
        weakref.finalize(array, self._free.append, block).atexit = False
        return array.reshape(count, *self._shape)

    def _new(self, size: int) -> NDArray[Any]:
        if not self._page_locked:
            return np.empty(size, self._dtype)
        num_bytes = size * self._dtype.itemsize
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy().view(self._dtype)


def address(image: Any) -> int:
    """Where an array's numbers are: numpy's or DALI's."""
    return image.ctypes.data if isinstance(image, np.ndarray) else image.data_ptr()
