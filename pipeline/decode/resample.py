"""From decoded rectangles to crops, on the CPU: resample, round, mirror, light and subtract in one pass.

This follows decoding on the CPU; on a GPU DALI resamples (`graph.py`). `resample.c` does the work, on the threads of
`crops.py`: DALI's antialiased resize takes five times as long, nearly as long as decoding. `tensors.py` calls this.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import load
from .crops import CompiledCropper, address

# What `resample.c` needs for each image, and as which type.
_INPUTS = {"shape": np.int32, "low": np.float32, "high": np.float32, "mirror": np.int32, "shift": np.float32}


class Resampler(CompiledCropper):
    """Makes crops of rectangles, uint8 (h, w, 3), numpy arrays or DALI's.

    `inputs` have `start` and `end` (their place in the source, so h and w), `low` and `high` (which part to resample).
    """

    def treat(self, levels: NDArray[np.uint8], shifts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Treat squares (b, size, size, 3) that are already resampled and mirrored; `shifts` (b, 3) is the lighting."""
        corner = np.zeros((len(levels), 2))
        whole = {"start": corner, "end": corner + self._size, "low": corner, "high": corner + self._size}
        return self.start(list(levels), whole | {"shift": shifts})()

    @staticmethod
    def _load() -> Any:
        return _library()

    def _given(self, images: Sequence[Any], inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = inputs | {"shape": inputs["end"] - inputs["start"]}
        given = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in _INPUTS.items()}
        return given | {"image": np.array([address(image) for image in images], np.uint64)}

    def _make(self, count: int, begin: dict[str, Any], mean: Any, out: Any) -> None:
        source = (begin[name] for name in ("image", "shape", "low", "high", "mirror"))
        if self._function(count, *source, self._size, mean, begin["shift"], begin["divisor"], out):
            raise MemoryError("There is not enough memory to resample an image.")


@cache
def _library() -> Any:
    function = load(Path(__file__).with_name("resample.c")).resample
    images, treatment = [ctypes.c_void_p] * 5, [ctypes.c_void_p] * 4
    function.argtypes = [ctypes.c_int64, *images, ctypes.c_int64, *treatment]
    return function
