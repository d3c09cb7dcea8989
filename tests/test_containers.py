"""PNG, WebP and BMP: decoded with Pillow's pixels whole and in part, or refused before any decoder sees them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("nvidia.dali")
from decoded import Pixels, assert_pillows, whole_and_region

from alexnet.pipeline.decode.bad_images import BadImage
from alexnet.pipeline.decode.containers import Picture, read_bmp, read_png, read_webp

HEIGHT, WIDTH = 50, 61
RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
CLEAR = Image.fromarray(RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8))


def save(picture: Image.Image, form: str, **options: Any) -> bytes:
    picture.save(file := io.BytesIO(), form, **options)
    return file.getvalue()


# -- PNG ----------------------------------------------------------------------------------------------------


def png_part(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


PLAIN_PNG = save(PICTURE, "PNG")
IDAT = PLAIN_PNG.index(b"IDAT")


def in_png(part: bytes) -> bytes:
    return PLAIN_PNG[:33] + part + PLAIN_PNG[33:]


def headed_png(depth: int, colour: int, more: bytes = b"") -> bytes:
    """With another header, its checksum right."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0) + more
    return PLAIN_PNG[:8] + png_part(b"IHDR", header) + PLAIN_PNG[33:]


PNGS = {
    "RGB": PLAIN_PNG,
    "palette": save(PICTURE.convert("P"), "PNG"),
    "palette with a clear colour": save(PICTURE.convert("P"), "PNG", transparency=3),
    "grey": save(PICTURE.convert("L"), "PNG"),
    "black and white": save(PICTURE.convert("1"), "PNG"),
    "alpha": save(CLEAR, "PNG"),
    "grey and alpha": save(CLEAR.convert("LA"), "PNG"),
    "animated": save(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(90)]),
    "gamma": in_png(png_part(b"gAMA", struct.pack(">I", 100_000))),
    "EXIF that is none": in_png(png_part(b"eXIf", b"xx")),
    "bytes after its end": PLAIN_PNG + b"more",
}
BAD_PNGS = {
    "no end": (PLAIN_PNG[:-12], "without its end, IEND"),
    "cut": (PLAIN_PNG[: len(PLAIN_PNG) // 2], "without its end, IEND"),
    "only a signature": (PLAIN_PNG[:8], "without its end, IEND"),
    "damaged pixels": (PLAIN_PNG[: IDAT + 30] + b"\0\0" + PLAIN_PNG[IDAT + 32 :], "checksum of its IDAT"),
    "damaged header": (PLAIN_PNG[:20] + b"\1" + PLAIN_PNG[21:], "checksum of its IHDR"),
    "no header": (PLAIN_PNG[:8] + PLAIN_PNG[33:], "does not begin with its header"),
    "a depth that is none": (headed_png(5, 0), "5 bits"),
    "a depth of other colours": (headed_png(4, 2), "4 bits, colours of type 2"),
    "colours that are none": (headed_png(8, 5), "colours of type 5"),
    "a header too long": (headed_png(8, 2, b"x"), "header of 14 bytes"),
}


# -- WebP ---------------------------------------------------------------------------------------------------


def webp_part(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def riff(*parts: bytes) -> bytes:
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(flags: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp_part(b"VP8X", bytes([flags, 0, 0, 0]) + sizes)


PLAIN_WEBP = save(PICTURE, "WEBP")
VP8 = PLAIN_WEBP[12:]
EXIF, ICC, XMP, ANIMATION = 0x08, 0x20, 0x04, 0x02
SMALL = save(PICTURE.resize((30, 20)), "WEBP")[12:]
FRAME = (5).to_bytes(3, "little") * 2 + (29).to_bytes(3, "little") + (19).to_bytes(3, "little") + bytes(4) + SMALL
WEBPS = {
    "lossy": PLAIN_WEBP,
    "lossless": save(PICTURE, "WEBP", lossless=True),
    "lossy with alpha": save(CLEAR, "WEBP"),
    "lossless with alpha": save(CLEAR, "WEBP", lossless=True),
    "EXIF": riff(canvas(EXIF), VP8, webp_part(b"EXIF", b"MM\0*\0\0\0\x08\0\0")),
    "EXIF behind an odd part": riff(canvas(EXIF | XMP), VP8, webp_part(b"XMP ", b"abc"), webp_part(b"EXIF", b"MM\0*")),
    "EXIF that is none": riff(canvas(EXIF), VP8, webp_part(b"EXIF", b"x")),
    "a colour profile": riff(canvas(ICC), webp_part(b"ICCP", b"abc"), VP8),
    "flags without their parts": riff(canvas(EXIF | ICC | XMP), VP8),
    "an unknown part": riff(canvas(0), webp_part(b"ABCD", b"abc"), VP8),
    "animated": save(CLEAR, "WEBP", save_all=True, append_images=[CLEAR.rotate(90)]),
    "animated, a part of the canvas": riff(
        canvas(ANIMATION | ICC), webp_part(b"ICCP", b"abc"), webp_part(b"ANIM", bytes(6)), webp_part(b"ANMF", FRAME)
    ),
    "bytes after its end": PLAIN_WEBP + b"more",
}
BAD_WEBPS = {
    "an empty header": (riff(webp_part(b"VP8X", b""), webp_part(b"ANMF", FRAME)), "without a picture"),
    "cut": (PLAIN_WEBP[:-40], "truncated"),
    "cut, and its length mended": (riff(VP8[:-40]), "longer than the whole"),
    "no picture": (riff(canvas(0)), "without a picture"),
    "nothing": (riff(), "without a picture"),
    "two sizes": (riff(canvas(0, 40, 40), VP8), "another size than its header"),
    "no start of a frame": (riff(VP8[:11] + b"xxx" + VP8[14:]), "has no header"),
}


# -- BMP ----------------------------------------------------------------------------------------------------


def bmp(bits: int, packing: int = 0, *, header: int = 40, height: int = HEIGHT, masks: bytes = b"") -> bytes:
    rows = np.random.default_rng(bits).integers(0, 256, (WIDTH * bits + 31) // 32 * 4 * abs(height), np.uint8).tobytes()
    palette = b"".join(bytes([7 * k % 256, 3 * k % 256, k, 0]) for k in range(1 << bits)) if bits <= 8 else b""
    offset = 14 + header + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, packing, len(rows), 0, 0, 0, 0)
    start = b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset)
    return start + info + bytes(header - 40) + masks + palette + rows


def os2_bmp() -> bytes:
    """With the oldest header, in which sizes have two bytes."""
    rows = np.random.default_rng(2).integers(0, 256, (WIDTH * 24 + 31) // 32 * 4 * HEIGHT, np.uint8).tobytes()
    return b"BM" + struct.pack("<IHHIIHHHH", 26 + len(rows), 0, 0, 26, 12, WIDTH, HEIGHT, 1, 24) + rows


BGRX, OTHER = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF), struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)
BMPS = {
    **{f"{bits} bits": bmp(bits) for bits in (1, 4, 8, 24, 32)},
    "from the top": bmp(24, height=-HEIGHT),
    "version 4": bmp(24, header=108),
    "version 5": bmp(24, header=124),
    "of OS/2": os2_bmp(),
    "the usual masks": bmp(32, 3, masks=BGRX),
    "grey, by Pillow": save(PICTURE.convert("L"), "BMP"),
    "bytes after its end": bmp(24) + b"more",
}
BAD_BMPS = {
    "16 bits": (bmp(16), "a 16-bit BMP, which is not supported; convert it to a plain BMP of 24 bits"),
    "16 bits with masks": (bmp(16, 3, masks=BGRX), "a 16-bit BMP, which is not supported"),
    "run lengths": (bmp(8, 1), "an RLE BMP, which is not supported"),
    "other masks": (bmp(32, 3, masks=OTHER), "colour masks"),
    "cut": (bmp(24)[:-1], "truncated"),
    "no header": (bmp(24)[:20], "truncated"),
    "a strange header": (bmp(24).replace(struct.pack("<I", 40), struct.pack("<I", 44), 1), "header of 44 bytes"),
}


# -- all ----------------------------------------------------------------------------------------------------

Read = Callable[[NDArray[np.uint8]], Picture]
READERS: dict[Read, dict[str, bytes]] = {read_png: PNGS, read_webp: WEBPS, read_bmp: BMPS}
CUT: dict[Read, bytes] = {read_png: PLAIN_PNG, read_webp: WEBPS["EXIF behind an odd part"], read_bmp: bmp(8)}
GOOD: dict[tuple[Read, str], bytes] = {
    (read, kind): image for read, images in READERS.items() for kind, image in images.items()
}
BAD: dict[tuple[Read, str], tuple[bytes, str]] = {
    (read, kind): case
    for read, cases in ((read_png, BAD_PNGS), (read_webp, BAD_WEBPS), (read_bmp, BAD_BMPS))
    for kind, case in cases.items()
}


@cache
def decoded() -> dict[tuple[Read, str], tuple[Pixels, Pixels]]:
    images = [read(np.frombuffer(image, np.uint8)).data for (read, _), image in GOOD.items()]
    return dict(zip(GOOD, whole_and_region(images), strict=True))


@pytest.mark.parametrize(("read", "kind"), GOOD)
def test_pixels_are_pillows_whole_and_in_part(read: Read, kind: str) -> None:
    image = GOOD[read, kind]
    assert_pillows(decoded()[read, kind], image)
    picture = read(np.frombuffer(image, np.uint8))
    assert (picture.height, picture.width) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(("read", "kind"), BAD)
def test_what_is_wrong_is_said(read: Read, kind: str) -> None:
    image, reason = BAD[read, kind]
    with pytest.raises(BadImage, match=reason):
        read(np.frombuffer(image, np.uint8))


@pytest.mark.parametrize("read", CUT)
def test_every_cut_is_refused(read: Read) -> None:
    image = CUT[read]
    data = np.frombuffer(image, np.uint8)
    for length in range(12, len(image) - 1):
        with pytest.raises(BadImage):
            read(data[:length])


@pytest.mark.parametrize("parts", [[VP8], [canvas(EXIF), VP8]])
def test_a_webp_that_begins_with_what_is_not_needed(parts: list[bytes]) -> None:
    late = read_webp(np.frombuffer(riff(webp_part(b"EXIF", b"abc"), *parts), np.uint8))
    assert_pillows(*whole_and_region([late.data]), PLAIN_WEBP)


def test_what_needs_no_change_is_not_copied() -> None:
    for read, image in ((read_png, PLAIN_PNG), (read_webp, PLAIN_WEBP), (read_bmp, bmp(24))):
        data = np.frombuffer(image, np.uint8)
        assert np.shares_memory(read(data).data, data)
