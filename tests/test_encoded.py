"""One image as it is handed to DALI: inks become colours, and what cannot be used is said alike wherever it is met."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("nvidia.dali")
from decoded import assert_pillows, whole_and_region

from alexnet.pipeline.dataset.open import from_files
from alexnet.pipeline.decode.bad_images import BadImage
from alexnet.pipeline.decode.probe import describe_damage
from alexnet.pipeline.decode.read import read_image
from alexnet.pipeline.decode.settings import MAX_PIXELS


@cache
def inks(adobe: int | None, **options: bool) -> bytes:
    """A CMYK JPEG by Pillow, with this transform in its Adobe segment, or without the segment."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    Image.fromarray(colours, "CMYK").resize((60, 50)).save(file := io.BytesIO(), "JPEG", quality=90, **options)
    image = file.getvalue()
    at = image.index(b"\xff\xee")
    transform = at + 2 + int.from_bytes(image[at + 2 : at + 4], "big") - 1
    return (
        image[:at] + image[transform + 1 :]
        if adobe is None
        else image[:transform] + bytes([adobe]) + image[transform + 1 :]
    )


def read(folder: Path, image: bytes) -> NDArray[np.uint8]:
    (folder / "image").write_bytes(image)
    return read_image(from_files([folder / "image"]), 0, MAX_PIXELS)[0]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("adobe", [None, 0, 1, 2])
def test_inks_are_pillows_colours(tmp_path: Path, adobe: int | None, progressive: bool) -> None:
    image = inks(adobe, progressive=progressive)
    (pixels,) = whole_and_region([read(tmp_path, image)])
    assert_pillows(pixels, image)
    (pixels,) = whole_and_region([read(tmp_path, image + b"\xff\xda after the end")])
    assert_pillows(pixels, image)


def test_plain_ink_without_adobe_is_red(tmp_path: Path) -> None:
    """No cyan, all of magenta and yellow, no black."""
    Image.new("CMYK", (64, 64), (0, 255, 255, 0)).save(file := io.BytesIO(), "JPEG", quality=100)
    image = file.getvalue()
    at = image.index(b"\xff\xee")
    ((whole, _),) = whole_and_region([read(tmp_path, image[:at] + image[at + 16 :])])
    assert np.abs(whole.astype(int) - (255, 0, 0)).max() <= 2


def test_damaged_inks_are_bad(tmp_path: Path) -> None:
    at = inks(0).index(b"\xff\xdb")
    with pytest.raises(BadImage, match=r"damaged \(a CMYK JPEG: "):
        read(tmp_path, inks(0)[: at + 4] + b"\x55" + inks(0)[at + 5 :])


@pytest.mark.parametrize(
    "image", [b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n" + bytes(60), b"BM" + bytes(60), b"nothing"]
)
def test_a_reason_is_the_same_for_the_same_bytes(image: bytes) -> None:
    """No place in memory is in it: a pack keeps it."""
    first, second = (describe_damage(np.frombuffer(image, np.uint8)) for _ in range(2))
    assert first == second
    assert " at 0x" not in first
    assert "\n" not in first


def test_decoders_say_nothing_of_bad_images(tmp_path: Path) -> None:
    """In a process of its own, whose standard error is all that C++ writes, too."""
    cases = {
        "png": b"\x89PNG\r\n\x1a\n",
        "bmp": b"BM" + bytes(80),
        "webp": b"RIFF\x20\0\0\0WEBPVP8 \x14\0\0\0" + bytes(20),
        "cut": inks(0)[:-9],
        "header": b"\xff\xd8\xff\xe0\0\x10JFIF",
        "tiff": b"II*\0\xff\xff\xff\xff",
        "gif": b"GIF89a" + bytes(9),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    code = f"""if True:
        import logging, numpy as np
        from pathlib import Path
        from alexnet.pipeline.dataset.open import from_files
        from alexnet.pipeline.squares import full_images, squares
        from alexnet.pipeline.decode.settings import Settings
        logging.disable()
        dataset = from_files(sorted(Path({str(tmp_path)!r}).iterdir()))
        for decode in (squares, full_images):
            list(decode(dataset, np.arange(len(dataset)), batch_size=4, settings=Settings(max_bad=1.0)))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stderr == ""
