"""From decoded rectangles to crops, on the CPU: resample, round, mirror, light and subtract in one pass.

This follows decoding on the CPU; on a GPU DALI resamples (`graph.py`). `resample.c` does the work, on threads of its
own: DALI's antialiased resize takes five times as long, nearly as long as decoding. `tensors.py` calls this.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import load
from ..plan import share

# What `resample.c` needs for each image, and as which type.
_INPUTS = {"shape": np.int32, "low": np.float32, "high": np.float32, "mirror": np.int32, "shift": np.float32}


class Resampler:
    """Turns batches of rectangles into squares of `size` x `size` pixels.

    With `mean`, (size, size, 3) or (3,): float32 (level + shift - mean) / divisor, all in grey levels; without it uint8
    levels. The results do not depend on the number of threads.
    """

    def __init__(
        self,
        size: int,
        threads: int,
        mean: NDArray[np.float32] | None = None,
        divisor: NDArray[np.float32] | None = None,
    ) -> None:
        shape = (size, size, 3)
        self._size, self._threads = size, threads
        self._resample_in_c = _library()
        self._mean = None if mean is None else np.ascontiguousarray(np.broadcast_to(mean, shape), np.float32)
        self._divisor = np.ascontiguousarray(np.ones(3) if divisor is None else divisor, np.float32)
        self._memory = _Memory(shape, np.dtype(np.uint8 if mean is None else np.float32))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="alexnet-resample")

    def start(self, images: Sequence[Any], inputs: dict[str, NDArray[Any]]) -> Callable[[], NDArray[Any]]:
        """Begin a batch; return a function that waits for it and returns it, (b, size, size, 3).

        `images` are b rectangles, uint8 (h, w, 3), numpy arrays or DALI's; `inputs` has `start` and `end` (their place
        in the source, so h and w), `low` and `high` (which part to resample), and for training `mirror` and `shift`.
        """
        count = len(images)
        defaults = {"mirror": np.zeros(count), "shift": np.zeros((count, 3))}  # evaluation has neither
        values = defaults | inputs | {"shape": inputs["end"] - inputs["start"]}
        given = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in _INPUTS.items()}
        given["image"] = np.array([_address(image) for image in images], np.uint64)
        out = self._memory.take(count)
        parts = [share(count, thread, self._threads) for thread in range(self._threads)]
        futures = [self._pool.submit(self._resample, given, out, part) for part in parts]

        def finish(_kept: Sequence[Any] = images) -> NDArray[Any]:  # the images must outlive the addresses
            for future in futures:
                future.result()
            return out

        return finish

    def treat(self, levels: NDArray[np.uint8], shifts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Treat squares (b, size, size, 3) that are already resampled and mirrored; `shifts` (b, 3) is the lighting."""
        corner = np.zeros((len(levels), 2))
        whole = {"start": corner, "end": corner + self._size, "low": corner, "high": corner + self._size}
        return self.start(list(levels), whole | {"shift": shifts})()

    def _resample(self, given: dict[str, NDArray[Any]], out: NDArray[Any], part: slice) -> None:
        """One thread's rows of a batch."""
        begin = {name: values[part].ctypes for name, values in given.items()}
        failed = self._resample_in_c(
            part.stop - part.start,
            begin["image"],
            begin["shape"],
            begin["low"],
            begin["high"],
            begin["mirror"],
            self._size,
            None if self._mean is None else self._mean.ctypes,
            begin["shift"],
            self._divisor.ctypes,
            out[part].ctypes,
        )
        if failed:
            raise MemoryError("There is not enough memory to resample an image.")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Resampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Memory:
    """Batches of one shape. Memory no longer in use is reused: fresh pages cost as much time as filling them."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._shape, self._dtype = shape, dtype
        self._free: list[NDArray[Any]] = []

    def take(self, count: int) -> NDArray[Any]:
        """Return (count, *shape), contents undefined; take its memory back once no array or tensor uses it."""
        size = count * prod(self._shape)
        block = self._free.pop() if self._free else None
        if block is None or block.size < size:
            block = np.empty(size, self._dtype)
        array = np.frombuffer(block.data, self._dtype, size)  # over a buffer, so it is the base of all views
        weakref.finalize(array, self._free.append, block).atexit = False
        return array.reshape(count, *self._shape)


def _address(image: Any) -> int:
    return image.ctypes.data if isinstance(image, np.ndarray) else image.data_ptr()


@cache
def _library() -> Any:
    function = load(Path(__file__).with_name("resample.c")).resample
    images, treatment = [ctypes.c_void_p] * 5, [ctypes.c_void_p] * 4
    function.argtypes = [ctypes.c_int64, *images, ctypes.c_int64, *treatment]
    return function
