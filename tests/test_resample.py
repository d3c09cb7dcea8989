"""The compiled resampling: against the definition in float64 (`augment.py`), Pillow, and DALI's own graph."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from graphs import encode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet.pipeline import augment
from alexnet.pipeline.compiled import NotBuilt
from alexnet.pipeline.decode import resample
from alexnet.pipeline.decode.graph import TRAIN_INPUTS, new_pipeline, train_graph
from alexnet.pipeline.decode.resample import Resampler
from alexnet.pipeline.geometry import CROP, SHORT_SIDE, region_of_square, source_region

Pixels = NDArray[np.uint8]
sides = st.one_of(st.integers(1, 600), st.sampled_from([1, 2, 255, 256, 257, 512, 1500]))
shapes = st.tuples(sides, sides).filter(lambda s: max(s) <= 10 * min(s))  # the reference works on the whole image
offsets = st.tuples(st.integers(0, 32), st.integers(0, 32))


def picture(seed: int, height: int, width: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def regions(
    images: Sequence[Pixels], crops: Sequence[tuple[int, int]], size: int, **more: Any
) -> tuple[list[Pixels], dict[str, Any]]:
    """What a decoder hands over: the rectangles, copied out of their images, and what goes with them."""
    shapes = np.array([image.shape[:2] for image in images])
    region = source_region(shapes, np.array(crops), size)
    cut = [
        image[top:bottom, left:right].copy()
        for image, (top, left), (bottom, right) in zip(images, region.start.tolist(), region.end.tolist(), strict=True)
    ]
    return cut, region._asdict() | more


def run(
    images: Sequence[Pixels],
    crops: Sequence[tuple[int, int]],
    size: int,
    *,
    threads: int = 2,
    mean: NDArray[np.float32] | None = None,
    divisor: NDArray[np.float32] | None = None,
    **more: Any,
) -> NDArray[Any]:
    with Resampler(size, threads, mean, divisor) as resampler:
        return resampler.start(*regions(images, crops, size, **more))()


def exact_square(image: Pixels) -> NDArray[np.float64]:
    """`augment.centre_square` before it is rounded."""
    ratio = SHORT_SIDE / min(image.shape[:2])
    weights = []
    for side in image.shape[:2]:
        resized = max(round(side * ratio), SHORT_SIDE)
        first = (resized - SHORT_SIDE) // 2
        weights.append(augment.resize_axis_weights(side, resized)[first : first + SHORT_SIDE])
    return np.einsum("yh,hwc,xw->yxc", weights[0], image.astype(np.float64), weights[1], optimize=True)


@settings(max_examples=60)
@given(seed=st.integers(0, 99), shape=shapes)
@example(seed=0, shape=(320, 320))  # many values lie halfway between two levels
def test_squares_are_those_of_the_definition(seed: int, shape: tuple[int, int]) -> None:
    image = picture(seed, *shape)
    (square,) = run([image], [(0, 0)], SHORT_SIDE)
    assert np.abs(square - exact_square(image)).max() <= 0.51  # rounded; float32 is 0.003 off at most, measured


@settings(max_examples=60)
@given(seed=st.integers(0, 99), shape=shapes, crop=offsets, flip=st.booleans())
def test_crops_are_treated_as_the_definition_says(
    seed: int, shape: tuple[int, int], crop: tuple[int, int], flip: bool
) -> None:
    rng = np.random.default_rng(seed)
    image, mean = picture(seed, *shape), rng.uniform(0, 255, (CROP, CROP, 3)).astype(np.float32)
    shift, divisor = rng.normal(0, 20, (1, 3)).astype(np.float32), rng.uniform(0.5, 60, 3).astype(np.float32)
    ones = np.ones(3, np.float32)
    (levels,) = run([image], [crop], CROP, mean=0 * mean, divisor=ones, mirror=np.array([flip]))
    wanted = augment.crop_and_flip(augment.centre_square(image), *crop, flip)
    assert np.abs(levels - wanted).max() <= 1
    (treated,) = run([image], [crop], CROP, mean=mean, divisor=divisor, mirror=np.array([flip]), shift=shift)
    exact = augment.normalise(levels.astype(np.uint8), mean, shift[0], divisor)
    np.testing.assert_allclose(treated, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_squares_are_copied_as_they_are(flip: bool) -> None:
    image = picture(3, SHORT_SIDE, SHORT_SIDE)
    for crop in [(0, 0), (5, 32), (32, 1)]:
        wanted = augment.crop_and_flip(image, *crop, flip)
        mirror, zero = np.array([flip]), np.zeros(3, np.float32)
        assert np.array_equal(run([image], [crop], CROP, mean=zero, mirror=mirror)[0], wanted)
        region = region_of_square(np.array([crop]), CROP)._asdict()
        with Resampler(CROP, 1, zero) as resampler:
            assert np.array_equal(resampler.start([image], region | {"mirror": mirror})()[0], wanted)


def test_pillow_agrees_away_from_the_border() -> None:
    image = picture(0, 400, 300)
    (ours,) = run([image], [(0, 0)], SHORT_SIDE)  # rows: 341 after resizing, 42 of them above the square
    inner = (slice(2, -2),) * 2
    shifted = image.shape[0] / 341 * 42
    box = (0, shifted, 300, shifted + SHORT_SIDE * 400 / 341)
    theirs = Image.fromarray(image).resize((SHORT_SIDE, SHORT_SIDE), Image.Resampling.BILINEAR, box=box)
    assert np.abs(ours[inner].astype(int) - np.asarray(theirs)[inner]).max() <= 1


def test_it_does_what_the_graph_for_gpus_does() -> None:
    """DALI decodes, resamples, mirrors, lights and subtracts; we take its decoded rectangles as far."""
    rng, count = np.random.default_rng(1), 12
    images = [picture(i, *rng.integers(200, 700, 2)) for i in range(count)]
    crops = [tuple(c) for c in rng.integers(0, 33, (count, 2)).tolist()]
    mean, divisor = rng.uniform(0, 255, (CROP, CROP, 3)).astype(np.float32), np.full(3, 1.1, np.float32)
    mirror, shift = rng.integers(0, 2, count).astype(np.int32), rng.normal(0, 9, (count, 3)).astype(np.float32)
    encoded = [np.frombuffer(encode(image, "PNG"), np.uint8) for image in images]
    feed = {"encoded": encoded} | regions(images, crops, CROP, mirror=mirror, shift=shift)[1]
    pipeline = new_pipeline(count, 2, None, prefetch=1)
    with pipeline:
        train_graph(
            pipeline,
            lambda: tuple(feed[n] for n in TRAIN_INPUTS),
            decode="exact",
            mean=mean,
            divisor=divisor,
            half=False,
        )
    theirs = np.array(pipeline.run()[0].as_tensor())
    ours = run(images, crops, CROP, mean=mean, divisor=divisor, mirror=mirror, shift=shift)
    off = np.abs(ours - theirs) * 1.1
    assert off.max() <= 1 + 1e-3
    assert (off > 0.5).mean() < 1e-3


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_change_nothing(threads: int) -> None:
    images, crops = [picture(i, 300 + i, 280) for i in range(5)], [(i, 2 * i) for i in range(5)]
    one = run(images, crops, CROP, threads=1, mean=np.full(3, 7, np.float32))
    assert np.array_equal(one, run(images, crops, CROP, threads=threads, mean=np.full(3, 7, np.float32)))


def test_an_empty_batch_stays_empty() -> None:
    with Resampler(SHORT_SIDE, 2) as resampler:
        none = source_region(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64), SHORT_SIDE)._asdict()
        assert resampler.start([], none)().shape == (0, SHORT_SIDE, SHORT_SIDE, 3)


def test_memory_is_used_again_once_nobody_looks_at_it() -> None:
    image, other = picture(0, 256, 256), picture(1, 256, 256)
    with Resampler(SHORT_SIDE, 1) as resampler:

        def square(of: Pixels) -> NDArray[Any]:
            return resampler.start(*regions([of], [(0, 0)], SHORT_SIDE))()

        first = square(image)
        address, corner = first.ctypes.data, first[0, :2, :2]
        del first
        gc.collect()
        kept = square(other)  # a view of the first batch is still held
        assert kept.ctypes.data != address
        assert np.array_equal(corner, image[:2, :2])
        del corner
        gc.collect()
        assert square(image).ctypes.data == address


def test_its_threads_end_with_it() -> None:
    before = set(threading.enumerate())
    run([picture(0, 300, 300)], [(0, 0)], CROP)
    assert set(threading.enumerate()) <= before


def test_a_missing_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(resample, "__file__", str(tmp_path / "resample.py"))
    resample._library.cache_clear()
    with pytest.raises(NotBuilt, match=r"was not compiled.*Install gcc"):
        Resampler(CROP, 1)
    resample._library.cache_clear()
