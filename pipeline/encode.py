"""What `pack.py` stores of each image: pixels, a JPEG, quantised DCT coefficients, or the image as it is.

    any data set -> `squares` -> JPEG -> coefficients    each further step only if the pack asks for it
    a pack of JPEGs <-> a pack of coefficients           what a JPEG has lost is not lost again
    any images -> copies                                 nothing is decoded

`pack.py` writes the results into shards.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .dataset.images import Dataset
from .dataset.record import RECORD
from .decode.bad_images import BadImage
from .decode.dct import check_dct
from .decode.read import read_image
from .decode.settings import Settings
from .decode.transcode import dct_to_jpeg, jpeg_to_dct
from .errors import DatasetError
from .geometry import SHORT_SIDE
from .squares import squares

log = logging.getLogger("alexnet")

Kind = Literal["jpeg", "raw", "dct", "copy"]
EXTENSIONS: dict[Kind, str] = {"jpeg": "jpg", "raw": "npy", "dct": "dct"}  # copies have that of their format
QUALITY = 90
CHROMA = "444"  # 420 saves a fifth of a JPEG's bytes, and 4% of the colour variance, which lighting is drawn from
BATCH = 64

Encoded = tuple[int, bytes | str]  # image, and its encoded square or why there is none
Encoder = Callable[[NDArray[np.uint8]], bytes]


@dataclass(frozen=True)
class Encoding:
    """How the images of a pack are encoded."""

    kind: Kind
    quality: int | None  # of the JPEGs, or of those that the coefficients are of; None for copies
    chroma: str | None  # of the same: 444 or 420
    convert: Encoder | None = None  # from the stored image, if that needs no pixels

    @property
    def encoder(self) -> Encoder:
        """What makes of a square, uint8 (256, 256, 3), the contents of a file."""
        if self.kind == "raw":
            return _npy
        jpeg = partial(_jpeg, quality=self.quality, subsampling=":".join(self.chroma or CHROMA))
        return jpeg if self.kind == "jpeg" else lambda pixels: jpeg_to_dct(np.frombuffer(jpeg(pixels), np.uint8))


def choose_encoding(dataset: Dataset, kind: Kind, quality: int | None, chroma: str | None) -> Encoding:
    """Fill in what was not asked for. A pack that is converted keeps its quality and chroma.

    Raise `DatasetError` if others are asked for.
    """
    if kind == "copy":
        if dataset.stored != "encoded":
            raise DatasetError(f"{dataset.where} is a pack without image files, of which --copy has nothing to copy.")
        return Encoding(kind, None, None)
    convert, record = None, dataset.root / RECORD
    found = json.loads(record.read_text()) if dataset.containers and record.is_file() else None
    if found and not found.get("copy"):  # a pack of squares
        convert = {("encoded", "dct"): jpeg_to_dct, ("dct", "jpeg"): dct_to_jpeg, ("dct", "dct"): _same}.get(
            (dataset.stored, kind)
        )
    if not found or convert is None:
        return Encoding(kind, QUALITY if quality is None else quality, chroma or CHROMA)
    kept = Encoding(kind, found["quality"], found.get("chroma", CHROMA), convert)
    if quality not in (None, kept.quality) or chroma not in (None, kept.chroma):
        what = f"JPEGs of quality {kept.quality} and chroma {kept.chroma}"
        hint = "Leave out --quality and --chroma, or pack the originals."
        raise DatasetError(f"{dataset.where} is a pack of {what}, whose coefficients are kept. {hint}")
    return kept


def encode(
    dataset: Dataset, images: NDArray[np.int64], encoding: Encoding, settings: Settings, pool: ThreadPoolExecutor
) -> Iterator[Encoded]:
    """Encode these images in this order, several at a time; `max_bad` is not applied."""
    if encoding.convert or encoding.kind == "copy":
        take = partial(_converted, convert=encoding.convert) if encoding.convert else _copied
        yield from _as_stored(dataset, images, take, settings, pool)
        return
    done, lenient = 0, replace(settings, max_bad=1.0)
    for batch in squares(dataset, images, batch_size=BATCH, settings=lenient):
        contents = pool.map(encoding.encoder, batch.pixels.cpu().numpy())
        found = dict(batch.bad) | dict(zip(batch.indices.tolist(), contents, strict=True))
        yield from ((image, found[image]) for image in images[done : done + len(found)].tolist())
        done += len(found)


def _as_stored(
    dataset: Dataset,
    images: NDArray[np.int64],
    take: Callable[[Dataset, int, int], bytes],
    settings: Settings,
    pool: ThreadPoolExecutor,
) -> Iterator[Encoded]:
    """Encode images without their pixels: `take` makes the content of a file of a data set's image."""

    def one(image: int) -> bytes | str:
        try:
            return take(dataset, image, settings.max_pixels)
        except BadImage as error:
            log.warning("Bad image %s: %s", dataset.name(image), error)
            return str(error)

    with dataset.while_reading() as dataset:
        reached = dataset.ahead(images)
        for start in range(0, len(images), BATCH):
            reached(start)
            part = images[start : start + BATCH].tolist()
            yield from zip(part, pool.map(one, part), strict=True)


def _converted(dataset: Dataset, image: int, max_pixels: int, convert: Encoder) -> bytes:
    data, shape = read_image(dataset, image, max_pixels)
    if shape != (SHORT_SIDE, SHORT_SIDE):
        raise BadImage(f"{shape[1]}x{shape[0]} pixels in a pack, where all have {SHORT_SIDE}x{SHORT_SIDE}")
    return convert(data)


def _copied(dataset: Dataset, image: int, max_pixels: int) -> bytes:
    """The image as it is, mended in nothing; BadImage if it would not be used."""
    read_image(dataset, image, max_pixels)
    return dataset.read(image).tobytes()


def _npy(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()


def _jpeg(pixels: NDArray[np.uint8], **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **how)
    return buffer.getvalue()


def _same(data: NDArray[np.uint8]) -> bytes:
    check_dct(data)
    return data.tobytes()
