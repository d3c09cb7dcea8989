"""Where a split is, when that is not obvious: what is passed over, and what the user is told to do."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

import planting
import pytest
from archives import make_tar

from alexnet.pipeline.dataset.open import open_dataset, open_splits
from alexnet.pipeline.errors import DatasetError, NoSplit


def plant(root: Path, *names: str) -> Path:
    """Plant files that hold their own names, and archives of one sample with a label."""
    sample = make_tar({"in-the-archive.jpg": b"x", "in-the-archive.cls": b"0"})
    return planting.plant(root, {name: sample if name.endswith(".tar") else name.encode() for name in names})


def refusal(root: Path, split: str) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, split)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "DATA")


def test_images_without_labels_in_test_are_no_validation_split(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/0.JPEG", "test/0.JPEG")
    assert [found.split for found in open_splits(tmp_path, ())] == ["train"]
    with pytest.raises(NoSplit, match=r"The images in .*/test have no labels. Set some aside"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize("archive", ["x-val-0.tar", "x-validation-0.tar"])
def test_an_archive_of_validation_wins_over_a_folder_test(tmp_path: Path, archive: str) -> None:
    dataset = open_dataset(plant(tmp_path, "train/0/0.JPEG", "test/0.JPEG", archive), "val")
    assert [dataset.name(i) for i in range(len(dataset))] == [f"{archive}:in-the-archive.jpg"]


@pytest.mark.parametrize(
    ("files", "remedy"),
    [
        (["train/a/0.JPEG"], "move a few images of each class from train/<class>/ to val/<class>/"),
        (["train/a/0.JPEG", "train/b.tar", "train/c.tar"], "move a few images of each class"),
        (["x-train-0.tar", "x-train-1.tar"], "move a few of the train archives into a folder val/"),
        (["train/0.tar", "train/1.tar"], "move a few of the train archives into a folder val/"),
        (["x-train-0.tar"], "put images of each class into val/<class>/ beside it"),
        (["ILSVRC2012_img_train.tar"], "put images of each class into val/<class>/ beside it"),
        (["imagenet/val/a/0.JPEG"], "Did you mean DATA/imagenet?"),
        (["shards/x-val-0.tar"], "Did you mean DATA/shards?"),
        (["x-val-0.tar.gz", "x.tar.gz", ".lock"], "found: x-val-0.tar.gz (gunzip it), x.tar.gz."),
    ],
)
def test_how_to_get_a_validation_split(tmp_path: Path, files: list[str], remedy: str) -> None:
    assert remedy in refusal(plant(tmp_path, *files), "val")


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to("gone")
    assert "found: val (a link that leads nowhere)." in refusal(tmp_path, "val")
    (tmp_path / "x-val-0.tar").symlink_to("gone")
    assert "DATA/x-val-0.tar is a symbolic link to gone, which cannot be followed" in refusal(tmp_path, "val")


def test_class_archives_that_were_not_unpacked_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")
    open_dataset(plant(tmp_path, "train/n01/0.JPEG", *(f"train/n0{i}.tar" for i in (1, 2, 3))), "train")
    assert "2 of these may be classes not yet unpacked: there is no folder n02, for one." in caplog.text


def test_class_archives_alone_are_to_be_unpacked(tmp_path: Path) -> None:
    with tarfile.open(plant(tmp_path, "train/n01.tar") / "train/n01.tar", "w:") as archive:
        archive.addfile(tarfile.TarInfo("n01_0.JPEG"))
    assert "has no label, only jpeg." in refusal(tmp_path, "train")
    assert "Unpack plain images into class folders" in refusal(tmp_path, "train")
