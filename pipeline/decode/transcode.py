"""JPEGs to images of quantised DCT coefficients and back, without loss: `transcode.c`.

A JPEG spends most of its decoding on Huffman codes, bit after bit. `alexnet pack --dct` does that once, with this
module; `dct.py` decodes what remains. docs/coefficient-packs.md describes the format.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import load
from .bad_images import BadImage
from .dct import raise_for

_WHAT_IS_WRONG = (
    "",
    "not a baseline JPEG",
    "not a JPEG of luma and chroma",
    "a JPEG whose chroma is neither 4:4:4 nor 4:2:0",
    "a JPEG whose sides are not whole blocks of 8 pixels (16 if 4:2:0)",
    "a JPEG of several scans",
    "damaged (a JPEG: its data)",
    "damaged (a JPEG: coefficients that no pixels have)",
)
_BLOCK = 64


class _Picture(ctypes.Structure):
    """What a JPEG and an image of coefficients have in common: the same fields as `Picture` in `huffman.h`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("height", "width", "factor")),
        ("tables", ctypes.c_uint8 * (3 * _BLOCK)),
    )

    def blocks(self) -> NDArray[np.int16]:
        """Make room for the coefficients."""
        luma = self.height * self.width // _BLOCK
        return np.empty((luma + 2 * luma // self.factor**2, _BLOCK), np.int16)


def jpeg_to_dct(jpeg: NDArray[np.uint8]) -> bytes:
    """Return the coefficients of a baseline JPEG, of three components, 4:4:4 or 4:2:0; its sides are whole blocks.

    `jpeg` is uint8 (n,), as `read_jpeg` returns it. Raise `BadImage` for other kinds, and for damage.
    """
    library, picture = _library(), _Picture()

    def read(blocks: Any) -> None:
        if status := library.read_coefficients(jpeg.ctypes.data, len(jpeg), ctypes.byref(picture), blocks):
            raise BadImage(_WHAT_IS_WRONG[status])

    read(None)
    blocks = picture.blocks()
    read(blocks.ctypes.data)
    packed = np.empty(library.packed_room(ctypes.byref(picture)), np.uint8)
    size = library.pack_coefficients(ctypes.byref(picture), blocks.ctypes.data, packed.ctypes.data)
    return packed[:size].tobytes()


def dct_to_jpeg(data: NDArray[np.uint8]) -> bytes:
    """Return a baseline JPEG with the same coefficients: the bytes that libjpeg writes for them by default.

    Raise `BadImage` if the image is damaged, or has coefficients too large for a baseline JPEG.
    """
    library, picture = _library(), _Picture()
    raise_for(library.unpack_coefficients(data.ctypes.data, len(data), ctypes.byref(picture), None))
    blocks = picture.blocks()
    raise_for(library.unpack_coefficients(data.ctypes.data, len(data), ctypes.byref(picture), blocks.ctypes.data))
    jpeg = np.empty(library.jpeg_room(ctypes.byref(picture)), np.uint8)
    size = library.write_jpeg(ctypes.byref(picture), blocks.ctypes.data, jpeg.ctypes.data)
    if size < 0:
        raise BadImage("its coefficients are too large for a JPEG")
    return jpeg[:size].tobytes()


@cache
def _library() -> Any:
    library, pointer, size = load(Path(__file__).with_name("transcode.c")), ctypes.c_void_p, ctypes.c_int64
    library.read_coefficients.argtypes = library.unpack_coefficients.argtypes = [pointer, size, pointer, pointer]
    for room in (library.packed_room, library.jpeg_room):
        room.argtypes, room.restype = [pointer], size
    for write in (library.pack_coefficients, library.write_jpeg):
        write.argtypes, write.restype = [pointer] * 3, size
    return library
