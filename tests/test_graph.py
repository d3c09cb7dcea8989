"""The DALI graphs against `augment.py` on the same bytes, and against Pillow: each stage alone, then the whole.

Every test runs twice: DALI does all, as on a GPU; or it decodes and `resample.py` does the rest, as on CPUs.

Tolerances in grey levels. Squares and crops: at most 1, on average below 0.05 (DALI resamples in float32 and rounds
once, the reference in float64). Decoding: none with decode="exact". Normalisation: 1e-3.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("nvidia.dali")

import graphs
from graphs import (
    CORNERS,
    DIVISORS,
    FORMS,
    MEANS,
    Pixels,
    assert_same_picture,
    batch_of,
    corpus,
    decode,
    differences,
    encode,
    photo,
    pillow,
    plain_crops,
    reference_square,
    squares,
    train,
    tree_images,
)

from alexnet.pipeline import augment


@pytest.fixture(autouse=True, params=["dali", "compiled"])
def both_chains(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "chain", request.param)


# -- decoding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_decoding_is_pillows_bit_for_bit(form: str) -> None:
    image = corpus()[list(FORMS).index(form)]
    (ours,) = decode([image])
    np.testing.assert_array_equal(ours, pillow(image))


def test_the_tiny_tree_decodes_bit_for_bit(tiny_tree: Path) -> None:
    images = tree_images(tiny_tree)
    for ours, image in zip(decode(images), images, strict=True):
        np.testing.assert_array_equal(ours, pillow(image))


def test_orientation_is_ignored() -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        image = encode(photo(1, 120, 300), exif=exif, quality=85)
        np.testing.assert_array_equal(decode([image])[0], decode([encode(photo(1, 120, 300), quality=85)])[0])
        assert_same_picture(squares([image]), [reference_square(image)])


def test_fast_decoding_is_close() -> None:
    """Measured in grey levels on drawn images: 4:2:0 4 at worst and 1.0 on average, 4:4:4 at quality 95 7 and 1.0;
    the squares alike. On the sample's photographs, see `test_real_images_decoded_fast`."""
    for image in (corpus()[0], corpus()[2]):
        for ours, exact in (
            (decode([image], "fast"), pillow(image)),
            (squares([image], "fast"), reference_square(image)),
        ):
            (off,) = differences(ours, [exact])
            assert 0 < off.max() <= 10
            assert off.mean() < 1.5


# -- squares and crops -------------------------------------------------------------------------------------


def test_squares_are_the_references() -> None:
    assert_same_picture(squares(corpus()), [reference_square(i) for i in corpus()])


def test_squares_of_the_tiny_tree(tiny_tree: Path) -> None:
    images = tree_images(tiny_tree)
    assert_same_picture(squares(images), [reference_square(i) for i in images])


def test_a_256_square_passes_untouched() -> None:
    image = encode(photo(5, 256, 256), "PNG")
    np.testing.assert_array_equal(squares([image])[0], photo(5, 256, 256))
    for size in (224, 227):
        expected = photo(5, 256, 256)[7 : 7 + size, 29 : 29 + size]
        np.testing.assert_array_equal(train([image], [(7, 29)], [False], size=size)[0], expected)


def test_an_image_beside_others_is_as_alone() -> None:
    images = corpus()[:6]
    for together, image in zip(squares(images), images, strict=True):
        np.testing.assert_array_equal(together, squares([image])[0])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", CORNERS)
def test_crops_at_the_corners_are_the_two_plain_steps(crop: tuple[int, int], flip: bool) -> None:
    images = corpus()
    crops, flips = [crop] * len(images), [flip] * len(images)
    assert_same_picture(train(images, crops, flips), plain_crops(images, crops, flips))


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 420), st.integers(1, 420)).filter(lambda s: max(s) < 12 * min(s)),
    crop=st.tuples(st.integers(0, 32), st.integers(0, 32)),
    flip=st.booleans(),
    subsampling=st.sampled_from(["4:2:0", "4:4:4"]),
)
def test_crops_anywhere_of_any_shape(
    size: tuple[int, int], crop: tuple[int, int], flip: bool, subsampling: str
) -> None:
    image = encode(photo(9, *size), subsampling=subsampling)
    assert_same_picture(train([image], [crop], [flip]), plain_crops([image], [crop], [flip]))


def interpolated(line: Pixels) -> Pixels:
    """A strip one pixel wide and n long, enlarged to 256 x 256n: its central 256 pixels, by np.interp."""
    n = len(line)
    at = ((n * 256 - 256) // 2 + np.arange(256) + 0.5) / 256 - 0.5
    exact = np.stack([np.interp(at, np.arange(n), line[:, c]) for c in range(3)], axis=-1)
    return np.repeat(np.rint(exact).astype(np.uint8)[None], 256, axis=0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_extreme_shapes(kind: str) -> None:
    wide, tall, dot = photo(3, 1, 5000), photo(4, 5000, 1), photo(5, 1, 1)
    images = [encode(image, kind) for image in (wide, tall, dot)]
    across, down, point = (pillow(i) for i in images)
    expected = [
        interpolated(across[0]),
        interpolated(down[:, 0]).transpose(1, 0, 2),
        np.broadcast_to(point, (256, 256, 3)),
    ]
    assert_same_picture(squares(images), expected)
    crops = [e[5:229, 20:244] for e in expected]
    assert_same_picture(train(images, [(5, 20)] * 3, [False] * 3), crops)


def test_an_extreme_panorama_that_shrinks() -> None:
    image = encode(photo(6, 300, 6000))
    square = np.asarray(Image.fromarray(pillow(image)).resize((5120, 256), Image.Resampling.BILINEAR))[:, 2432:2688]
    (off,) = differences(squares([image]), [square])  # far from the sides, so Pillow is a fair judge
    assert off[1:-1].max() <= 1


# -- normalisation and lighting ----------------------------------------------------------------------------


@pytest.mark.parametrize("divisor", DIVISORS)
@pytest.mark.parametrize("mean", MEANS)
def test_normalisation_and_lighting(mean: str, divisor: str) -> None:
    images, crops, flips, shift = batch_of(8)
    raw = train(images, crops, flips)
    assert all(np.array_equal(image, np.rint(image)) for image in raw)
    treated = train(images, crops, flips, shift, mean=MEANS[mean], divisor=DIVISORS[divisor])
    for ours, crop, offset in zip(treated, raw, shift, strict=True):
        assert ours.dtype == np.float32
        expected = augment.normalise(crop.astype(np.uint8), MEANS[mean], offset, DIVISORS[divisor])
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("mean", MEANS)
def test_float16_is_the_same_rounded(mean: str) -> None:
    if graphs.chain == "compiled":
        pytest.skip("half precision is for GPUs")
    images, crops, flips, shift = batch_of(4)
    how: dict[str, Any] = {"mean": MEANS[mean], "divisor": DIVISORS["std"]}
    full, half = train(images, crops, flips, shift, **how), train(images, crops, flips, shift, **how, half=True)
    for a, b in zip(full, half, strict=True):
        assert b.dtype == np.float16
        # half a unit in the last place of |x| < 8, and the same again where it was rounded from a float32 neighbour
        np.testing.assert_allclose(a, b.astype(np.float32), rtol=2**-11, atol=2e-3)


def test_the_mean_image_is_neither_shifted_nor_mirrored() -> None:
    flat = encode(np.full((300, 300, 3), 128, np.uint8), "PNG")
    outputs = train([flat] * 3, [(0, 0), (32, 5), (9, 9)], [False, True, True], mean=MEANS["image"])
    for output in outputs:
        np.testing.assert_allclose(output, 128 - MEANS["image"], atol=1e-4)


def test_the_whole_treatment_is_the_plain_one() -> None:
    images, crops, flips, shift = batch_of(14, seed=5)
    ours = train(images, crops, flips, shift, mean=MEANS["image"], divisor=DIVISORS["1.1"])
    plain = [
        augment.treat(pillow(i), top=y, left=x, flip=f, mean=MEANS["image"], offset=s, divisor=1.1)
        for i, (y, x), f, s in zip(images, crops, flips, shift, strict=True)
    ]
    off = differences(ours, plain)
    assert max(o.max() for o in off) <= 1 / 1.1 + 1e-3
    assert np.mean([o.mean() for o in off]) < 0.05


# -- the ImageNet sample -----------------------------------------------------------------------------------


@pytest.mark.sample
def test_real_images(sample_dir: Path) -> None:
    """Every tenth image decoded, squared and cropped at one of several offsets (ALEXNET_ALL_SAMPLES=1: every one)."""
    paths = sorted(sample_dir.rglob("*.JPEG"))[:: 1 if os.environ.get("ALEXNET_ALL_SAMPLES") else 10]
    offsets = [*CORNERS, (16, 16), (7, 29)]
    total, count, worst = 0.0, 0, 0.0
    for begin in range(0, len(paths), 25):
        images = [path.read_bytes() for path in paths[begin : begin + 25]]
        for ours, image in zip(decode(images), images, strict=True):
            np.testing.assert_array_equal(ours, pillow(image))
        crops = [offsets[(begin + i) % len(offsets)] for i in range(len(images))]
        flips = [i % 2 == 1 for i in range(len(images))]
        off = differences(squares(images), [reference_square(i) for i in images])
        off += differences(train(images, crops, flips), plain_crops(images, crops, flips))
        worst = max(worst, *(o.max() for o in off))
        total, count = total + sum(o.sum() for o in off), count + sum(o.size for o in off)
        pillow.cache_clear()
        reference_square.cache_clear()
    print(f"{len(paths)} images: worst {worst}, mean {total / count:.2e} grey levels")
    assert worst <= 1
    assert total / count < 0.001


@pytest.mark.sample
def test_real_images_decoded_fast(sample_dir: Path) -> None:
    """Measured on 40: squares differ by 1.1 grey levels on average, by 16 at worst."""
    images = [path.read_bytes() for path in sorted(sample_dir.rglob("*.JPEG"))[::25]]
    off = differences(squares(images, "fast"), squares(images))
    print(f"fast: mean {np.mean([o.mean() for o in off]):.2f}, worst {max(o.max() for o in off)}")
    assert 0 < np.mean([o.mean() for o in off]) < 1.5
    assert max(o.max() for o in off) < 40
