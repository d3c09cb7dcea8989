"""Decoding coefficients: against Pillow, against the documents' reader, and with vectors against plain C."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coefficients import PICTURES, jpeg, mended, picture, pillow, random_image, read_plainly
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet.pipeline.compiled import NotBuilt, load
from alexnet.pipeline.decode import dct
from alexnet.pipeline.decode.bad_images import BadImage
from alexnet.pipeline.decode.dct import DctCropper, check_dct, decode_dct, num_kernels
from alexnet.pipeline.decode.resample import Resampler
from alexnet.pipeline.decode.transcode import dct_to_jpeg, jpeg_to_dct
from alexnet.pipeline.geometry import region_of_square

LARGEST = 8191  # of dequantised coefficients in a JPEG that we take
chromas = pytest.mark.parametrize("factor", [1, 2], ids=["444", "420"])


def bytes_of(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def every_way(data: bytes) -> NDArray[np.uint8]:
    """Decode by each of this processor's kernels, which must agree."""
    plain, *others = (decode_dct(bytes_of(data), kernels=k) for k in range(num_kernels()))
    assert all(np.array_equal(plain, other) for other in others)
    return plain


@pytest.mark.parametrize("quality", range(1, 101))
def test_pixels_are_pillows(quality: int) -> None:
    for number, kind in enumerate(PICTURES):
        for chroma in ("4:4:4", "4:2:0"):
            encoded = jpeg(picture(kind, 48, 80, quality), quality=quality, subsampling=chroma)
            assert np.array_equal(every_way(jpeg_to_dct(encoded)), pillow(encoded)), (number, kind, chroma)


@chromas
@pytest.mark.parametrize("shape", [(16, 16), (16, 256), (256, 16), (48, 272), (256, 256)])
def test_any_size_of_whole_blocks(shape: tuple[int, int], factor: int) -> None:
    encoded = jpeg(picture("noise", *shape), quality=85, subsampling="4:4:4" if factor == 1 else "4:2:0")
    assert np.array_equal(every_way(jpeg_to_dct(encoded)), pillow(encoded))


@chromas
@pytest.mark.parametrize("density", [0.0, 0.03, 0.3, 1.0])
@pytest.mark.parametrize("largest", [127, 1024, LARGEST])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="libjpeg-turbo differs where samples are far out of range")
def test_random_blocks_are_decoded_as_pillow_does(largest: int, density: float, factor: int) -> None:
    rng = np.random.default_rng([largest, int(100 * density), factor])
    for _ in range(20):
        data = random_image(rng, factor, largest, density)
        try:
            encoded = dct_to_jpeg(bytes_of(data))
        except BadImage:  # two DC coefficients further apart than a JPEG's codes reach
            continue
        assert np.array_equal(every_way(data), pillow(encoded))


@chromas
def test_the_documents_reader_agrees_whatever_the_numbers(factor: int) -> None:
    """Beyond what any JPEG holds: sums of 16 bits wrap."""
    rng = np.random.default_rng(factor)
    for density in (0.02, 0.5, 1.0):
        for largest in (100, 2000, 40_000, 255 * 1023):
            data = random_image(rng, factor, largest, density)
            assert np.array_equal(every_way(data), read_plainly(data))


@pytest.mark.sample
@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:0"])
def test_photographs_have_pillows_pixels(sample_dir: Any, chroma: str) -> None:
    from PIL import Image

    for path in sorted(sample_dir.rglob("*.JPEG"))[::10]:
        with Image.open(path) as image:
            square = np.asarray(image.convert("RGB").resize((256, 256)))
        encoded = jpeg(square, quality=90, subsampling=chroma)
        data = jpeg_to_dct(encoded)
        assert np.array_equal(every_way(data), pillow(encoded))
        assert dct_to_jpeg(bytes_of(data)) == encoded.tobytes()


# -- crops -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    corner=st.tuples(st.integers(0, 32), st.integers(0, 32)),
    factor=st.sampled_from([1, 2]),
    mirror=st.booleans(),
    treated=st.booleans(),
)
def test_crops_are_what_the_resampler_makes_of_all_pixels(
    corner: tuple[int, int], factor: int, mirror: bool, treated: bool
) -> None:
    """To the bit, treatment included: a pack of coefficients trains as the pack of JPEGs does."""
    rng = np.random.default_rng(3)
    chroma = "4:4:4" if factor == 1 else "4:2:0"
    encoded = [jpeg(picture(kind, 256, 256), quality=90, subsampling=chroma) for kind in ("noise", "smooth", "flat")]
    inputs = region_of_square(np.array([corner] * 3), 224)._asdict()
    inputs |= {"mirror": np.full(3, mirror), "shift": rng.normal(0, 20, (3, 3)).astype(np.float32)}
    how = (rng.uniform(0, 255, (224, 224, 3)).astype(np.float32), np.full(3, 1.1, np.float32)) if treated else ()
    with DctCropper(224, 2, *how) as cropper, Resampler(224, 2, *how) as resampler:
        ours = cropper.start([bytes_of(jpeg_to_dct(e)) for e in encoded], inputs)()
        theirs = resampler.start([pillow(e).copy() for e in encoded], inputs)()
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_change_nothing(threads: int) -> None:
    images = [bytes_of(jpeg_to_dct(jpeg(picture("noise", 256, 256, i)))) for i in range(5)]
    inputs = region_of_square(np.array([[i, 2 * i] for i in range(5)]), 224)._asdict()
    with DctCropper(224, threads) as cropper:
        crops = cropper.start(images, inputs)()
    for i, image in enumerate(images):
        assert np.array_equal(crops[i], decode_dct(image)[i : i + 224, 2 * i : 2 * i + 224])


def test_an_empty_batch_stays_empty() -> None:
    with DctCropper(256, 2) as cropper:
        assert cropper.start([], region_of_square(np.zeros((0, 2), int), 256)._asdict())().shape == (0, 256, 256, 3)


# -- damage ------------------------------------------------------------------------------------------------


def sound(seed: int = 0, factor: int = 1) -> bytes:
    return random_image(np.random.default_rng(seed), factor, 2000, 0.3)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"JFIF", "not an image of coefficients"),
        (4, b"\2", "another version"),
        (5, b"\3", "its header"),
        (8, b"\0\0", "its header"),
        (8, b"\x0c\0", "its header"),
        (10, b"\xff\xff", "its header"),
        (12, b"\0\0\0\1", "another size"),
        (16, b"abcd", "its checksum"),
        (300, b"abcd", "its checksum"),
    ],
)
def test_damage_is_named(at: int, value: bytes, message: str) -> None:
    data = sound()
    damaged = data[:at] + value + data[at + len(value) :]
    with pytest.raises(BadImage, match=message):
        check_dct(bytes_of(damaged))


def test_every_truncation_and_every_changed_byte_is_found() -> None:
    data = sound()
    for length in range(len(data)):
        with pytest.raises(BadImage):
            check_dct(bytes_of(data[:length]))
    for at in {*range(6), *range(8, len(data))}:
        with pytest.raises(BadImage):
            check_dct(bytes_of(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]))


@settings(max_examples=300)
@given(st.data())
def test_mutants_are_refused_or_decoded_alike(draw: Any) -> None:
    """With the checksum made right, so that lengths and maps are what protects memory: see also `fuzz_dct.py`."""
    data = bytearray(sound(draw.draw(st.integers(0, 5)), draw.draw(st.sampled_from([1, 2]))))
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(4, len(data) - 4))
        data[at : at + 4] = draw.draw(st.sampled_from([bytes(4), b"\xff" * 4, b"\1\0\0\0", bytes(data[20:24])]))
    image = mended(bytes(data))
    try:
        check_dct(bytes_of(image))
    except BadImage:
        with pytest.raises(BadImage):
            decode_dct(bytes_of(image))
        return
    every_way(image)


def test_a_missing_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(dct, "__file__", str(tmp_path / "dct.py"))
    dct._library.cache_clear()
    with pytest.raises(NotBuilt, match=r"was not compiled.*Install gcc"):
        DctCropper(224, 1)
    dct._library.cache_clear()


def test_the_newest_library_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Builds for several interpreters may lie side by side, and an older one may be of older code."""
    for age, name in enumerate(("_dct.cpython-313.so", "_dct.abi3.so", "_dct.cpython-311.so")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr("ctypes.CDLL", lambda path: Path(path).name)
    assert load(tmp_path / "dct.c") == "_dct.cpython-313.so"
