"""Where the first image of a JPEG ends, and which of its bytes a decoder needs.

A file may go on after its image (a video, a second picture, zeros), hold another image inside (a thumbnail), and have
junk between the parts of its header. libjpeg, and so Pillow, forgives nearly all of that; the parser in front of DALI's
decoders does not. So `jpeg.c` walks through the parts as libjpeg does. A JPEG without an end counts as truncated, even
if some crop of it could be decoded. From a JPEG that is not plain, whatever no decoder needs is removed.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiled import load
from .bad_images import BadImage

WHAT_IS_WRONG = (
    "",
    "truncated (a JPEG without its end)",
    "damaged (a JPEG without a picture)",
    "damaged (a JPEG in which another begins before its end)",
    "damaged (a JPEG with marker {:02X} in a wrong place)",
    "damaged (a JPEG with two frames)",
    "damaged (a JPEG: its frame's header)",
    "damaged (a JPEG: a scan's header)",
    "damaged (a JPEG with more scans than its frame has)",
    "damaged (a JPEG: a segment's length)",
)
DECODED = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # frames: baseline, extended, progressive; the last two arithmetically coded
LOSSLESS = (0xC3, 0xCB)


class Jpeg(NamedTuple):
    """One image, as DALI decodes it."""

    data: NDArray[np.uint8]
    height: int
    width: int
    components: int  # 1, 3 or 4


class _Jpeg(ctypes.Structure):
    """What `jpeg.c` finds out about a JPEG: the same fields as its `Jpeg`."""

    _fields_ = (
        ("end", ctypes.c_int64),
        ("num_parts", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("plain", "process", "bits", "height", "width", "components", "marker")),
    )


def read_jpeg(data: NDArray[np.uint8]) -> Jpeg:
    """Return the first image in bytes that begin with a JPEG's signature: a view, unless something must be left out.

    Raise `BadImage` if it is not whole, or is of an unsupported kind.
    """
    found, address = _Jpeg(), data.ctypes.data
    if status := _library()(address, len(data), ctypes.byref(found), None):
        raise BadImage(WHAT_IS_WRONG[status].format(found.marker))
    if found.process not in DECODED:
        kind = "lossless" if found.process in LOSSLESS else "hierarchical"
        raise BadImage(f"a {kind} JPEG, which is not supported")
    if found.bits != 8:
        raise BadImage(f"a JPEG with {found.bits} bits per sample, which is not supported; only 8 are")
    if found.components not in (1, 3, 4):
        raise BadImage(f"a JPEG with {found.components} components, which is not supported; only 1, 3 and 4 are")
    image = data[: found.end] if found.plain else _needed(data, found)
    return Jpeg(image, found.height, found.width, found.components)


def _needed(data: NDArray[np.uint8], found: _Jpeg) -> NDArray[np.uint8]:
    """Join the parts that a decoder needs into one plain JPEG."""
    parts = np.empty((found.num_parts, 2), np.int64)
    _library()(data.ctypes.data, len(data), ctypes.byref(found), parts.ctypes.data)
    pieces = [data[begin:end].tobytes() for begin, end in parts[: found.num_parts].tolist()]
    return np.frombuffer(b"".join((b"\xff\xd8", *pieces, b"\xff\xd9")), np.uint8)


@cache
def _library() -> Any:
    function, pointer = load(Path(__file__).with_name("jpeg.c")).walk, ctypes.c_void_p
    function.argtypes = [pointer, ctypes.c_int64, pointer, pointer]
    return function
