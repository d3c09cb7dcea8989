"""One image as it is stored, looked at before any decoder sees it.

`stream.py` reads images with this; what passes here goes to DALI, which has its own opinion (`judge.py`).
"""

from __future__ import annotations

import numpy as np
import nvidia.nvimgcodec as nvimgcodec
from numpy.typing import NDArray

from .dataset import Dataset
from .geometry import SHORT_SIDE

CODECS = ("jpeg", "png", "bmp", "webp")  # a damaged JPEG 2000 makes DALI's decoder write to memory it has freed
MAX_PIXELS = 100_000_000  # ImageNet's largest image has about 60 million
SCAN, END = b"\xff\xda", b"\xff\xd9"  # JPEG markers: start of scan, end of image


class BadImage(ValueError):
    """One image cannot be used; the message says why."""


def read_image(dataset: Dataset, index: int, max_pixels: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Encoded bytes and (height, width) of one image; raises `BadImage` with the reason."""
    try:
        data = dataset.read(index)
    except (OSError, ValueError) as error:
        raise BadImage(str(error)) from error
    if dataset.raw:
        return data.reshape(SHORT_SIDE, SHORT_SIDE, 3), (SHORT_SIDE, SHORT_SIDE)
    if len(data) == 0:
        raise BadImage("the file is empty")
    try:
        header = nvimgcodec.CodeStream(data)
        height, width = int(header.height), int(header.width)
    except RuntimeError:
        raise BadImage("not an image (no readable header)") from None
    if header.codec_name not in CODECS:
        raise BadImage(f"a {header.codec_name} file, none of {', '.join(CODECS)}")
    if height * width > max_pixels:
        raise BadImage(f"its header claims {width}x{height} pixels, more than --max-pixels {max_pixels}")
    if height < 1 or width < 1:
        raise BadImage(f"its header claims {width}x{height} pixels")
    if header.codec_name == "jpeg" and not _has_end(data):
        raise BadImage("truncated (a JPEG without its end)")
    return data, (height, width)


def _has_end(jpeg: NDArray[np.uint8]) -> bool:
    """Whether an end marker follows the last scan. Rows above a cut still decode: left to the decoder, the verdict
    would depend on the crop, and a resumed run could differ from an unbroken one."""
    if jpeg[-2:].tobytes() == END:
        return True
    encoded = jpeg.tobytes()
    return encoded.rfind(END) > encoded.rfind(SCAN)  # bytes may follow, and a thumbnail has an end of its own
