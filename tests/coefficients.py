"""Images of quantised DCT coefficients for tests: the reader that the documents show, and a writer, both in numpy."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PAGE = Path(__file__).parents[1] / "docs/coefficient-packs.md"
READER: dict[str, Any] = {}
exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0], READER)

Pixels = NDArray[np.uint8]
Blocks = NDArray[np.int16]  # (down, across, 64), row by row


def write(components: list[Blocks], tables: NDArray[np.integer], factor: int = 1) -> bytes:
    """An image of these blocks, as docs/coefficient-packs.md lays it out; `tables` are (3, 64)."""
    down, across, _ = components[0].shape
    rows = [_row(row) for blocks in components for row in blocks]
    first = 216 + 4 * (len(rows) + 1)
    starts = first + np.cumsum([0, *map(len, rows)])
    body = b"".join([tables.astype(np.uint8).tobytes(), starts.astype("<u4").tobytes(), *rows, bytes(64)])
    body += bytes(-len(body) % 4)
    numbers = np.array([8 * down, 8 * across], "<u2").tobytes() + np.array([24 + len(body)], "<u4").tobytes()
    return b"ADCT" + bytes([1, factor, 0, 0]) + numbers + checksum(body) + body


def _row(blocks: NDArray[np.int16]) -> bytes:
    maps = blocks != 0
    values = [block[1:][block[1:] != 0] for block in blocks]
    wide = [bool((v != v.astype(np.int8)).any()) for v in values]
    maps[:, 0] = wide
    low_first = [v.astype("<i2").view(np.uint8).reshape(-1, 2) for v in values]
    stored = [(v.T if w else v[:, :1]).tobytes() for v, w in zip(low_first, wide, strict=True)]
    return b"".join([np.packbits(maps, axis=1, bitorder="little").tobytes(), blocks[:, 0].tobytes(), *stored])


def checksum(body: bytes) -> bytes:
    """Of all from byte 24 on."""
    words = np.frombuffer(body, "<u4").astype(object)  # Python's integers
    sums = int(words.sum()), int((words * np.arange(1, len(words) + 1)).sum())
    return b"".join((n % 2**32).to_bytes(4, "little") for n in sums)


def mended(data: bytes) -> bytes:
    """The image with its checksum made right, so that other damage is not found by it."""
    whole = data + bytes(-len(data) % 4)
    return whole[:16] + checksum(whole[24:]) + whole[24:]


def random_image(rng: np.random.Generator, factor: int, largest: int, density: float) -> bytes:
    """Blocks of random coefficients; `largest` is the bound of those dequantised."""
    down, across = (int(n) for n in factor * rng.integers(1, 4, 2))
    tables = rng.integers(1, 256, (3, 64))
    blocks = []
    for c in range(3):
        shape = (down, across, 64) if c == 0 else (down // factor, across // factor, 64)
        limits = np.minimum(largest // tables[c], 1023)
        values = rng.integers(-limits, limits + 1, shape)
        values[..., 1:] *= rng.random(shape)[..., 1:] < density
        blocks.append(values.astype(np.int16))
    return write(blocks, tables, factor)


def read_plainly(data: bytes) -> Pixels:
    """The documents' reader, and upsampling pixel by pixel: uint8 (H, W, 3)."""
    luma, blue, red = READER["read"](data)
    if data[5] == 2:
        blue, red = (_upsampled(_upsampled(c.astype(int), 0, 0).T, 8, 7).T // 16 for c in (blue, red))
    return READER["colours"](luma, blue.astype(np.uint8), red.astype(np.uint8))


def _upsampled(samples: NDArray[np.integer], before: int, after: int) -> NDArray[np.integer]:
    """Twice as many rows: each the nearest one three times, and the next nearest. The others are for rounding."""
    padded = np.pad(samples, ((1, 1), (0, 0)), mode="edge")
    up, down = 3 * samples + padded[:-2] + before, 3 * samples + padded[2:] + after
    return np.stack([up, down], axis=1).reshape(-1, samples.shape[1])


def picture(kind: str, height: int, width: int, seed: int = 0) -> Pixels:
    """Pixels that are hard to get right: noise, only black and white, smooth, one colour, stripes."""
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "extreme":
        return rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)
    if kind == "flat":
        return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    if kind == "stripes":
        return np.broadcast_to((np.arange(width) % 2 * 255).astype(np.uint8)[None, :, None], (height, width, 3)).copy()
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


PICTURES = ("noise", "extreme", "flat", "stripes", "smooth")


def jpeg(pixels: Pixels, **options: Any) -> Pixels:
    """Pillow's JPEG of them, as bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def pillow(data: Pixels | bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))
