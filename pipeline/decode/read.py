"""Read one image as it is stored, and check it before any decoder sees it.

`stream.py` reads images with this. An image that passes is structurally whole (`jpeg.py`, `containers.py`); DALI may
still refuse it (`probe.py`).
"""

from __future__ import annotations

import errno
import io

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from ..dataset.images import Dataset
from ..errors import RemoteError
from ..geometry import SHORT_SIDE
from .bad_images import BadImage
from .containers import PNG, Picture, read_bmp, read_png, read_webp
from .dct import check_dct
from .formats import what_it_is
from .jpeg import read_jpeg

OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # the fault of no image


def read_image(dataset: Dataset, index: int, max_pixels: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return one image as it is stored, encoded bytes uint8 (n,) or pixels uint8 (H, W, 3), and its (height, width).

    Raise `BadImage` with the reason if it cannot be used; OSError if no file can be opened at all.
    """
    try:
        data = dataset.read(index)
    except RemoteError:  # another image in its place would hide that the network is down
        raise
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES:
            raise
        raise BadImage(f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise BadImage(str(error)) from error
    if dataset.stored == "raw":
        return data.reshape(SHORT_SIDE, SHORT_SIDE, 3), (SHORT_SIDE, SHORT_SIDE)
    if dataset.stored == "dct":
        return data, _check_square(check_dct(data))
    head = data[:12].tobytes()
    if head[:2] == b"\xff\xd8":
        jpeg = read_jpeg(data)
        _check_size(jpeg.height, jpeg.width, max_pixels)
        return jpeg.data if jpeg.components < 4 else _cmyk_as_bmp(jpeg.data), (jpeg.height, jpeg.width)
    picture = _read_picture(head, data)
    _check_size(picture.height, picture.width, max_pixels)
    return picture.data, (picture.height, picture.width)


def _read_picture(head: bytes, data: NDArray[np.uint8]) -> Picture:
    if head.startswith(PNG):
        return read_png(data)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return read_webp(data)
    if head[:2] == b"BM":
        return read_bmp(data)
    raise BadImage(what_it_is(data))


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(f"its header claims {width}x{height} pixels, more than --max-pixels {max_pixels}")
    if height < 1 or width < 1:
        raise BadImage(f"its header claims {width}x{height} pixels")


def _check_square(shape: tuple[int, int]) -> tuple[int, int]:
    if shape != (SHORT_SIDE, SHORT_SIDE):
        raise BadImage(f"coefficients of {shape[1]}x{shape[0]} pixels; packs have {SHORT_SIDE}x{SHORT_SIDE}")
    return shape


def _cmyk_as_bmp(jpeg: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert a JPEG of four components (CMYK, YCCK) to a BMP, with Pillow.

    Decoders disagree about which inks are inverted, and about the colours. ImageNet has some twenty of these.
    """
    bmp = io.BytesIO()
    try:
        with JpegImageFile(io.BytesIO(jpeg.tobytes())) as image:
            image.convert("RGB").save(bmp, "BMP")
    except (OSError, SyntaxError) as error:
        raise BadImage(f"damaged (a CMYK JPEG: {error})") from None
    return np.frombuffer(bmp.getbuffer(), np.uint8)
