"""Images of quantised DCT coefficients, from `alexnet pack --dct`: checked, and decoded to pixels by `dct.c`.

A block's coefficients are a map of those that are not zero, and their values: nothing has to be read bit after bit, as
in a JPEG, and a crop touches only the blocks it needs. The pixels are those that libjpeg-turbo decodes from the JPEG
with the same coefficients, to the bit, on every processor. docs/coefficient-packs.md describes the format;
`transcode.py` makes such images. `read.py` checks them, `tensors.py` asks for crops of them.
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
from .bad_images import BadImage
from .crops import CompiledCropper, address

_WHAT_IS_WRONG = (
    "",
    "not an image of coefficients; `alexnet pack --dct` writes them",
    "an image of coefficients in another version of the format; pack again",
    "truncated (an image of coefficients of another size than its header says)",
    "damaged (an image of coefficients: its header)",
    "damaged (an image of coefficients: a row of blocks has another length than its maps say)",
    "damaged (an image of coefficients: its checksum)",
)
_OUT_OF_MEMORY = len(_WHAT_IS_WRONG)
_INPUTS = {"corner": np.int32, "mirror": np.int32, "shift": np.float32}


def check_dct(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Check an image of coefficients, uint8 (n,), whole; return its height and width. Raise `BadImage`."""
    shape = np.zeros(2, np.int32)
    raise_for(_library().check(data.ctypes.data, len(data), shape.ctypes.data))
    height, width = shape.tolist()
    return height, width


def decode_dct(data: NDArray[np.uint8], *, kernels: int | None = None) -> NDArray[np.uint8]:
    """Decode an image whole, to uint8 (H, W, 3). Raise `BadImage`.

    `kernels` from 0 to `num_kernels() - 1` picks how: plain C, or with vectors; the pixels are the same.
    """
    height, width = check_dct(data)
    pixels = np.empty((height, width, 3), np.uint8)
    image, size, corner = np.array([data.ctypes.data], np.uint64), np.array([len(data)]), np.zeros(2, np.int32)
    how = num_kernels() - 1 if kernels is None else kernels
    begin = (array.ctypes.data for array in (image, size, corner, corner))
    raise_for(_library().decode(1, *begin, height, width, None, None, None, how, pixels.ctypes.data))
    return pixels


def num_kernels() -> int:
    """Return how many ways of decoding this processor has: plain C, and those with vectors."""
    return int(_library().num_kernels())


def raise_for(status: int) -> None:
    """Raise the error that the compiled code has found, if any."""
    if status == _OUT_OF_MEMORY:
        raise MemoryError("There is not enough memory to decode an image.")
    assert status < _OUT_OF_MEMORY, "a crop reaches beyond its image"
    if status:
        raise BadImage(_WHAT_IS_WRONG[status])


class DctCropper(CompiledCropper):
    """Makes crops of images of coefficients, uint8 (n,), checked before; `inputs` have `low`, the crops' corners."""

    @staticmethod
    def _load() -> Any:
        return _library().decode

    def _given(self, images: Sequence[Any], inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = inputs | {"corner": inputs["low"]}
        given = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in _INPUTS.items()}
        sizes = np.array([len(image) for image in images], np.int64)
        return given | {"image": np.array([address(image) for image in images], np.uint64), "size": sizes}

    def _make(self, count: int, begin: dict[str, Any], mean: Any, out: Any) -> None:
        source = (begin[name] for name in ("image", "size", "corner", "mirror"))
        treatment = (mean, begin["shift"], begin["divisor"])
        raise_for(self._function(count, *source, self._size, self._size, *treatment, num_kernels() - 1, out))


@cache
def _library() -> Any:
    library, pointer, size = load(Path(__file__).with_name("dct.c")), ctypes.c_void_p, ctypes.c_int64
    library.check.argtypes = [pointer, size, pointer]
    library.decode.argtypes = [size, *[pointer] * 4, size, size, *[pointer] * 3, size, pointer]
    return library
