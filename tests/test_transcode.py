"""JPEGs to coefficients and back: the same bytes, the same pixels, and damage or other kinds refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coefficients import PICTURES, READER, jpeg, picture, pillow, write
from fuzz import mutant

from alexnet.pipeline.decode.bad_images import BadImage
from alexnet.pipeline.decode.dct import check_dct, decode_dct
from alexnet.pipeline.decode.jpeg import read_jpeg
from alexnet.pipeline.decode.transcode import dct_to_jpeg, jpeg_to_dct


def bytes_of(data: bytes) -> Any:
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("quality", [1, 10, 50, 75, 90, 95, 100])
def test_there_and_back_gives_pillows_bytes(quality: int, chroma: str) -> None:
    for kind in PICTURES:
        encoded = jpeg(picture(kind, 64, 96, quality), quality=quality, subsampling=chroma)
        assert dct_to_jpeg(bytes_of(jpeg_to_dct(encoded))) == encoded.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"optimize": True},
        {"restart_marker_blocks": 1},
        {"restart_marker_blocks": 5, "optimize": True},
        {"restart_marker_rows": 1},
        {"qtables": [[n] * 64 for n in (3, 40, 200)]},  # a table for each component
        {"comment": b"\xff\xd9"},
    ],
    ids=str,
)
@pytest.mark.parametrize("chroma", ["4:4:4", "4:2:0"])
def test_other_ways_to_write_a_jpeg(options: dict[str, Any], chroma: str) -> None:
    encoded = jpeg(picture("smooth", 64, 96), subsampling=chroma, **options)
    data = bytes_of(jpeg_to_dct(read_jpeg(encoded).data))
    assert np.array_equal(decode_dct(data), pillow(encoded))
    assert np.array_equal(pillow(dct_to_jpeg(data)), pillow(encoded))


def test_the_layout_is_that_of_the_writer_in_numpy() -> None:
    """Read by the documents' reader, written again by the tests: the same bytes."""
    rng = np.random.default_rng(0)
    blocks = [rng.integers(-200, 201, (2, 3, 64)).astype(np.int16) for _ in range(3)]
    for component in blocks:
        component[0, 0, 1:] = 0
        component[1, :, 9:] = np.clip(component[1, :, 9:], -128, 127)
    data = write(blocks, np.full((3, 64), 5))
    again = jpeg_to_dct(bytes_of(dct_to_jpeg(bytes_of(data))))
    assert again == data
    assert [plane.shape for plane in READER["read"](data)] == [(16, 24)] * 3


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"progressive": True}, (16, 16), "not a baseline JPEG"),
        ({"subsampling": "4:2:2"}, (16, 16), "neither 4:4:4 nor 4:2:0"),
        ({"subsampling": "4:4:4"}, (16, 20), "whole blocks"),
        ({"subsampling": "4:2:0"}, (16, 24), "whole blocks"),
        ({"keep_rgb": True}, (16, 16), "luma and chroma"),
    ],
)
def test_other_kinds_are_refused(options: dict[str, Any], shape: tuple[int, int], message: str) -> None:
    with pytest.raises(BadImage, match=message):
        jpeg_to_dct(jpeg(picture("noise", *shape), **options))


def test_grey_and_cmyk_are_refused() -> None:
    from graphs import encode

    for mode in ("L", "CMYK"):
        with pytest.raises(BadImage, match="luma and chroma"):
            jpeg_to_dct(bytes_of(encode(picture("smooth", 16, 16), mode=mode)))


def test_numbers_too_large_for_a_jpeg_are_refused() -> None:
    blocks = np.zeros((1, 1, 64), np.int16)
    blocks[0, 0, 5] = 1024
    with pytest.raises(BadImage, match="too large"):
        dct_to_jpeg(bytes_of(write([blocks] * 3, np.ones((3, 64), int))))


def test_coefficients_that_no_pixels_have_are_refused() -> None:
    blocks = np.zeros((1, 1, 64), np.int16)
    blocks[0, 0, 5] = 100
    encoded = dct_to_jpeg(bytes_of(write([blocks] * 3, np.full((3, 64), 90))))
    with pytest.raises(BadImage, match="no pixels"):
        jpeg_to_dct(bytes_of(encoded))


def test_a_cut_in_the_data_is_damage() -> None:
    encoded = jpeg(picture("noise", 64, 64)).tobytes()
    for length in range(len(encoded) * 2 // 3, len(encoded) - 3, 97):
        with pytest.raises(BadImage, match="damaged"):
            jpeg_to_dct(bytes_of(encoded[:length] + b"\xff\xd9"))


def test_mutants_are_refused_or_have_pillows_pixels() -> None:
    """Some damage gives another sound JPEG; then Pillow must see the same picture."""
    taken = 0
    for number in range(1500):
        rng = np.random.default_rng([7, number])
        encoded = bytearray(jpeg(picture("smooth", 32, 48, number % 7), quality=60).tobytes())
        for _ in range(int(rng.integers(1, 4))):
            encoded[int(rng.integers(2, len(encoded) - 2))] ^= 1 << int(rng.integers(8))
        data = bytes(encoded) if number % 3 else mutant(rng)
        try:
            made = bytes_of(jpeg_to_dct(read_jpeg(bytes_of(data)).data)) if data[:2] == b"\xff\xd8" else None
        except BadImage:
            continue
        if made is None:
            continue
        check_dct(made)
        try:
            wanted = pillow(data)
        except (OSError, SyntaxError):  # Pillow reads some headers more strictly than libjpeg
            continue
        assert np.array_equal(decode_dct(made), wanted)
        taken += 1
    assert taken > 50
