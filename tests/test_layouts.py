"""Every layout is listed with the right bytes and labels, or refused with a message that says what to do.

Archives are built here by Python's `tarfile`, the devkit's meta.mat by scipy; nothing of ours writes what it reads.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from archives import (
    EXPECTED_TRAIN,
    EXPECTED_VAL,
    TRAIN,
    VAL,
    VAL_CLASSES,
    WNIDS,
    Files,
    listed,
    make_tar,
    plant,
    plant_devkit,
    shard,
    train_tar,
    tree_of,
)

from alexnet.pipeline.dataset import open as dataset_module
from alexnet.pipeline.dataset.labels import class_words
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import DatasetError

pytestmark = pytest.mark.usefixtures("own_cache")


# -- folders -----------------------------------------------------------------------------------------------


def test_images_folders_inside_class_folders(tmp_path: Path) -> None:
    nested = {f"train/{n.replace('/', '/images/')}": content for n, content in TRAIN.items()}
    dataset = open_dataset(plant(tmp_path, {**nested, "train/n01/n01_boxes.txt": b"0 0 1 1"}), "train")
    assert dataset.classes == tuple(sorted(WNIDS))
    assert listed(dataset) == EXPECTED_TRAIN


@pytest.mark.parametrize("images", ["val", "val/images"])
def test_flat_validation_with_annotations(tmp_path: Path, images: str) -> None:
    plant(tmp_path, VAL, images)
    plant(tmp_path, TRAIN, "train")
    rows = "".join(f"{n}\t{c}\t0\t0\t62\t62\n" for n, c in VAL_CLASSES.items())
    (tmp_path / "val/val_annotations.txt").write_text(rows)
    dataset = open_dataset(tmp_path, "val")
    assert dataset.classes == tuple(sorted(WNIDS))
    assert listed(dataset) == EXPECTED_VAL


@pytest.mark.parametrize("folder", ["val", "validation", "valid"])
def test_other_names_of_the_validation_folder(tmp_path: Path, folder: str) -> None:
    plant(plant(tmp_path, TRAIN, "train"), TRAIN, folder)
    assert listed(open_dataset(tmp_path, "val")) == EXPECTED_TRAIN


@pytest.mark.parametrize("form", ["folder", "files", "archive"])
@pytest.mark.parametrize("with_train", [True, False])
def test_flat_validation_with_the_devkit(tmp_path: Path, form: str, with_train: bool) -> None:
    plant(tmp_path, VAL, "val")
    plant_devkit(tmp_path, form)
    if with_train:
        plant(tmp_path, TRAIN, "train")
    before = tree_of(tmp_path)
    dataset = open_dataset(tmp_path, "val")
    assert dataset.classes == tuple(sorted(WNIDS))
    assert dataset.labels.tolist() == [0, 1, 2, 2]  # numbers 2, 3, 1, 1 are n01, n02, n03, n03
    assert listed(dataset) == EXPECTED_VAL
    assert tree_of(tmp_path) == before


@pytest.mark.parametrize("cached", [True, False])
def test_kaggle(tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "CACHE_FROM_IMAGES", 1 if cached else 10**9)
    plant(tmp_path, TRAIN, "ILSVRC/Data/CLS-LOC/train")
    plant(tmp_path, VAL, "ILSVRC/Data/CLS-LOC/val")
    plant(tmp_path, {"x.JPEG": b"unlabelled"}, "ILSVRC/Data/CLS-LOC/test")
    rows = "".join(f"{n.removesuffix('.JPEG')},{c} 1 2 3 4 {c} 5 6 7 8 \n" for n, c in reversed(VAL_CLASSES.items()))
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows)
    for place in (tmp_path, tmp_path / "ILSVRC/Data/CLS-LOC"):
        for _ in range(2):
            assert listed(open_dataset(place, "val")) == EXPECTED_VAL
            assert listed(open_dataset(place, "train")) == EXPECTED_TRAIN


# -- the original archives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_original_archives_are_read_in_place(tmp_path: Path, form: int) -> None:
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(train_tar(form))
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(make_tar(dict(reversed(VAL.items())), form=form))
    plant_devkit(tmp_path, "archive")
    before = tree_of(tmp_path)
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert train.classes == val.classes == tuple(sorted(WNIDS))
    assert listed(train) == EXPECTED_TRAIN
    assert listed(val) == EXPECTED_VAL
    assert tree_of(tmp_path) == before
    assert train.name(0) == "ILSVRC2012_img_train.tar:n01/n01_7.JPEG"


def test_the_fingerprint_does_not_depend_on_the_kind_of_tar(tmp_path: Path) -> None:
    plant(tmp_path / "a", {"ILSVRC2012_img_train.tar": train_tar()})
    plant(tmp_path / "b", {"ILSVRC2012_img_train.tar": train_tar(tarfile.PAX_FORMAT)})
    assert open_dataset(tmp_path / "a", "train").fingerprint == open_dataset(tmp_path / "b", "train").fingerprint


def test_member_names_are_never_paths(tmp_path: Path) -> None:
    (tmp_path / "secret.JPEG").write_bytes(b"secret")
    names = [
        "../../secret.JPEG",
        str(tmp_path / "secret.JPEG"),
        "x" * 300 + ".JPEG",
        os.fsdecode(b"\xff\xfe.JPEG"),
        "ü.JPEG",
    ]
    files = {name: f"harmless {i}".encode() for i, name in enumerate(names)}
    plant(tmp_path / "data", {"ILSVRC2012_img_train.tar": make_tar({"n01.tar": make_tar(files)})})
    dataset = open_dataset(tmp_path / "data", "train")
    assert [dataset.read(i).tobytes() for i in range(len(dataset))] == list(files.values())
    assert [dataset.name(i).removeprefix("ILSVRC2012_img_train.tar:n01/") for i in range(len(dataset))] == names
    assert len(dataset.fingerprint) == 32
    assert {p.name for p in (tmp_path / "data").iterdir()} == {"ILSVRC2012_img_train.tar"}


def test_links_and_folders_in_archives_are_no_images(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as tar:
        for kind, name in ((tarfile.SYMTYPE, "a.JPEG"), (tarfile.LNKTYPE, "b.JPEG"), (tarfile.DIRTYPE, "c.JPEG")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        tar.addfile(member := tarfile.TarInfo("d.JPEG"), io.BytesIO(b""))
    plant(tmp_path, {"ILSVRC2012_img_train.tar": make_tar({"n01.tar": stream.getvalue()})})
    dataset = open_dataset(tmp_path, "train")
    assert [dataset.name(i)[-6:] for i in range(len(dataset))] == ["d.JPEG"]


# -- WebDataset shards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cls", "cls first", "json"])
@pytest.mark.parametrize("place", ["train/{:04d}.tar", "imagenet-train-{:06d}.tar"])
def test_webdataset_shards(tmp_path: Path, form: str, place: str) -> None:
    plant(tmp_path, {place.format(n): make_tar(shard(3 * n, 3, form)) for n in (1, 0, 2)})
    before = tree_of(tmp_path)
    dataset = open_dataset(tmp_path, "train")
    assert dataset.labels.tolist() == [(i * 7) % 5 for i in range(9)]
    assert [dataset.read(i).tobytes() for i in range(9)] == [f"<some/dir.v2/{i:06d}>".encode() for i in range(9)]
    assert dataset.classes == ("0", "1", "2", "3", "4")
    assert tree_of(tmp_path) == before


def test_shards_take_class_names_from_a_file(tmp_path: Path) -> None:
    tar = make_tar(shard(0, 3, "cls"))
    plant(tmp_path, {"train/0.tar": tar, "val/0.tar": tar, "classes.txt": b"ant\nbee\ncat\ndog\nelk\n"})
    for split in ("train", "val"):
        assert [c for c, _ in listed(open_dataset(tmp_path, split)).values()] == ["ant", "cat", "elk"]
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(DatasetError, match="has label 4, but there are 2 classes"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": b"x"}, "The sample a in .* has no label, only jpg. Each sample needs <key>.cls with a number"),
        ({"a.jpg": b"x", "a.cls": b"dog"}, "has no label in its cls .*'dog'"),
        ({"a.jpg": b"x", "a.cls": b""}, "has no label"),
        ({"a.jpg": b"x", "a.json": b"[]"}, "has no label"),
        ({"a.jpg": b"x", "a.json": b"{"}, "has no label"),
        ({"a.jpg": b"x", "b.cls": b"1"}, "has no label"),
        ({"a.jpg": b"x", "a.cls": b"-1"}, "has label -1"),
        ({"a.cls": b"1"}, "No images"),
    ],
)
def test_shards_without_proper_labels(tmp_path: Path, files: Files, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(plant(tmp_path, {"train/0.tar": make_tar(files)}), "train")


@pytest.mark.parametrize(
    ("name", "line"),
    [("words.txt", "{}\tgreat white shark, man-eater"), ("LOC_synset_mapping.txt", "{} great white shark, man-eater")],
)
def test_classes_have_words(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / name).write_text("\n".join([line.format("n01484850"), "n01", "", line.format("n99")]))
    assert class_words(tmp_path, ["n01", "n01484850"]) == {"n01484850": "great white shark, man-eater"}
    assert class_words(tmp_path / "ILSVRC" / "Data", ["n99"]) == {"n99": "great white shark, man-eater"}
    assert class_words(tmp_path, ["n2"]) == {}
