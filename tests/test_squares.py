"""Central squares and whole images: each once, in order, without the bad ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("nvidia.dali")
from graphs import pillow, reference_square

from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.squares import full_images, squares

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.fixture(scope="module")
def dataset(tiny_tree: Path) -> Dataset:
    return open_dataset(tiny_tree, "train")


def reference(dataset: Dataset, index: int) -> Any:
    return reference_square(dataset.read(index).tobytes())


@pytest.mark.parametrize("batch_size", [1, 5, 12, 50])
def test_squares_come_once_each_in_order(dataset: Dataset, batch_size: int) -> None:
    indices = np.random.default_rng(1).permutation(12)
    parts = list(squares(dataset, indices, batch_size=batch_size, settings=Settings(threads=1)))
    assert [len(p.indices) for p in parts] == [min(batch_size, 12 - s) for s in range(0, 12, batch_size)]
    assert np.concatenate([p.indices for p in parts]).tolist() == indices.tolist()
    for part in parts:
        assert part.bad == []
        assert part.pixels.dtype == torch.uint8
        assert part.pixels.shape == (len(part.indices), 256, 256, 3)
        for pixels, i in zip(part.pixels, part.indices.tolist(), strict=True):
            assert np.abs(pixels.numpy().astype(int) - reference(dataset, i)).max() <= 1


def test_squares_without_the_bad_ones(tiny_tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(tiny_tree, root)
    for name in ("n01/n01_0", "n01/n01_1", "n02/n02_0"):
        (root / f"train/{name}.JPEG").write_bytes(b"\xff\xd8 no")
    damaged = open_dataset(root, "train")
    known: dict[int, str] = {}
    parts = list(squares(damaged, np.arange(12), batch_size=2, settings=Settings(max_bad=0.5), bad=known))
    assert [p.indices.tolist() for p in parts] == [[], [2, 3], [5], [6, 7], [8, 9], [10, 11]]
    assert [[i for i, _ in p.bad] for p in parts] == [[0, 1], [], [4], [], [], []]
    assert parts[0].pixels.shape == (0, 256, 256, 3)
    assert known.keys() == {0, 1, 4}


def test_no_squares(dataset: Dataset) -> None:
    assert list(squares(dataset, np.zeros(0, np.int64), batch_size=4, settings=Settings())) == []


def test_whole_images_are_pillows(dataset: Dataset) -> None:
    parts = list(full_images(dataset, np.arange(12), batch_size=5, settings=Settings(threads=2)))
    assert [len(p.pixels) for p in parts] == [5, 5, 2]
    for part in parts:
        for pixels, i in zip(part.pixels, part.indices.tolist(), strict=True):
            np.testing.assert_array_equal(pixels, pillow(dataset.read(i).tobytes()))
