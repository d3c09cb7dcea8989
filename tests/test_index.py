"""The list of a large data set is kept: read back equal, made anew when files change, replaced when damaged."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planting import TREE, Tree, listed, plant

from alexnet.pipeline.dataset import index as index_module
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset

pytestmark = pytest.mark.usefixtures("own_cache")


def count_listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that a data set is really listed and saved."""
    listings: list[str] = []
    save = index_module.save_index

    def counted(path: Path, stamp: str, dataset: Dataset, folders: dict[str, int] | None = None) -> None:
        listings.append(stamp)
        save(path, stamp, dataset, folders)

    monkeypatch.setattr(index_module, "save_index", counted)
    return listings


def test_the_index_is_read_back_equal(tmp_path: Path, caching: None, monkeypatch: pytest.MonkeyPatch) -> None:
    listings = count_listings(monkeypatch)
    first, second = open_dataset(plant(tmp_path, TREE), "train"), open_dataset(tmp_path, "train")
    assert len(listings) == 1
    assert listed(first) == listed(second)
    assert first.fingerprint == second.fingerprint
    assert replace(second).fingerprint == first.fingerprint  # worked out from the arrays read back
    assert (first.classes, first.root, first.split) == (second.classes, second.root, second.split)
    assert listed(open_dataset(tmp_path, "val")).keys() == {"val/a/v.JPEG", "val/b/w.JPEG"}
    assert len(listings) == 2


def test_small_data_sets_leave_no_index(tmp_path: Path, own_cache: Path) -> None:
    open_dataset(plant(tmp_path, TREE), "train")
    assert list(own_cache.rglob("*")) == []


@pytest.mark.parametrize(
    "change",
    [{"train/b/new.JPEG": b"added"}, {"train/c/z.JPEG": b"another class"}, {"train/a/images/deep.JPEG": b"deeper"}],
)
def test_the_index_is_made_anew_when_files_come_or_go(tmp_path: Path, caching: None, change: Tree) -> None:
    plant(tmp_path, {**TREE, "train/a/images/first.JPEG": b"first"})
    before = listed(open_dataset(tmp_path, "train"))
    after = listed(open_dataset(plant(tmp_path, change), "train"))
    assert after.keys() - before.keys() == change.keys()
    for name in change:
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "train/c", ignore_errors=True)
    assert listed(open_dataset(tmp_path, "train")) == before


def test_cached_validation_labels_follow_a_new_training_class(tmp_path: Path, caching: None) -> None:
    assert open_dataset(plant(tmp_path, TREE), "val").labels.tolist() == [0, 1]
    dataset = open_dataset(plant(tmp_path, {"train/0first/y.JPEG": b"y"}), "val")
    assert dataset.classes == ("0first", "a", "b")
    assert dataset.labels.tolist() == [1, 2]


def test_cached_validation_labels_follow_a_corrected_label_file(tmp_path: Path, caching: None) -> None:
    tree = {k: v for k, v in TREE.items() if not k.startswith("val/")}
    plant(tmp_path, {**tree, "val/v.JPEG": b"v", "val/val_annotations.txt": b"v.JPEG\ta\n"})
    assert open_dataset(tmp_path, "val").labels.tolist() == [0]
    (tmp_path / "val/val_annotations.txt").write_bytes(b"v.JPEG\tb\n# corrected\n")
    assert open_dataset(tmp_path, "val").labels.tolist() == [1]


def test_a_damaged_index_is_named_and_replaced(
    tmp_path: Path, own_cache: Path, caching: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = listed(open_dataset(plant(tmp_path, TREE), "train"))
    (index,) = own_cache.rglob("*.index")
    intact = index.read_bytes()
    rng = np.random.default_rng(0)
    listings = count_listings(monkeypatch)
    for trial in range(150):
        damaged = bytearray(intact[: rng.integers(len(intact))]) if trial % 3 == 0 else bytearray(intact)
        for _ in range(rng.integers(1, 4) if trial % 3 else 0):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        index.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert listed(open_dataset(tmp_path, "train")) == expected, trial
        if trial % 3 == 0:
            assert str(index) in caplog.text
            assert "damaged" in caplog.text
            assert index.read_bytes() == intact
    assert len(listings) >= 50


@pytest.mark.parametrize(("written", "instead"), [(b"<i4", b"<f4"), (b"<i8", b"<u8"), (b'["a", "b"]', b'["b", "a"]')])
def test_an_index_that_still_reads_but_says_something_else(
    tmp_path: Path, own_cache: Path, caching: None, caplog: pytest.LogCaptureFixture, written: bytes, instead: bytes
) -> None:
    expected = listed(open_dataset(plant(tmp_path, TREE), "train"))
    (index,) = own_cache.rglob("*.index")
    assert written in index.read_bytes()
    index.write_bytes(index.read_bytes().replace(written, instead))
    with caplog.at_level(logging.WARNING):
        assert listed(open_dataset(tmp_path, "train")) == expected
    assert "checksum is wrong" in caplog.text


@pytest.mark.parametrize(
    ("impossible", "key"),
    [
        ({"labels": 2}, "labels"),
        ({"lengths": -1}, "lengths"),
        ({"lengths": 2**40}, "lengths"),
        ({"offsets": -1}, "offsets"),
        ({"stored": "raw"}, "lengths"),
    ],
)
def test_an_index_with_impossible_values_is_not_believed(
    tmp_path: Path, impossible: dict[str, Any], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checksum is right: somebody has made it so."""
    dataset = open_dataset(plant(tmp_path / "data", TREE), "train")
    changes = {
        name: value if name == "stored" else np.full_like(getattr(dataset, name), value)
        for name, value in impossible.items()
    }
    index_module.save_index(tmp_path / "index", "stamp", replace(dataset, **changes))
    assert index_module.load_index(tmp_path / "index", "stamp", "train") is None
    assert f"is damaged (impossible {key})" in caplog.text


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, caching: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "file"))
    plant(tmp_path / "data", TREE)
    assert len(open_dataset(tmp_path / "data", "train")) == 3
    assert f"The cache folder {tmp_path / 'file'} cannot be written, so nothing is kept" in caplog.text
