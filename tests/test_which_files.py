"""Which files in a folder are the data set: nothing twice, nothing left out silently, nothing stale."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import planting
import pytest
from archives import make_tar

from alexnet.pipeline.dataset import layouts
from alexnet.pipeline.dataset.images import Dataset, Listing
from alexnet.pipeline.dataset.index import save_index
from alexnet.pipeline.dataset.open import open_dataset, open_splits
from alexnet.pipeline.dataset.shards import shard_stamp
from alexnet.pipeline.errors import DatasetError, NoSplit

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="alexnet")
    return caplog


def plant(root: Path, *names: str, **files: bytes) -> Path:
    """Plant files that hold their own names, and others."""
    return planting.plant(root, {name: name.encode() for name in names} | files)


def tar(*names: str, **files: bytes) -> bytes:
    """Make an archive of members that hold their own names, and others."""
    return make_tar({name: name.encode() for name in names} | files)


def shard(*keys: str) -> bytes:
    return tar(**{name: content for key in keys for name, content in ((f"{key}.jpg", b"x"), (f"{key}.cls", b"0"))})


def shards(root: Path, *names: str) -> Path:
    """Plant shards of one image each, named after its shard."""
    return plant(root, **{f"{name}.tar": shard(name.rpartition("/")[2]) for name in names})


def images(dataset: Dataset) -> list[str]:
    """Return names without containers, folders and extensions."""
    return sorted(dataset.names[i].rpartition("/")[2].partition(".")[0] for i in range(len(dataset)))


# -- shards belong to one split -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "train", "val"),
    [
        (["x-train-0", "x-validation-0"], ["x-train-0"], ["x-validation-0"]),
        (
            ["imagenet1k-train-00", "imagenet1k-validation-00", "imagenet1k-validation-63"],
            ["imagenet1k-train-00"],
            ["imagenet1k-validation-00", "imagenet1k-validation-63"],
        ),
        (["x-train-0", "x-valid-0", "x-valid-1"], ["x-train-0"], ["x-valid-0", "x-valid-1"]),
        (["x-train-0", "x-val-0", "x-test-0", "x-valid-0"], ["x-train-0"], ["x-val-0"]),
        (["x-train-0", "x-test-0"], ["x-train-0"], ["x-test-0"]),
        (["carnival-train-0", "VAL_0"], ["carnival-train-0"], ["VAL_0"]),
        (["x-train-0", "x-trainval-0", "latest-0", "x-val-0"], ["x-train-0"], ["x-val-0"]),
        (["test-of-train-0", "part-of-train-val-0"], ["test-of-train-0"], ["part-of-train-val-0"]),
        (["train/a", "val/x-train-9"], ["a"], ["x-train-9"]),
        (["Train/a", "VAL/b"], ["a"], ["b"]),
    ],
)
def test_each_shard_is_of_one_split(tmp_path: Path, names: list[str], train: list[str], val: list[str]) -> None:
    shards(tmp_path, *names)
    assert images(open_dataset(tmp_path, "train")) == train
    assert images(open_dataset(tmp_path, "val")) == val


@pytest.mark.parametrize("name", ["carnival-train-0", "latest-train-0", "x-trainval-0", "._x-val-0"])
def test_a_shard_of_no_validation(tmp_path: Path, name: str) -> None:
    with pytest.raises(NoSplit, match="No val images"):
        open_dataset(shards(tmp_path, name, "x-train-0"), "val")


def test_shards_with_words_of_both_splits_are_mentioned(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    open_dataset(shards(tmp_path, "test-of-train-0", "test-of-train-1", "x-val-0"), "train")
    assert "2 archives have words of both splits in their names, test-of-train-0.tar among them; the" in said.text


# -- samples and images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "image"),
    [
        (["s0.jpg"], "s0.jpg"),
        (["s0.input.jpg"], "s0.input.jpg"),
        (["d.v2/s0.v1.JPEG"], "d.v2/s0.v1.JPEG"),
        (["s0.jfif"], "s0.jfif"),
        (["s0.seg.png", "s0.jpg"], "s0.jpg"),
        (["s0.bmp", "s0.png", "s0.jpeg"], "s0.jpeg"),
        (["s0.npy", "s0.png"], "s0.png"),
        (["README", "._s0.jpg", "__MACOSX/._s0.jpg", "s0.txt", "s0.jpg"], "s0.jpg"),
    ],
)
def test_the_image_of_a_sample(tmp_path: Path, names: list[str], image: str) -> None:
    key = image.partition("s0")[0] + "s0"
    dataset = open_dataset(plant(tmp_path, **{"train/0.tar": tar(*names, **{f"{key}.cls": b"0"})}), "train")
    assert [dataset.names[i] for i in range(len(dataset))] == [image]
    assert dataset.read(0).tobytes() == image.encode()


def test_a_sample_of_several_images_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, **{"train/0.tar": tar("s0.input.jpg", "s0.output.jpg", **{"s0.cls": b"0"})})
    with pytest.raises(DatasetError, match=r"The sample s0 in .*0.tar has several images: input.jpg, output.jpg\."):
        open_dataset(tmp_path, "train")


def test_what_is_left_out_is_said_once(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    names = "a/img.3.v2.jpg a/b.jfif a/b.tif a/c.tiff a/d.gif b/e.jpe b/f.GIF b/b_boxes.txt stray.jpg .DS_Store".split()
    plant(tmp_path / "train", *names)
    assert images(open_dataset(tmp_path, "train")) == ["b", "e", "img"]
    (line,) = said.messages
    kinds = "2 .gif, 1 outside of class folders, 1 .tif, 1 .tiff"
    assert line.startswith(f"train split of {tmp_path}: Left out 5 files: {kinds}. Images are")


def test_samples_without_images_are_left_out_with_a_word(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, **{"train/0.tar": tar(**{"a.gif": b"", "a.cls": b"0", "b.jpg": b"x", "b.cls": b"0"})})
    assert images(open_dataset(tmp_path, "train")) == ["b"]
    assert "Left out 2 files: 1 .gif, 1 .cls." in said.text


@pytest.mark.parametrize("name", ["train/a/x.gif", "train/0.tar"])
def test_nothing_but_other_formats(tmp_path: Path, name: str) -> None:
    plant(tmp_path, **{name: tar("a.gif")})
    with pytest.raises(DatasetError, match=r"[nN]o images.*Left out 1 file: 1 .gif. Images are .jpg .jpeg"):
        open_dataset(tmp_path, "train")


# -- archives beside folders --------------------------------------------------------------------------------

CLASS_TARS = tar(**{"n01.tar": tar("in-the-archive.JPEG"), "._n01.tar": b"", "__MACOSX/._n01.tar": b""})


@pytest.mark.parametrize("place", ["", "train/", "train/a/"])
@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "x-train-0.tar"])
def test_folders_with_images_win_over_a_tar(
    tmp_path: Path, place: str, name: str, said: pytest.LogCaptureFixture
) -> None:
    plant(tmp_path, "train/a/0.JPEG", "train/b/1.JPEG", **{f"{place}{name}": CLASS_TARS})
    assert images(open_dataset(tmp_path, "train")) == ["0", "1"]
    (line,) = said.messages
    assert line == f"Reading the images in {tmp_path}/train; ignoring {tmp_path}/{place}{name}." or (
        place == "train/a/" and "Left out 1 file: 1 .tar." in line
    )


@pytest.mark.parametrize("place", ["", "val/"])
@pytest.mark.parametrize("extracted", [True, False])
def test_the_validation_archive_inside_or_beside_its_folder(
    tmp_path: Path, place: str, extracted: bool, said: pytest.LogCaptureFixture
) -> None:
    plant(
        tmp_path,
        **{
            f"{place}ILSVRC2012_img_val.tar": tar("v1.JPEG", "._v1.JPEG", "__MACOSX/v1.JPEG", "read.me"),
            "ILSVRC2012_validation_ground_truth.txt": b"n01\n",
        },
    )
    if extracted:
        plant(tmp_path, "val/v1.JPEG")
    dataset = open_dataset(tmp_path, "val")
    assert images(dataset) == ["v1"]
    assert ((dataset.container < 0).all(), len(said.messages)) == (extracted, 1)
    assert ("ignoring" if extracted else "Left out 1 file: 1 .me") in said.text


def test_a_folder_called_like_a_shard(tmp_path: Path) -> None:
    """Some unpack each archive into a folder of its name."""
    plant(shards(tmp_path, "x-train-0"), "x-train-1.tar/0.jpg")
    assert images(open_dataset(tmp_path, "train")) == ["x-train-0"]


def test_the_usual_name_of_a_folder_wins(tmp_path: Path) -> None:
    plant(tmp_path, "VAL/a/large.JPEG", "val/a/small.JPEG", "validation/a/long.JPEG")
    assert images(open_dataset(tmp_path, "val")) == ["small"]


@pytest.mark.parametrize("folders", [["train/a"], ["train/a/b"], ["train"]])
def test_empty_folders_do_not_win(tmp_path: Path, folders: list[str]) -> None:
    plant(tmp_path, **{"ILSVRC2012_img_train.tar": CLASS_TARS})
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert images(open_dataset(tmp_path, "train")) == ["in-the-archive"]


def test_what_macos_adds_is_no_class_and_no_image(tmp_path: Path) -> None:
    plant(tmp_path, "train/a/0.JPEG", "train/a/._0.JPEG", "train/__MACOSX/a/._0.JPEG", "train/a/__MACOSX/0.JPEG")
    dataset = open_dataset(tmp_path, "train")
    assert (images(dataset), dataset.classes) == (["0"], ("a",))


# -- one split alone ----------------------------------------------------------------------------------------


def test_only_a_training_set(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    plant(tmp_path, "train/a/0.JPEG")
    (found,) = open_splits(tmp_path, ())
    assert found.split == "train"
    assert f"Only the train split is there. No val images in {tmp_path}." in said.text
    hint = r"Set some aside with --val-fraction 0\.1, or move a few images of each class from train/<class>/ to val/"
    for splits in (["val"], ["train", "val"]):
        with pytest.raises(NoSplit, match=hint):
            open_splits(tmp_path, splits)  # type: ignore[arg-type]
    (tmp_path / "val").mkdir()
    with pytest.raises(NoSplit, match=hint):
        open_dataset(tmp_path, "val")
    with pytest.raises(NoSplit, match="move a few of the train archives into a folder val/"):
        open_dataset(shards(tmp_path / "packed", "x-train-0", "x-train-1"), "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoSplit, match="No train images"):
        open_splits(tmp_path / "empty", ())


# -- the list that is kept ----------------------------------------------------------------------------------


def age(root: Path) -> None:
    """As if all this had been there for a while: the clock that stamps folders ticks a few hundred times a second."""
    for folder in (root, *root.rglob("*")):
        if folder.is_dir():
            os.utime(folder, ns=(10**18, 10**18))


@pytest.mark.parametrize("place", ["a", "a/deep", "a/deep/er/still", "c"])
def test_a_new_file_is_noticed_at_any_depth(tmp_path: Path, place: str, caching: None) -> None:
    name = f"train/{place}/1.JPEG"
    age(plant(tmp_path, "train/a/0.JPEG", "train/a/deep/0.JPEG", "train/a/deep/er/still/0.JPEG", "train/b/0.JPEG"))
    assert len(open_dataset(tmp_path, "train")) == 4
    plant(tmp_path, name)
    assert len(open_dataset(tmp_path, "train")) == 5
    (tmp_path / name).unlink()
    if place == "c":
        (tmp_path / "train/c").rmdir()
    assert len(open_dataset(tmp_path, "train")) == 4


def test_a_folder_that_became_older_is_noticed(tmp_path: Path, caching: None) -> None:
    """As where a backup is put back, or another folder is moved into its place."""
    plant(tmp_path, "train/a/0.JPEG")
    assert len(open_dataset(tmp_path, "train")) == 1
    age(plant(tmp_path, "train/a/1.JPEG"))
    assert len(open_dataset(tmp_path, "train")) == 2


def test_opening_a_kept_list_looks_at_folders_only(
    tmp_path: Path, caching: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, *(f"train/{c}/x/{i}.JPEG" for c in "ab" for i in range(50)))
    expected = open_dataset(tmp_path, "train")
    looked, stat = list[str](), os.stat

    def counted(path: Path | str, **how: Any) -> os.stat_result:
        looked.append(str(path))
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", counted)
    monkeypatch.setattr(layouts, "_list_folders", lambda *_: pytest.fail("listed anew"))
    assert open_dataset(tmp_path, "train").fingerprint == expected.fingerprint
    assert [path for path in looked if "/x" in path] == [f"{tmp_path}/train/a/x", f"{tmp_path}/train/b/x"]


def test_a_file_replaced_in_place_is_read_after_a_rescan(tmp_path: Path, caching: None) -> None:
    plant(tmp_path, "train/a/0.JPEG", "train/a/1.JPEG")
    before = open_dataset(tmp_path, "train")
    (tmp_path / "train/a/1.JPEG").write_bytes(b"repaired")
    for dataset in (before, open_dataset(tmp_path, "train")):
        with pytest.raises(DatasetError, match=r"has 8 bytes where 14 were listed: .* start again with --rescan"):
            dataset.read(1)
    for rescan in (True, False):  # and it is kept
        assert open_dataset(tmp_path, "train", rescan=rescan).read(1).tobytes() == b"repaired"


def test_a_shard_replaced_in_place_is_read_after_a_rescan(tmp_path: Path) -> None:
    """A pack's own index fits shards of its names and sizes."""
    path = shards(tmp_path, "train-000000") / "train-000000.tar"
    listing = Listing()
    listing.add("train-000000.jpg", 0, 1, container=0, offset=99_999)
    save_index(tmp_path / "train.index", shard_stamp([path]), listing.dataset(tmp_path, "train", "a", [path]))
    with pytest.raises(DatasetError, match=r"has 0 bytes where 1 were listed: .* --rescan"):
        open_dataset(tmp_path, "train").read(0)
    for rescan in (True, False):
        assert open_dataset(tmp_path, "train", rescan=rescan).read(0).tobytes() == b"x"
