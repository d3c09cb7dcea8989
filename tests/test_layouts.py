"""Every layout is listed with the right bytes and labels, or refused with a message that says what to do.

Archives are built here by Python's `tarfile`, the devkit's meta.mat by scipy; nothing of ours writes what it reads.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.pipeline.dataset import open as dataset_module
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.labels import class_words
from alexnet.pipeline.dataset.layouts import find_layout
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import DatasetError

Files = dict[str, bytes]

WNIDS = ("n03", "n01", "n02")  # ILSVRC2012_ID 1, 2, 3: not in sorted order, as in the real devkit
TRUTH = (2, 3, 1, 1)
VAL_NAMES = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3, 4)]
VAL = {name: f"image {name}".encode() for name in VAL_NAMES}
VAL_CLASSES = dict(zip(VAL_NAMES, (WNIDS[i - 1] for i in TRUTH), strict=True))
TRAIN = {f"{w}/{w}_{i}.JPEG": f"{w} {i}".encode() * (i + 1) for w in sorted(WNIDS) for i in (7, 10, 9)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))


def plant(root: Path, files: Files, below: str = "") -> Path:
    for name, content in files.items():
        (root / below / name).parent.mkdir(parents=True, exist_ok=True)
        (root / below / name).write_bytes(content)
    return root


def make_tar(files: Files, mode: Literal["w:", "w:gz"] = "w:", form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@cache
def meta_mat() -> bytes:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.empty((len(WNIDS) + 1, 1), dtype=fields)
    for i, wnid in enumerate((*WNIDS, "n99")):  # the real file goes on with inner nodes of WordNet
        synsets[i, 0] = (float(i + 1), wnid, f"word {i}", float(i >= len(WNIDS)))
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"synsets": synsets})
    return stream.getvalue()


def ground_truth() -> bytes:
    return "".join(f"{i}\n" for i in TRUTH).encode()


def listed(dataset: Dataset) -> dict[str, tuple[str, bytes]]:
    """Base name -> (class, bytes)."""
    names = [dataset.name(i).rpartition("/")[2].rpartition(":")[2] for i in range(len(dataset))]
    assert len(set(names)) == len(names)
    return {n: (dataset.classes[dataset.labels[i]], dataset.read(i).tobytes()) for i, n in enumerate(names)}


EXPECTED_VAL = {name: (VAL_CLASSES[name], VAL[name]) for name in VAL_NAMES}
EXPECTED_TRAIN = {name.split("/")[1]: (name.split("/")[0], content) for name, content in TRAIN.items()}


def tree_of(root: Path) -> set[tuple[str, int]]:
    return {(str(p), p.stat().st_size) for p in root.rglob("*")}


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


def plant_devkit(root: Path, form: str) -> None:
    devkit = {"data/ILSVRC2012_validation_ground_truth.txt": ground_truth(), "data/meta.mat": meta_mat()}
    named = {f"ILSVRC2012_devkit_t12/{name}": content for name, content in devkit.items()}
    if form == "folder":
        plant(root, named)
    elif form == "files":
        plant(root, {name.rpartition("/")[2]: content for name, content in devkit.items()})
    else:
        (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(
            make_tar({**named, "ILSVRC2012_devkit_t12/readme.txt": b"?"}, "w:gz")
        )


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


def train_tar(form: int = tarfile.GNU_FORMAT) -> bytes:
    inner = {w: {n.split("/")[1]: c for n, c in TRAIN.items() if n.startswith(w)} for w in WNIDS}
    return make_tar({f"{w}.tar": make_tar(files, form=form) for w, files in inner.items()}, form=form)


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


def sample(key: str, label: int, form: str) -> Files:
    image = f"<{key}>".encode()
    if form == "cls":
        return {f"{key}.jpg": image, f"{key}.cls": f"{label}\n".encode()}
    if form == "cls first":
        return {f"{key}.cls": str(label).encode(), f"{key}.JPEG": image, f"{key}.txt": b"a caption"}
    return {f"{key}.json": json.dumps({"label": label, "cls": 99}).encode(), f"{key}.png": image}


def shard(first: int, count: int, form: str) -> Files:
    keys = [f"some/dir.v2/{i:06d}" for i in range(first, first + count)]
    return {name: c for i, key in enumerate(keys, first) for name, c in sample(key, (i * 7) % 5, form).items()}


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


# -- errors ------------------------------------------------------------------------------------------------


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


@settings(max_examples=12, deadline=None)
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
    assert "holds no tar a class inside" in error_of(tmp_path, "train")
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


@settings(max_examples=150, deadline=None)
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


@settings(max_examples=100, deadline=None)
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


@settings(max_examples=200, deadline=None)
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


@pytest.mark.parametrize(
    ("name", "line"),
    [("words.txt", "{}\tgreat white shark, man-eater"), ("LOC_synset_mapping.txt", "{} great white shark, man-eater")],
)
def test_classes_have_words(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / name).write_text("\n".join([line.format("n01484850"), "n01", "", line.format("n99")]))
    assert class_words(tmp_path, ["n01", "n01484850"]) == {"n01484850": "great white shark, man-eater"}
    assert class_words(tmp_path / "ILSVRC" / "Data", ["n99"]) == {"n99": "great white shark, man-eater"}
    assert class_words(tmp_path, ["n2"]) == {}
