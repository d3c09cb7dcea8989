"""PNG, WebP and BMP before decoding: their sizes, whether they are whole, and which of their bytes a decoder needs.

Metadata (EXIF, colour profiles, text) is unused, and damaged more often than pixels: it is removed before a decoder
can stumble over it. `read.py` calls these functions, as it calls `jpeg.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct, error
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bad_images import BadImage

Bytes = NDArray[np.uint8]


class Picture(NamedTuple):
    """One image, as DALI decodes it."""

    data: Bytes
    height: int
    width: int


# -- PNG (ISO/IEC 15948): length, name, content, checksum ---------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n"
_PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_HEAD, _PNG_HEADER, _PNG_SUM = Struct(">I4s"), Struct(">I4sIIBB"), Struct(">I")
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # bits, by type of colour


def read_png(data: Bytes) -> Picture:
    """Check the structure of a PNG and the checksums of what a decoder needs; raise `BadImage`."""
    view, at, parts, name = data.data, len(PNG), [data[: len(PNG)]], b""
    try:
        while name != b"IEND":
            length, name = _PNG_HEAD.unpack_from(view, at)
            end = at + 12 + length
            stated = _PNG_SUM.unpack_from(view, end - 4)[0]
            if name in _PNG_NEEDED:
                if zlib.crc32(view[at + 4 : end - 4]) != stated:
                    raise BadImage(f"damaged (a PNG: the checksum of its {name.decode()})")
                parts.append(data[at:end])
            at = end
        length, name, width, height, depth, colour = _PNG_HEADER.unpack_from(view, len(PNG))
    except error:
        raise BadImage("truncated (a PNG without its end, IEND)") from None
    if name != b"IHDR":
        raise BadImage("damaged (a PNG that does not begin with its header, IHDR)")
    if length != 13 or depth not in _PNG_DEPTHS.get(colour, ()):  # these can crash DALI
        raise BadImage(f"damaged (a PNG: its header of {length} bytes, {depth} bits, colours of type {colour})")
    return Picture(_joined(data[:at], parts), height, width)


# -- WebP (RFC 9649): name, length, content, and a zero after an odd length ----------------------------------

_RIFF, _RIFF_HEAD, _VP8_SIZE, _VP8L_SIZE = Struct("<4sI4s"), Struct("<4sI"), Struct("<HH"), Struct("<I")
_WEBP_NEEDED = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L")
_ALPHA, _ANIMATION = 0x10, 0x02  # flags of VP8X; the others announce metadata


def read_webp(data: Bytes) -> Picture:
    """Check the structure of a WebP; raise `BadImage`. DALI decodes the first picture of an animation."""
    chunks = [(name, chunk) for name, chunk in _webp_chunks(data) if name in _WEBP_NEEDED]
    pictures = [(name, chunk) for name, chunk in chunks if name in (b"VP8 ", b"VP8L", b"ANMF")]
    try:
        height, width = _webp_size(*chunks[0])
        if pictures[0][0] != b"ANMF" and _webp_size(*pictures[0]) != (height, width):
            raise BadImage("damaged (a WebP whose picture has another size than its header)")
    except (IndexError, error):
        raise BadImage("damaged (a WebP without a picture)") from None
    if data[12:16].tobytes() in (b"VP8 ", b"VP8L"):  # decoders ignore what follows the picture
        return Picture(data, height, width)
    header = chunks[0][1].copy()
    if chunks[0][0] == b"VP8X":
        header[_RIFF_HEAD.size] &= _ALPHA | _ANIMATION
    body = np.concatenate([_padded(header), *(_padded(chunk) for _, chunk in chunks[1:])])
    riff = np.frombuffer(_RIFF.pack(b"RIFF", 4 + len(body), b"WEBP"), np.uint8)
    return Picture(np.concatenate([riff, body]), height, width)


def _webp_chunks(data: Bytes) -> Iterator[tuple[bytes, Bytes]]:
    """Yield each chunk's name, and the chunk with its head."""
    view, at = data.data, _RIFF.size
    end = 8 + _RIFF.unpack_from(view)[1]
    if end > len(data):
        raise BadImage(f"truncated (a WebP of {len(data)} bytes that should have {end})")
    while at + _RIFF_HEAD.size <= end:
        name, length = _RIFF_HEAD.unpack_from(view, at)
        after = at + _RIFF_HEAD.size + length
        if after > end:
            raise BadImage("damaged (a WebP with a part that is longer than the whole)")
        yield name, data[at:after]
        at = after + length % 2


def _webp_size(name: bytes, chunk: Bytes) -> tuple[int, int]:
    """Return (height, width) of a canvas or a picture."""
    view = chunk.data
    if name == b"VP8X" and len(view) >= 18:
        return 1 + int.from_bytes(view[15:18], "little"), 1 + int.from_bytes(view[12:15], "little")
    if (name, *view[11:14]) == (b"VP8 ", 0x9D, 0x01, 0x2A):
        width, height = _VP8_SIZE.unpack_from(view, 14)
        return height & 0x3FFF, width & 0x3FFF
    if (name, view[8]) == (b"VP8L", 0x2F):
        (sizes,) = _VP8L_SIZE.unpack_from(view, 9)
        return 1 + (sizes >> 14 & 0x3FFF), 1 + (sizes & 0x3FFF)
    raise BadImage("damaged (a WebP whose picture has no header)")


def _padded(chunk: Bytes) -> Bytes:
    return chunk if len(chunk) % 2 == 0 else np.append(chunk, np.uint8(0))


# -- BMP: headers, a palette, rows ---------------------------------------------------------------------------

_BMP_FILE, _BMP_CORE, _BMP_INFO = Struct("<10xII"), Struct("<HHHH"), Struct("<iiHHI")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # their sizes
_PLAIN, _RLE, _MASKS = 0, (1, 2), 3  # how rows are packed
_BGRX = Struct("<III").pack(0xFF0000, 0xFF00, 0xFF)  # the 32-bit masks that change nothing


def read_bmp(data: Bytes) -> Picture:
    """Check a BMP of plain rows, 1, 4, 8, 24 or 32 bits a pixel; raise `BadImage`.

    Refuse all other kinds: DALI decodes some of them, sometimes.
    """
    view = data.data
    try:
        offset, size = _BMP_FILE.unpack_from(view)
        if size == 4 + _BMP_CORE.size:
            (width, height, _, bits), packing = _BMP_CORE.unpack_from(view, 18), _PLAIN
        else:
            width, height, _, bits, packing = _BMP_INFO.unpack_from(view, 18)
    except error:
        raise BadImage("truncated (a BMP without its header)") from None
    if size not in _BMP_HEADERS:
        raise BadImage(f"damaged (a BMP with a header of {size} bytes)")
    if packing in _RLE or bits not in (1, 4, 8, 24, 32):
        kind = "an RLE" if packing in _RLE else f"a {bits}-bit"
        raise BadImage(f"{kind} BMP, which is not supported; convert it to a plain BMP of 24 bits")
    if packing != _PLAIN and (packing != _MASKS or bits != 32 or view[54:66] != _BGRX):
        raise BadImage("a BMP with colour masks, which is not supported; convert it to a plain BMP of 24 bits")
    height, width = abs(height), max(width, 0)
    needed = offset + (width * bits + 31) // 32 * 4 * height
    if needed > len(data):
        raise BadImage(f"truncated (a BMP of {len(data)} bytes that should have {needed})")
    return Picture(data, height, width)


def _joined(whole: Bytes, parts: list[Bytes]) -> Bytes:
    """Join the parts; return `whole` itself if nothing was left out."""
    return whole if sum(map(len, parts)) == len(whole) else np.concatenate(parts)
