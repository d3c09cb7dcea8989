"""The sums are exact: against Python's integers, in any order, split and merged anyhow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet.pca.moments import MAX_PIXELS, RgbMoments

Images = NDArray[np.uint8]


def of_squares(images: Images) -> RgbMoments:
    moments = RgbMoments.zero(images.shape[1])
    moments.update(images)
    return moments


def of_images(images: list[Images]) -> RgbMoments:
    moments = RgbMoments.zero()
    for image in images:
        moments.update_image(image)
    return moments


def plain(images: list[Images]) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Number of pixels, sums, products, in plain int64."""
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.int64)
    return len(pixels), pixels.sum(axis=0), pixels.T @ pixels


def random_images(seed: int, *shape: int) -> Images:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def checkerboard(size: int) -> Images:
    return np.repeat((np.indices((size, size)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


@given(seed=st.integers(0, 2**32), count=st.integers(0, 5), size=st.integers(1, 40))
@settings(max_examples=40)
def test_squares_equal_plain_integers(seed: int, count: int, size: int) -> None:
    images = random_images(seed, count, size, size, 3)
    moments = of_squares(images)
    num_pixels, sums, products = plain(list(images)) if count else (0, np.zeros(3), np.zeros((3, 3)))
    assert (moments.num_images, moments.num_pixels) == (count, num_pixels)
    np.testing.assert_array_equal(moments.sum, sums)
    np.testing.assert_array_equal(moments.products, products)
    np.testing.assert_array_equal(moments.sum_image, images.sum(axis=0, dtype=np.int64))


@given(seed=st.integers(0, 2**32), height=st.integers(1, 300), width=st.integers(1, 500))
@settings(max_examples=20)
def test_whole_images_equal_plain_integers(seed: int, height: int, width: int) -> None:
    images = [random_images(seed, height, width, 3), random_images(seed + 1, width, 7, 3)]
    moments = of_images(images)
    num_pixels, sums, products = plain(images)
    assert moments.num_pixels == num_pixels
    assert moments.sum_image is None
    np.testing.assert_array_equal(moments.sum, sums)
    np.testing.assert_array_equal(moments.products, products)


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_constant_images_are_exact(value: int) -> None:
    """255 everywhere is the greatest sum a block can hold."""
    images = np.full((3, 256, 256, 3), value, np.uint8)
    moments, num_pixels = of_squares(images), 3 * 256 * 256
    assert moments.sum.tolist() == [num_pixels * value] * 3
    assert moments.products.tolist() == [[num_pixels * value * value] * 3] * 3
    np.testing.assert_array_equal(moments.sum_image, np.full((256, 256, 3), 3 * value))


def test_checkerboards_and_pure_colours_are_exact() -> None:
    board, colours = checkerboard(256), np.zeros((3, 256, 256, 3), np.uint8)
    for channel in range(3):
        colours[channel, ..., channel] = 255
    images = np.stack([board, 255 - board, *colours])
    moments = of_squares(images)
    num_pixels, sums, products = plain(list(images))
    assert moments.num_pixels == num_pixels
    np.testing.assert_array_equal(moments.sum, sums)
    np.testing.assert_array_equal(moments.products, products)


def test_batches_beyond_the_16_bit_sum_are_exact() -> None:
    moments = of_squares(np.full((600, 2, 2, 3), 255, np.uint8))
    np.testing.assert_array_equal(moments.sum_image, np.full((2, 2, 3), 600 * 255))
    assert moments.sum.tolist() == [600 * 4 * 255] * 3


@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 12), max_size=6), data=st.data())
@settings(max_examples=30)
def test_any_split_order_and_merge_is_the_same(seed: int, cuts: list[int], data: st.DataObject) -> None:
    images = random_images(seed, 12, 9, 9, 3)
    parts = np.split(images, sorted(cuts))
    shards = [of_squares(part) for part in data.draw(st.permutations(parts))]
    merged = RgbMoments.zero(9)
    for shard in shards:
        merged.merge(shard)
    assert merged == of_squares(images) == of_squares(images[::-1])
    for array, same in ((merged.sum, of_squares(images).sum), (merged.products, of_squares(images).products)):
        assert array.dtype == np.int64
        assert array.tobytes() == same.tobytes()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_sums_on_the_device_are_the_same(device: str) -> None:
    images = np.concatenate([random_images(5, 9, 64, 64, 3), np.full((2, 64, 64, 3), 255, np.uint8)])
    moments = RgbMoments.zero(64)
    moments.update_on_device(torch.from_numpy(images[:4]).to(device))
    moments.update_on_device(torch.from_numpy(images[4:]).to(device))
    assert moments == of_squares(images)
    with pytest.raises(ValueError, match="expected uint8"):
        moments.update_on_device(torch.zeros(1, 64, 64, 3, device=device))


def test_strided_views_count_as_what_they_show() -> None:
    images = random_images(3, 4, 32, 32, 3)
    assert of_squares(images[:, ::2, ::2]) == of_squares(images[:, ::2, ::2].copy())
    assert of_images([images[0, :, ::-1]]) == of_images([images[0]])


def test_fifteen_million_squares_stay_below_the_limit() -> None:
    assert MAX_PIXELS > 15_000_000 * 256 * 256
    assert MAX_PIXELS * 255 * 255 < 2**63
    moments = of_squares(np.full((1, 2, 2, 3), 255, np.uint8))
    for _ in range(43):  # 2**43 images of 4 pixels
        moments.merge(moments)
    assert moments.num_pixels == 2**45
    assert moments.products[0, 0] == 2**45 * 65025
    moments.merge(moments)
    moments.merge(moments)  # 2**47 = 1.407e14 pixels
    with pytest.raises(OverflowError, match="overflow"):
        moments.merge(moments)
    assert int(moments.products[0, 0]) == moments.num_pixels * 65025


def test_unequal_sums_differ() -> None:
    first, second = of_squares(random_images(0, 2, 4, 4, 3)), of_squares(random_images(1, 2, 4, 4, 3))
    assert first != second
    assert first != of_images(list(random_images(0, 2, 4, 4, 3)))
    assert first != "sums"


def test_wrong_input_is_refused_and_changes_nothing() -> None:
    squares, whole = RgbMoments.zero(4), RgbMoments.zero()
    for images in (np.zeros((1, 4, 4, 3)), np.zeros((1, 5, 5, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            squares.update(images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected uint8"):
        whole.update_image(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="use update_image"):
        whole.update(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"use update$"):
        squares.update_image(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="whole images"):
        squares.merge(whole)
    assert squares == RgbMoments.zero(4)
    assert whole == RgbMoments.zero()
