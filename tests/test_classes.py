"""Labels mean the same class wherever they come from, and names of any kind survive their files.

Each image here holds the name of its class, so labels are checked without the code that made them.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from archives import make_tar
from hypothesis import given
from hypothesis import strategies as st

from alexnet.pipeline.dataset.classes import (
    class_lines,
    escape,
    first_difference,
    is_imagenet,
    read_classes,
    sorted_classes,
)
from alexnet.pipeline.dataset.images import Dataset, Split
from alexnet.pipeline.dataset.labels import class_words, val_labels
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import DatasetError

NAMED = ["dog", "ant", "cat"]  # in the order of their numbers
NUMBERED = [str(i) for i in range(12)]
pytestmark = pytest.mark.usefixtures("own_cache")


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def shard(path: Path, samples: Sequence[tuple[str, str, str]]) -> None:
    """Write samples: content of the image, extension and content of its label."""
    files: dict[str, bytes] = {}
    for i, (image, extension, label) in enumerate(samples):
        files |= {f"{i}.jpg": image.encode(), f"{i}.{extension}": label.encode()}
    put(path, make_tar(files))


def plant(root: Path, split: Split, form: str, classes: Sequence[str]) -> None:
    """Plant an image of each class: in folders, flat with a table, or in shards labelled by `names` or `numbers`."""
    if form == "numbers":
        shard(root / f"x-{split}-0.tar", [(name, "cls", str(i)) for i, name in enumerate(classes)])
    if form == "names":
        shard(root / f"x-{split}-0.tar", [(name, "json", json.dumps({"label": name})) for name in classes])
    if form == "folders":
        for name in classes:
            put(root / split / name / "x.JPEG", name)
    if form == "flat":
        put(root / split / "val_annotations.txt", "".join(f"{i}.JPEG\t{name}\n" for i, name in enumerate(classes)))
        for i, name in enumerate(classes):
            put(root / split / f"{i}.JPEG", name)


def check(dataset: Dataset, num_images: int) -> None:
    """Check that every label stands for the name that its image holds."""
    said = [dataset.classes[label] for label in dataset.labels]
    assert said == [dataset.read(i).tobytes().decode() for i in range(num_images)]
    assert len(dataset) == num_images


def error_of(root: Path, split: Split = "val") -> str:
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- order and names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "0"], ["0", "9", "10"]),
        (["7", "10", "007", "08"], ["007", "7", "08", "10"]),
        (["10", "9", "a"], ["10", "9", "a"]),
        (["10", "9", "\u0663"], ["10", "9", "\u0663"]),  # a number only to Unicode
        (["10", "9", "-1"], ["-1", "10", "9"]),
        (["9" * 5000, "1"], ["1", "9" * 5000]),
    ],
)
def test_numbers_are_in_their_order(names: list[str], expected: list[str]) -> None:
    assert sorted_classes(names) == expected


@pytest.mark.parametrize("train", ["folders", "names", "numbers"])
@pytest.mark.parametrize("val", ["folders", "names", "numbers", "flat"])
@pytest.mark.parametrize("classes", [NAMED, NUMBERED], ids=["named", "numbered"])
def test_labels_mean_the_same_in_both_splits(tmp_path: Path, train: str, val: str, classes: list[str]) -> None:
    plant(tmp_path, "train", train, classes)
    plant(tmp_path, "val", val, classes[:-1])  # the highest is missing
    if classes == NAMED and "numbers" in (train, val):
        put(tmp_path / "classes.txt", "\n".join(classes))
    training, validation = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    check(training, len(classes))
    check(validation, len(classes) - 1)
    assert training.classes == validation.classes
    in_order_of_file = (tmp_path / "classes.txt").exists() and train != "folders"
    assert list(training.classes) == (classes if classes == NUMBERED or in_order_of_file else sorted(classes))


def test_the_original_archive_has_its_classes_in_order(tmp_path: Path) -> None:
    for name in ("0", "9", "10"):
        shard(tmp_path / f"{name}.tar", [(name, "txt", "")])
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "w:") as tar:
        for name in ("10", "9", "0"):
            tar.add(tmp_path / f"{name}.tar", f"{name}.tar")
    plant(tmp_path, "val", "flat", ["10", "9"])
    check(open_dataset(tmp_path, "train"), 3)
    check(open_dataset(tmp_path, "val"), 2)
    assert open_dataset(tmp_path, "train").classes == open_dataset(tmp_path, "val").classes == ("0", "9", "10")


@pytest.mark.parametrize("cached", [True, False])
def test_shards_without_names_count_as_the_training_split_does(
    tmp_path: Path, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.pipeline.dataset.open.CACHE_FROM_IMAGES", 1 if cached else 10**9)
    plant(tmp_path, "train", "numbers", NUMBERED)
    plant(tmp_path, "val", "numbers", NUMBERED[:3])
    for _ in range(2):
        assert open_dataset(tmp_path, "val").num_classes == 12
    plant(tmp_path, "train", "numbers", NUMBERED[:5])
    assert open_dataset(tmp_path, "val").num_classes == 5
    plant(tmp_path, "train", "numbers", NUMBERED[:2])
    assert "has the classes '2', which the training split does not have (it has '0', '1')" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("train", "val", "val_classes", "message"),
    [
        ("folders", "numbers", NAMED, "numbers its classes, but the training split names them .'ant', 'cat', 'dog'."),
        ("names", "numbers", NAMED, "Say what the numbers mean in .*/classes.txt: one name per line, in order"),
        ("numbers", "folders", NAMED, "has the classes 'ant', 'cat', 'dog', which the training split does not have"),
        ("numbers", "flat", NAMED, "does not have .it has '0', '1', '2'.. Say what the numbers mean in .*/classes.txt"),
        ("folders", "folders", ["0", "1", "2"], "numbers its classes, .* Rename its class folders"),
        ("folders", "folders", ["ant", "elk"], "'elk', which the training split does not have .* add them to the"),
    ],
)
def test_numbers_are_no_names(tmp_path: Path, train: str, val: str, val_classes: list[str], message: str) -> None:
    """As many classes on both sides, and nothing that says which is which."""
    plant(tmp_path, "train", train, NAMED)
    plant(tmp_path, "val", val, val_classes)
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, "val")


def test_numbers_from_one_are_names_and_no_positions(tmp_path: Path) -> None:
    plant(tmp_path, "train", "folders", ["1", "2", "3"])
    plant(tmp_path, "val", "numbers", ["1", "2", "3"])  # labels 0 to 2
    assert "numbers its classes, but the training split names them ('1', '2', '3')" in error_of(tmp_path)


@pytest.mark.parametrize("words", ["A man\nA woman\n", "A man\nA woman\nA dog\n", "dog\ndog\n"])
def test_words_for_people_beside_class_folders_are_no_class_names(tmp_path: Path, words: str) -> None:
    put(tmp_path / "classes.txt", words)
    plant(tmp_path, "val", "folders", ["n02", "n10"])
    assert open_dataset(tmp_path, "val").classes == ("n02", "n10")


def test_a_file_of_classes_lies_with_the_shards_or_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.pipeline.dataset.open.CACHE_FROM_IMAGES", 1)
    shard(tmp_path / "train/0.tar", [(name, "cls", str(i)) for i, name in enumerate(NAMED)])
    for place in (tmp_path, tmp_path / "train"):
        put(place / "classes.txt", "".join(f"{place.name}{name}\n" for name in NAMED))
        assert open_dataset(tmp_path, "train").classes == tuple(f"{place.name}{name}" for name in NAMED)


@pytest.mark.parametrize(
    ("samples", "classes", "message"),
    [
        ([("", "cls", "1"), ("", "json", '{"label": "dog"}')], "", "are numbers, others names such as 'dog'"),
        ([("", "cls", "2")], "a\nb\n", "has label 2, but there are 2 classes in .*classes.txt"),
        ([("", "json", '{"label": "dog"}')], "a\nb\n", "has the classes 'dog', which .*classes.txt does not have"),
        ([("", "cls", "1")], "a\n\nb\n", "Line 2 of .*classes.txt is empty"),
        ([("", "cls", "1")], "a\nb\na\n", "classes.txt has 'a' twice"),
        ([("", "json", '{"label": "\\ud800"}')], "", "has no label"),
        ([("", "json", '{"label": ""}')], "", "has no label"),
        ([("", "json", '{"label": true}')], "", "has no label"),
        ([("", "json", '{"label": 2.7}')], "", "has no label"),
    ],
)
def test_labels_that_do_not_fit(
    tmp_path: Path, samples: list[tuple[str, str, str]], classes: str, message: str
) -> None:
    shard(tmp_path / "train/0.tar", samples)
    if classes:
        put(tmp_path / "classes.txt", classes)
    with pytest.raises(DatasetError, match=message):
        open_dataset(tmp_path, "train")


def test_imagenets_synsets_are_known() -> None:
    synsets = ["n01440764", *(f"n0{1500000 + i}" for i in range(998)), "n15075141"]
    assert is_imagenet(synsets)
    for others in (
        synsets[:-1],
        [synsets[0], "n01500000x", *synsets[2:]],
        [synsets[0], synsets[2], synsets[1], *synsets[3:]],
        [f"n0{2500000 + i}" for i in range(1000)],
        [str(i) for i in range(1000)],
    ):
        assert not is_imagenet(others)


def test_the_first_difference_is_named() -> None:
    assert first_difference(["a", "b"], ["a", "c"]) == "class 1: 'b' and 'c'"
    assert first_difference(["a", "b"], ["a"]) == "class 1: 'b' and missing"


# -- files -------------------------------------------------------------------------------------------------

any_name = st.one_of(st.binary(min_size=1, max_size=8).map(os.fsdecode), st.text(min_size=1, max_size=8))


@given(names=st.lists(any_name, min_size=1, max_size=8, unique=True))
def test_any_name_survives_its_file(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    content = class_lines(names)
    assert len(content.decode().split("\n")) == len(names) + 1  # it is text, one name per line
    file = tmp_path_factory.getbasetemp() / "classes.txt"
    file.write_bytes(content)
    assert read_classes(file) == names


@pytest.mark.parametrize("name", ["n01440764", "Kühlschrank", "great white shark", "a/b", "日本語", "x[bold]", "'s"])
def test_ordinary_names_are_written_as_they_are(name: str) -> None:
    assert escape(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (" a ", r"\x20a\x20"),
        ("a\nb", r"a\x0ab"),
        (os.fsdecode(b"\xe9"), r"\xe9"),
        ("\\x", r"\\x"),
        ("a\u2029", r"a\xe2\x80\xa9"),
        ("\ufeffa", r"\xef\xbb\xbfa"),
    ],
)
def test_what_a_line_cannot_hold_is_escaped(name: str, expected: str) -> None:
    assert escape(name) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n\n"])
def test_texts_may_have_a_byte_order_mark(tmp_path: Path, encoding: str, end: str) -> None:
    put(tmp_path / "classes.txt", ("dög\nant\\b\ncat" + end).encode(encoding))
    assert read_classes(tmp_path / "classes.txt") == ["dög", "ant\\b", "cat"]
    put(tmp_path / "words.txt", ("dög\ta dog\nant the ant" + end).encode(encoding))
    assert class_words(tmp_path, ["dög", "ant"]) == {"dög": "a dog", "ant": "the ant"}
    shard(tmp_path / "train/0.tar", [("x", "cls", "2")])
    with tarfile.open(tmp_path / "train/0.tar", "a:") as tar:
        for name, content in (("s.png", b"y"), ("s.cls", "1\r\n".encode(encoding))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert open_dataset(tmp_path, "train").labels.tolist() == [2, 1]


# -- tables of labels --------------------------------------------------------------------------------------

KAGGLE, TINY = "LOC_val_solution.csv", "val/val_annotations.txt"


def label_table(root: Path, file: str, rows: dict[str, str], encoding: str = "utf-8") -> None:
    if file == KAGGLE:
        lines = ["ImageId,PredictionString", *(f"{image},{name} 1 2 3 4" for image, name in rows.items())]
    else:
        lines = [f"{image}\t{name}\t1\t2\t3\t4" for image, name in rows.items()]
    put(root / file, "\r\n".join(lines).encode(encoding))


@pytest.mark.parametrize("file", [KAGGLE, TINY])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("row", ["{}", "{}.JPEG", "./{}.JPEG", "val/{}.JPEG", "/data/val/{}.JPEG", "{}.png", "val/{}"])
@pytest.mark.parametrize("image", ["val/{}.JPEG", "val/images/{}.jpg", "val/{}.PNG"])
def test_rows_find_their_images(tmp_path: Path, file: str, encoding: str, row: str, image: str) -> None:
    expected = {"ILSVRC_1": "ant", "b.v2": "dog", "c": "ant"}
    for name, content in expected.items():
        put(tmp_path / image.format(name), content)
    label_table(tmp_path, file, {row.format(name): c for name, c in expected.items()} | {"gone": "elk"}, encoding)
    dataset = open_dataset(tmp_path, "val")
    assert dataset.classes == ("ant", "dog")
    check(dataset, 3)


@pytest.mark.parametrize("file", [KAGGLE, TINY])
@pytest.mark.parametrize(
    ("images", "rows", "message"),
    [
        (["a/1.JPEG", "b/1.JPEG"], {"a/1.JPEG": "x", "b/1": "y"}, None),
        (["1.jpg", "1.png"], {"1.jpg": "x", "1.png": "y"}, None),
        (["a/1.JPEG", "b/1.JPEG"], {"1.JPEG": "x"}, "fits both val/a/1.JPEG and val/b/1.JPEG"),
        (["1.jpg", "1.png"], {"1": "x"}, "fits both val/1.jpg and val/1.png"),
        (["1.jpg", "1.png"], {"1.jpg": "x"}, "fits both val/1.jpg and val/1.png"),
        (["1.JPEG"], {"1": "x", "./1": "y"}, "calls val/1.JPEG both 'x' and 'y'"),
        (["1.JPEG"], {"a/1.JPEG": "x", "b/1.JPEG": "y"}, "calls val/1.JPEG both 'x' and 'y'"),
        (["1.JPEG", "2.JPEG"], {"1": "x"}, "1 of 2 validation images have no label in .*, val/2.JPEG among them"),
    ],
)
def test_rows_that_may_mean_several_images(
    tmp_path: Path, file: str, images: list[str], rows: dict[str, str], message: str | None
) -> None:
    label_table(tmp_path, file, rows)
    names = [f"val/{image}" for image in images]
    if message is None:
        assert val_labels(tmp_path, tmp_path / "val", names) == ["x", "y"]
    else:
        with pytest.raises(DatasetError, match=message):
            val_labels(tmp_path, tmp_path / "val", names)


def test_the_devkit_counts_images_by_their_names_wherever_they_lie(tmp_path: Path) -> None:
    put(tmp_path / "ILSVRC2012_validation_ground_truth.txt", "\ufeffx\r\ny\r\n")
    assert val_labels(tmp_path, None, ["val/a/2.JPEG", "val/b/1.JPEG"]) == ["y", "x"]
