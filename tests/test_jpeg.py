"""JPEGs in every disorder: what libjpeg opens through Pillow comes out with the same pixels; what has no end is bad."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nvidia.dali")
from decoded import Pixels, assert_pillows, whole_and_region

from alexnet.pipeline.decode.bad_images import BadImage
from alexnet.pipeline.decode.jpeg import Jpeg, read_jpeg

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


@cache
def jpeg(seed: int = 0, size: tuple[int, int] = (60, 50), **options: Any) -> bytes:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(colours).resize(size).save(file := io.BytesIO(), "JPEG", quality=90, **options)
    return file.getvalue()


def split(image: bytes) -> tuple[list[bytes], bytes]:
    """The header's segments, the first scan's included, and what follows."""
    found: list[bytes] = []
    at = 2
    while not found or found[-1][1] != 0xDA:
        end = at + 2 + int.from_bytes(image[at + 2 : at + 4], "big")
        found.append(image[at:end])
        at = end
    return found, image[at:]


SEGMENTS, DATA = split(jpeg())
JFIF, QUANTISATION, *_ = SEGMENTS
TABLES = [s for s in SEGMENTS if s[1] in (0xC4, 0xDB)]
FRAME, SCAN = (next(s for s in SEGMENTS if s[1] == marker) for marker in (0xC0, 0xDA))
COMMENT = b"\xff\xfe\x00\x06abcd"
THUMBNAIL = b"\xff\xe1" + (2 + 6 + len(jpeg(1, (16, 12)))).to_bytes(2, "big") + b"Exif\0\0" + jpeg(1, (16, 12))
PROGRESSIVE = jpeg(3, progressive=True)


def after_first(*inserted: bytes) -> bytes:
    return SOI + JFIF + b"".join(inserted) + b"".join(SEGMENTS[1:]) + DATA


def with_length(segment: bytes, off: int) -> bytes:
    return segment[:2] + (int.from_bytes(segment[2:4], "big") + off).to_bytes(2, "big") + segment[4:]


def with_frame(frame: bytes) -> bytes:
    return jpeg().replace(FRAME, frame)


def in_data(extra: bytes, image: bytes = jpeg()) -> bytes:
    at = image.index(SCAN) + len(SCAN) + 200
    return image[:at] + extra + image[at:]


def scan_by_scan() -> bytes:
    """Three grey images as the components of one, each in a scan of its own."""
    greys = [split(grey(seed)) for seed in range(3)]
    tables = b"".join(s for s in greys[0][0] if s[1] in (0xC4, 0xDB))
    frame = next(s for s in greys[0][0] if s[1] == 0xC0)[4:9] + b"\3" + b"".join(bytes([c, 0x11, 0]) for c in (1, 2, 3))
    scans = (b"\xff\xda\0\x08\1" + bytes([i + 1, 0, 0, 63, 0]) + data[:-2] for i, (_, data) in enumerate(greys))
    return SOI + tables + b"\xff\xc0\0\x11" + frame + b"".join(scans) + EOI


def grey(seed: int) -> bytes:
    Image.open(io.BytesIO(jpeg(seed))).convert("L").save(file := io.BytesIO(), "JPEG", quality=90)
    return file.getvalue()


def arithmetic(process: int, scan: bytes, data: str) -> bytes:
    """In libjpeg-turbo's arithmetic code, which Pillow reads and does not write: the same sizes, other colours."""
    frame = bytes([0xFF, process]) + FRAME[2:]
    return SOI + JFIF + QUANTISATION + SEGMENTS[2] + frame + scan + bytes.fromhex(data) + EOI


AFTER_THE_END = {
    "zeros": bytes(99),
    "text": b"trailing text",
    "a scan's marker": b"\xff\xda",
    "a second end": EOI,
    "a video": b"....ftypmp42" + bytes(9),
    "a second picture": jpeg(1),
    "a cut second picture": jpeg(1)[:-70],
    "a zip": b"PK\3\4" + bytes(20) + EOI,
    "half a marker": b"\xff",
}
PLAIN = {
    "as Pillow writes it": jpeg(),
    "progressive": PROGRESSIVE,
    "other tables": jpeg(2, qtables="web_low"),
    "a scan for each component": scan_by_scan(),
    "restarts": jpeg(2, restart_marker_blocks=2),
    "without JFIF": SOI + b"".join(SEGMENTS[1:]) + DATA,
    "a thumbnail": after_first(THUMBNAIL),
    "the standard's own tables": SOI + JFIF + QUANTISATION + SEGMENTS[2] + FRAME + SCAN + DATA,
    "arithmetic": arithmetic(
        0xC9, SCAN, "ff0064e8c1b035bea212690c6be8827a66ef027e29dd4ada418c6fd003ff00e9b26607a126f12ee0e680"
    ),
    "arithmetic and progressive": arithmetic(
        0xCA,
        bytes.fromhex("ffda000c03010002100310000000"),
        "ff00648ff52a9b7eee46f1d4c641b1ae8ff14b9cfa4abaa1516ec24da7faccd1707f29065a8dee9f",
    ),
    "number of lines": after_first(b"\xff\xdc\x00\x04\x00\x32"),
    "a comment at the end": jpeg()[:-2] + b"\xff\xfe\x00\x04\xff\xd9" + EOI,
    "fill before the end": jpeg()[:-2] + b"\xff\xff" + EOI,
    "an end too early": jpeg()[: -len(DATA) // 2] + EOI,
    "junk before the end": jpeg()[:-2] + b"\0\0" + EOI,
    "damage between restarts": in_data(b"\xff\x02", jpeg(2, restart_marker_blocks=2)),
}
REPAIRED = {
    "junk between segments": after_first(b"abc"),
    "zeros between segments": after_first(bytes(5)),
    "a stuffed byte between segments": after_first(b"\xff\0"),
    "a restart in the header": after_first(b"\xff\xd3"),
    "fill between segments": after_first(b"\xff\xff\xff"),
    "a comment shorter than it is": after_first(with_length(COMMENT, -1)),
    "a comment of no length": after_first(b"\xff\xfe\0\0"),
    "JFIF shorter than it is": jpeg().replace(JFIF, with_length(JFIF, -1)),
    "JFIF of no length": jpeg().replace(JFIF[:4], b"\xff\xe0\0\0"),
    "junk before the scan": jpeg().replace(SCAN, b"\x11" + SCAN),
    "tables on their own before": SOI + b"".join(TABLES) + EOI + jpeg(),
    "tables and restarts before": SOI + b"\xff\xdd\0\4\0\2" + TABLES[0] + EOI + jpeg(),
    "tables on their own alone": SOI + b"".join(TABLES) + EOI + SOI + JFIF + FRAME + SCAN + DATA,
    "junk between scans": (b"\0\1" + b"\xff\xda").join(PROGRESSIVE.rsplit(b"\xff\xda", 1)),
}
BAD = {
    "nothing more": (SOI, "truncated"),
    "only an end": (SOI + EOI, "without a picture"),
    "no end": (jpeg()[:-2], "truncated"),
    "half an end": (jpeg()[:-1], "truncated"),
    "zeros for the end": (jpeg()[:-2] + bytes(9), "truncated"),
    "cut, with a thumbnail": (after_first(THUMBNAIL)[:-40], "truncated"),
    "cut, and a marker": (jpeg()[:-300] + b"\xff\xda\xff\xd9", "truncated"),
    "cut, and a picture": (jpeg()[:-300] + jpeg(1), "another begins"),
    "cut between scans": (PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")], "truncated"),
    "a second start": (SOI + jpeg(), "another begins"),
    "a comment longer than the file": (after_first(b"\xff\xfe\xff\xff"), "truncated"),
    "a strange marker": (after_first(b"\xff\xf0\0\4ab"), "marker F0 in a wrong place"),
    "a strange marker in a scan": (in_data(b"\xff\x02"), "marker 02"),
    "two frames": (jpeg().replace(FRAME, FRAME * 2), "two frames"),
    "a frame's length": (with_frame(with_length(FRAME, 1)), "frame's header"),
    "tables of no length": (jpeg().replace(QUANTISATION[:4], b"\xff\xdb\0\0"), "segment's length"),
    "a scan without a frame": (with_frame(b""), "scan's header"),
    "a frame without a scan": (jpeg()[: jpeg().index(SCAN)] + EOI, "without a picture"),
    "a scan too many": (jpeg()[:-2] + SCAN + DATA, "more scans"),
    "tables and nothing": (SOI + b"".join(TABLES) + EOI + b"junk", "without a picture"),
    "12 bits": (with_frame(b"\xff\xc1" + FRAME[2:4] + b"\x0c" + FRAME[5:]), "12 bits per sample, which is not"),
    "lossless": (with_frame(b"\xff\xc3" + FRAME[2:]), "a lossless JPEG, which is not supported"),
    "hierarchical": (with_frame(b"\xff\xc5" + FRAME[2:]), "a hierarchical JPEG, which is not supported"),
    "two components": (with_frame(b"\xff\xc0\0\x0e" + FRAME[4:9] + b"\2" + FRAME[10:16]), "with 2 components"),
}


def read(image: bytes) -> Jpeg:
    return read_jpeg(np.frombuffer(image, np.uint8))


@cache
def decoded() -> dict[str, tuple[Pixels, Pixels]]:
    images = whole_and_region([read(image).data for image in (PLAIN | REPAIRED).values()])
    return dict(zip(PLAIN | REPAIRED, images, strict=True))


@pytest.mark.parametrize("kind", PLAIN | REPAIRED)
def test_pixels_are_pillows(kind: str) -> None:
    image = (PLAIN | REPAIRED)[kind]
    assert_pillows(decoded()[kind], image)
    assert read(image)[1:] == (50, 60, 3)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_image_is_not_copied(kind: str) -> None:
    data = np.frombuffer(PLAIN[kind], np.uint8)
    kept = read_jpeg(data).data
    assert np.shares_memory(kept, data)
    assert len(kept) == len(data)


@pytest.mark.parametrize("kind", REPAIRED)
def test_a_repaired_image_is_a_plain_one(kind: str) -> None:
    repaired = read(REPAIRED[kind]).data
    assert repaired.tobytes() != REPAIRED[kind]
    assert np.shares_memory(read_jpeg(repaired).data, repaired)


@pytest.mark.parametrize("trailer", AFTER_THE_END)
@pytest.mark.parametrize("kind", ["as Pillow writes it", "progressive", "a thumbnail", "restarts"])
def test_what_follows_the_end_is_left_out(kind: str, trailer: str) -> None:
    assert read(PLAIN[kind] + AFTER_THE_END[trailer]).data.tobytes() == PLAIN[kind]


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_said(kind: str) -> None:
    image, reason = BAD[kind]
    with pytest.raises(BadImage, match=reason):
        read(image)


@pytest.mark.parametrize("kind", ["as Pillow writes it", "progressive", "a thumbnail", "restarts", *REPAIRED])
def test_every_cut_is_bad(kind: str) -> None:
    """Whatever lies behind it in memory: here the rest of the image does."""
    image = (PLAIN | REPAIRED)[kind]
    data = np.frombuffer(image, np.uint8)
    for length in range(2, len(image)):
        with pytest.raises(BadImage, match=r"truncated|without a picture"):
            read_jpeg(data[:length])
