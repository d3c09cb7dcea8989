"""Data sets that are incomplete or damaged: refused, with a message that says what to do, or never taken for whole."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from archives import (
    TRAIN,
    VAL,
    VAL_NAMES,
    WNIDS,
    ground_truth,
    make_tar,
    meta_mat,
    plant,
    plant_devkit,
    shard,
    train_tar,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.pipeline.dataset.layouts import find_layout
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import DatasetError

pytestmark = pytest.mark.usefixtures("own_cache")


def error_of(root: Path, split: str) -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, split)  # type: ignore[arg-type]
    return str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    message = error_of(tmp_path, "train")
    assert str(tmp_path) in message
    assert "Looked for train/<class>/*.JPEG, ILSVRC2012_img_train.tar or shards such as x-train-0.tar" in message
    assert "an empty folder" in message
    plant(tmp_path, {f"{c}.txt": b"" for c in "abcdefg"})
    assert "found: a.txt, b.txt, c.txt, d.txt, e.txt, ... (7 entries)" in error_of(tmp_path, "val")
    (tmp_path / "train").mkdir()
    assert "Did you mean its parent" in error_of(tmp_path / "train", "train")
    assert "holds no class folders. Each class needs a folder of its own" in error_of(tmp_path, "train")


def test_an_empty_class_folder(tmp_path: Path) -> None:
    plant(tmp_path, {**TRAIN, "n02x/readme.txt": b"no image"}, "train")
    message = error_of(tmp_path, "train")
    assert f"{tmp_path}/train/n02x has no images" in message
    assert ".jpeg" in message


def test_a_validation_class_that_training_does_not_have(tmp_path: Path) -> None:
    plant(plant(tmp_path, TRAIN, "train"), {**TRAIN, "n77/a.JPEG": b"a"}, "val")
    message = error_of(tmp_path, "val")
    assert "has the classes 'n77', which the training split does not have (it has 'n01', 'n02', 'n03')" in message


def test_a_flat_validation_label_that_training_does_not_have(tmp_path: Path) -> None:
    plant(plant(tmp_path, TRAIN, "train"), VAL, "val")
    (tmp_path / "val/val_annotations.txt").write_text("".join(f"{n}\tn77\n" for n in VAL))
    assert "has the classes 'n77', which the training split does not have" in error_of(tmp_path, "val")


def test_missing_labels(tmp_path: Path) -> None:
    plant(plant(tmp_path, TRAIN, "train"), VAL, "val")
    message = error_of(tmp_path, "val")
    assert "have no labels" in message
    assert "val_annotations.txt, LOC_val_solution.csv" in message
    (tmp_path / "val/val_annotations.txt").write_text(f"{VAL_NAMES[0]}\tn01\n")
    message = error_of(tmp_path, "val")
    where = f"{tmp_path}/val/val_annotations.txt, val/{VAL_NAMES[1]}"
    assert f"3 of 4 validation images have no label in {where}" in message


def test_a_solution_without_answers(tmp_path: Path) -> None:
    plant(tmp_path, VAL, "val")
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,\nodd line\n\n")
    assert "4 of 4 validation images have no label" in error_of(tmp_path, "val")


@pytest.mark.parametrize(
    ("truth", "meta", "message"),
    [
        (b"1\n2\n", True, "has 2 lines for 4 validation images"),
        (b"1\n2\n3\n9\n", True, "has numbers that meta.mat does not name, 9 among them"),
        (b"1\n2\n3\n" + b"9" * 5000, True, "has numbers that meta.mat does not name, 9999"),
        (b"1\n2\n3\n\xb2\n", True, "which the training split does not have"),
        (b"1\n2\n3\n1\n", False, "only the devkit's meta.mat names them"),
        (b"n01\nn02\nn77\nn01\n", False, "'n77', which the training split does not have"),
    ],
)
def test_a_devkit_that_does_not_fit(tmp_path: Path, truth: bytes, meta: bool, message: str) -> None:
    plant(plant(tmp_path, TRAIN, "train"), VAL, "val")
    plant(tmp_path, {"ILSVRC2012_validation_ground_truth.txt": truth, **({"meta.mat": meta_mat()} if meta else {})})
    assert message in error_of(tmp_path, "val")


def test_a_solution_that_is_no_table(tmp_path: Path) -> None:
    plant(plant(tmp_path, VAL, "val"), {"LOC_val_solution.csv": b'ImageId,PredictionString\na,"' + b"x" * 200_000})
    assert "LOC_val_solution.csv cannot be read" in error_of(tmp_path, "val")


def test_a_damaged_devkit(tmp_path: Path) -> None:
    plant(tmp_path, VAL, "val")
    plant_devkit(tmp_path, "archive")
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    intact = archive.read_bytes()
    for end in (0, 5, 20, len(intact) // 2, len(intact) * 3 // 4):
        archive.write_bytes(intact[:end])
        assert "ILSVRC2012_devkit_t12.tar.gz" in error_of(tmp_path, "val")
    archive.unlink()
    for end in (0, 50, 200, len(meta_mat()) - 8):
        plant(tmp_path, {"ILSVRC2012_validation_ground_truth.txt": ground_truth(), "meta.mat": meta_mat()[:end]})
        assert "meta.mat" in error_of(tmp_path, "val")


@settings(max_examples=12)
@given(data=st.data())
def test_a_meta_mat_with_wrong_bytes_crashes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """One in forty of them crashes scipy."""
    meta = bytearray(meta_mat())
    for _ in range(data.draw(st.integers(1, 5))):
        meta[data.draw(st.integers(124, len(meta) - 1))] = data.draw(st.sampled_from([0, 1, 127, 255]))
    root = plant(tmp_path_factory.getbasetemp() / "wrong-meta", VAL, "val")
    plant(root, {"ILSVRC2012_validation_ground_truth.txt": ground_truth(), "meta.mat": bytes(meta)})
    try:
        dataset = open_dataset(root, "val")
    except DatasetError as error:
        assert "meta.mat" in str(error)  # noqa: PT017
    else:
        assert {dataset.classes[label] for label in dataset.labels} == set(dataset.classes)


def test_archives_of_other_kinds(tmp_path: Path) -> None:
    tar = tmp_path / "ILSVRC2012_img_train.tar"
    tar.write_bytes(b"")
    assert "cannot be read" in error_of(tmp_path, "train")
    tar.write_bytes(os.urandom(5000))
    assert "truncated or not a plain tar; copy it again" in error_of(tmp_path, "train")
    tar.write_bytes(make_tar(VAL))
    assert "holds no tars of classes" in error_of(tmp_path, "train")
    tar.write_bytes(make_tar({"n01.tar": make_tar({"readme": b""})}))
    assert "The class archive n01.tar" in error_of(tmp_path, "train")


# -- fuzz --------------------------------------------------------------------------------------------------


def needed(tar: bytes) -> int:
    """Bytes up to and with the first block of the end mark."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        last = archive.getmembers()[-1]
        return last.offset_data + -(-last.size // 512) * 512 + 512


def check_cut(root: Path, archive: str, intact: bytes, end: int, expected: list[tuple[int, bytes]]) -> None:
    (root / archive).write_bytes(intact[:end])
    if end < needed(intact):
        assert archive.rpartition("/")[2] in error_of(root, "train")
    else:
        dataset = open_dataset(root, "train")
        assert [(int(dataset.labels[i]), dataset.read(i).tobytes()) for i in range(len(dataset))] == expected


def cuts(tar: bytes) -> st.SearchStrategy[int]:
    blocks = st.integers(0, len(tar) // 512).map(lambda b: b * 512)
    return st.one_of(st.integers(0, needed(tar) + 600), blocks)


@settings(max_examples=150)
@given(data=st.data())
def test_a_truncated_shard_is_never_taken_for_a_whole_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "cut-shard"
    form = data.draw(st.sampled_from(["cls", "cls first", "json"]))
    intact = make_tar(shard(0, 4, form), form=data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])))
    plant(root, {"train/0.tar": intact})
    expected = [((i * 7) % 5, f"<some/dir.v2/{i:06d}>".encode()) for i in range(4)]
    check_cut(root, "train/0.tar", intact, data.draw(cuts(intact)), expected)


@settings(max_examples=100)
@given(end=cuts(train_tar()))
def test_a_truncated_tar_of_tars_is_never_taken_for_a_whole_one(
    tmp_path_factory: pytest.TempPathFactory, end: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "cut-train"
    root.mkdir(exist_ok=True)
    labels = {w: i for i, w in enumerate(sorted(WNIDS))}
    expected = [(labels[name[:3]], content) for name, content in TRAIN.items()]
    check_cut(root, "ILSVRC2012_img_train.tar", train_tar(), end, expected)


def test_an_inner_tar_cut_short_does_not_run_into_the_next(tmp_path: Path) -> None:
    whole = make_tar({"a.JPEG": b"a" * 600, "b.JPEG": b"b"})
    for end in range(0, needed(whole), 256):
        plant(tmp_path, {"ILSVRC2012_img_train.tar": make_tar({"n01.tar": whole[:end], "n02.tar": whole})})
        assert "ILSVRC2012_img_train.tar" in error_of(tmp_path, "train"), end


@settings(max_examples=200)
@given(edits=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_shard_with_wrong_bytes_is_refused_or_listed_within_bounds(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, int]]
) -> None:
    tar = bytearray(make_tar(shard(0, 4, "cls"), form=tarfile.PAX_FORMAT))
    for where, value in edits:
        tar[where] = value
    root = plant(tmp_path_factory.getbasetemp() / "wrong-bytes", {"train/0.tar": bytes(tar)})
    try:
        dataset = open_dataset(root, "train")
    except DatasetError:
        return
    assert 0 < len(dataset) <= 4
    assert all(len(dataset.read(i)) == dataset.lengths[i] for i in range(len(dataset)))


def test_the_stamp_is_cheap_and_follows_the_archive(tmp_path: Path) -> None:
    plant(tmp_path, {"ILSVRC2012_img_train.tar": train_tar()})
    layout = find_layout(tmp_path, "train")
    before = layout.stamp()
    assert before == layout.stamp()
    os.utime(tmp_path / "ILSVRC2012_img_train.tar", ns=(1, 1))
    assert layout.stamp() != before
