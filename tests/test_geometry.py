"""Regions and the plain augmentation: against Pillow, scipy-free numpy loops and the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet.pipeline import augment
from alexnet.pipeline.geometry import CROP, SHORT_SIDE, centre_offset, resized_shape, source_region

Pixels = NDArray[np.uint8]

sides = st.one_of(st.integers(1, 700), st.sampled_from([1, 2, 255, 256, 257, 511, 512, 513, 5000, 20000]))
shapes = st.tuples(sides, sides)
offsets = st.tuples(st.integers(0, 32), st.integers(0, 32))


def picture(seed: int, height: int, width: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(seed: int, height: int, width: int) -> Pixels:
    coarse = Image.fromarray(picture(seed, 8, 8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def difference(a: NDArray[np.generic], b: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.abs(a.astype(np.float64) - b.astype(np.float64))


# -- regions -----------------------------------------------------------------------------------------------


@given(shape=shapes)
def test_the_shorter_side_becomes_256_and_the_longer_the_nearest_pixel(shape: tuple[int, int]) -> None:
    ((height, width),) = resized_shape(np.array([shape])).tolist()
    assert min(height, width) == SHORT_SIDE
    exact = max(shape) * SHORT_SIDE / min(shape)
    assert abs(max(height, width) - exact) <= 0.5 + 1e-9 * exact
    assert (height >= width) == (shape[0] >= shape[1]) or height == width
    ((top, left),) = centre_offset(np.array([[height, width]])).tolist()
    assert (top, left) == ((height - 256) // 2, (width - 256) // 2)


def contributing(source: int, target: int, first: int, count: int) -> tuple[int, int]:
    """The first and last source pixel with a weight in output pixels first..first+count-1, by the definition of a
    triangle filter, pixel by pixel."""
    scale = source / target
    radius = max(scale, 1.0)
    used = []
    for i in (first, first + count - 1):  # centres grow with i, so the outermost pixels decide
        centre = (i + 0.5) * scale
        near = range(int(centre - radius) - 2, int(centre + radius) + 3)
        used += [min(max(s, 0), source - 1) for s in near if abs(s + 0.5 - centre) < radius]
    return min(used), max(used)


@settings(max_examples=300)
@given(shape=shapes, crop=offsets, size=st.sampled_from([CROP, SHORT_SIDE]))
def test_a_region_holds_every_source_pixel_that_the_two_steps_use(
    shape: tuple[int, int], crop: tuple[int, int], size: int
) -> None:
    crop = crop if size == CROP else (0, 0)
    region = source_region(np.array([shape]), np.array([crop]), size)
    resized = resized_shape(np.array([shape]))
    for axis in (0, 1):
        source, target = shape[axis], int(resized[0, axis])
        first = int(centre_offset(resized)[0, axis]) + crop[axis]
        low, high = contributing(source, target, first, size)
        start, end = int(region.start[0, axis]), int(region.end[0, axis])
        assert 0 <= start <= low
        assert high < end <= source
        scale = source / target
        tolerance = 1e-5 * max(end - start, 1)  # float32, counted from `start`
        assert region.low[0, axis] + start == pytest.approx(first * scale, abs=tolerance)
        assert region.high[0, axis] + start == pytest.approx((first + size) * scale, abs=tolerance)
        assert end - start <= size * scale + 2 * max(scale, 1) + 2  # and one pixel more, then rounded outwards


def test_regions_of_many_images_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    many_shapes, crops = rng.integers(1, 900, (50, 2)), rng.integers(0, 33, (50, 2))
    together = source_region(many_shapes, crops, CROP)
    for i in range(50):
        alone = source_region(many_shapes[i : i + 1], crops[i : i + 1], CROP)
        assert all(np.array_equal(a[i], b[0]) for a, b in zip(together, alone, strict=True))
    assert [a.dtype for a in together] == [np.int32, np.int32, np.float32, np.float32]
    assert all(a.flags.c_contiguous for a in together)


# -- resampling --------------------------------------------------------------------------------------------


@given(source=st.integers(1, 300), target=st.integers(1, 300))
def test_weights_are_an_average(source: int, target: int) -> None:
    weights = augment.resize_axis_weights(source, target)
    assert weights.shape == (target, source)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-9)  # no drift to either side


def naive_resize(line: NDArray[np.uint8], target: int) -> NDArray[np.float64]:
    """One line before it is rounded, pixel by pixel, over a source whose edge pixels go on for ever."""
    source, out = len(line), []
    scale = source / target
    radius = max(scale, 1)
    for i in range(target):
        centre, total, weight = (i + 0.5) * scale, 0.0, 0.0
        for s in range(int(centre - radius) - 2, int(centre + radius) + 3):
            w = max(0.0, 1 - abs(s + 0.5 - centre) / radius)
            total += w * float(line[min(max(s, 0), source - 1)])
            weight += w
        out.append(total / weight)
    return np.array(out)


@settings(max_examples=60)
@given(source=st.integers(1, 90), target=st.integers(1, 90), seed=st.integers(0, 99))
def test_resize_is_the_definition(source: int, target: int, seed: int) -> None:
    line = picture(seed, 1, source)
    expected = np.stack([naive_resize(line[0, :, c], target) for c in range(3)], axis=-1)
    for got in (augment.resize(line, 1, target)[0], augment.resize(line.transpose(1, 0, 2), target, 1)[:, 0]):
        assert np.abs(got - expected).max() <= 0.5 + 1e-9  # rounded to nearest; a tie may go either way


@pytest.mark.parametrize(("height", "width"), [(500, 375), (375, 500), (300, 1000), (257, 259), (1200, 900)])
def test_shrinking_is_pillows_but_for_the_border(height: int, width: int) -> None:
    """Measured: at most 1 grey level inside (Pillow rounds after each axis), 0.10 to 0.20 on average; in the outermost
    rows and columns, where Pillow renormalises and DALI repeats the edge, 12 on noise and 1 on a smooth image."""
    ratio = SHORT_SIDE / min(height, width)
    size = (round(width * ratio), round(height * ratio))
    for image, border in ((picture(1, height, width), 15), (smooth(1, height, width), 1)):
        ours = augment.resize(image, size[1], size[0])
        pillows = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        off = difference(ours, pillows)
        assert off[1:-1, 1:-1].max() <= 1
        assert off[1:-1, 1:-1].mean() < 0.3
        assert off.max() <= border


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (2, 3), (100, 80), (255, 255)])
def test_enlarging_is_linear_interpolation(height: int, width: int) -> None:
    image = picture(2, height, width)
    ratio = SHORT_SIDE / min(height, width)
    target = (round(height * ratio), round(width * ratio))
    ours = augment.resize(image, *target)
    rows, columns = ((np.arange(t) + 0.5) * s / t - 0.5 for s, t in zip((height, width), target, strict=True))
    for c in range(3):
        tall = np.stack([np.interp(rows, np.arange(height), image[:, x, c]) for x in range(width)], axis=1)
        both = np.stack([np.interp(columns, np.arange(width), line) for line in tall])
        assert difference(ours[..., c], both).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (256, 256), (300, 260), (900, 257)])
def test_a_flat_colour_stays(value: int, shape: tuple[int, int]) -> None:
    square = augment.centre_square(np.full((*shape, 3), value, np.uint8))
    assert square.shape == (256, 256, 3)
    assert (square == value).all()


def test_a_256_square_is_left_alone() -> None:
    image = picture(3, 256, 256)
    assert np.array_equal(augment.centre_square(image), image)
    wide = picture(4, 256, 401)
    assert np.array_equal(augment.centre_square(wide), wide[:, 72:328])  # (401 - 256) // 2
    tall = picture(5, 400, 256)
    assert np.array_equal(augment.centre_square(tall), tall[72:328])


def test_the_square_is_the_middle_of_the_resized_image() -> None:
    image = picture(6, 333, 512)
    whole = augment.resize(image, 256, 394)
    assert np.array_equal(augment.centre_square(image), whole[:, 69:325])


# -- crop, light, normalise --------------------------------------------------------------------------------


@given(top=st.integers(0, 32), left=st.integers(0, 32), flip=st.booleans())
def test_crop_and_flip_pixel_by_pixel(top: int, left: int, flip: bool) -> None:
    rows, columns = np.indices((256, 256), dtype=np.uint8)
    square = np.stack([rows, columns, rows ^ columns], axis=-1)
    crop = augment.crop_and_flip(square, top, left, flip)
    assert crop.shape == (224, 224, 3)
    for y, x in ((0, 0), (0, 223), (223, 0), (100, 7)):
        source = left + (223 - x if flip else x)
        assert crop[y, x].tolist() == [top + y, source, (top + y) ^ source]


def test_lighting_is_the_formula_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    vectors, strengths = np.linalg.qr(rng.normal(size=(3, 3)))[0], np.array([200.0, 50.0, 9.0])
    draws = rng.standard_normal((7, 3)).astype(np.float32)
    offset = augment.lighting_offset(draws, vectors, strengths, 0.1)
    for draw, got in zip(draws, offset, strict=True):
        expected = sum(vectors[:, k] * 0.1 * float(draw[k]) * strengths[k] for k in range(3))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert offset.dtype == np.float32
    many = augment.lighting_offset(rng.standard_normal((200_000, 3)).astype(np.float32), vectors, strengths, 0.1)
    covariance = vectors @ np.diag((0.1 * strengths) ** 2) @ vectors.T  # what the draws must have
    np.testing.assert_allclose(np.cov(many.T), covariance, atol=3)


def test_treat_is_the_steps_one_after_the_other() -> None:
    image, mean = picture(7, 300, 400), np.random.default_rng(1).uniform(0, 255, (224, 224, 3)).astype(np.float32)
    offset = np.array([1.5, -2.25, 3.0], np.float32)
    out = augment.treat(image, top=3, left=30, flip=True, mean=mean, offset=offset, divisor=1.1)
    crop = augment.centre_square(image)[3:227, 30:254][:, ::-1].astype(np.float64)
    np.testing.assert_allclose(out, (crop - mean + offset) / 1.1, atol=1e-3)
    assert out.dtype == np.float32
    colour = augment.treat(image, top=3, left=30, flip=True, mean=np.array([1.0, 2.0, 3.0]), offset=offset)
    np.testing.assert_allclose(colour, crop - [1, 2, 3] + offset, atol=1e-3)
