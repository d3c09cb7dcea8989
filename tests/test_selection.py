"""Which images `--val-fraction` and `--per-class` take: against a plain definition, image by image."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import archives
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import plant, plant_named

from alexnet.pipeline.dataset.choose import choose_images
from alexnet.pipeline.dataset.images import Dataset, Listing
from alexnet.pipeline.dataset.numbers import image_keys, image_numbers
from alexnet.pipeline.dataset.open import open_dataset, open_splits, selection_for
from alexnet.pipeline.dataset.selection import EVERYTHING, Selection
from alexnet.pipeline.errors import DatasetError, NoSplit, UserError

pytestmark = pytest.mark.usefixtures("own_cache")

names = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
fractions = st.floats(0.05, 0.95)


def number_of(key: str, seed: int = 0) -> int:
    """FNV-1a, then MurmurHash3's fmix64, of `<seed>/<class>/<name>`, as their authors define them."""
    state = 14695981039346656037
    for byte in f"{seed}/{key}".encode("utf-8", "surrogateescape"):
        state = (state ^ byte) * 1099511628211 % 2**64
    state = (state ^ state >> 33) * 0xFF51AFD7ED558CCD % 2**64
    state = (state ^ state >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return state ^ state >> 33


def keys_of(dataset: Dataset) -> list[str]:
    keys = image_keys(dataset)
    return [f"{dataset.classes[label]}/{keys[i]}" for i, label in enumerate(dataset.labels)]


def folders(keys: Iterable[str]) -> Dataset:
    """A data set of class folders with these images, `class/name`, without the files."""
    classes, listing = sorted({key.partition("/")[0] for key in keys}), Listing()
    for key in keys:
        listing.add(f"train/{key}.JPEG", classes.index(key.partition("/")[0]), 1)
    return listing.dataset(Path("/data"), "train", classes)


def sides(keys: Iterable[str], share: float, seed: int) -> tuple[set[str], set[str]]:
    held_out = {key for key in keys if number_of(key, seed) < Fraction(share) * 2**64}
    return held_out, set(keys) - held_out


def chosen(dataset: Dataset, share: float, seed: int = 0) -> tuple[set[str], set[str]]:
    selection = Selection(val_fraction=share, split_seed=seed)
    val, train = (choose_images(dataset, selection, split) for split in ("val", "train"))
    assert (val.split, train.split, val.classes, train.selection) == ("val", "train", dataset.classes, selection)
    return set(keys_of(val)), set(keys_of(train))


# -- the numbers -------------------------------------------------------------------------------------------


@given(st.sets(st.tuples(names, names), min_size=1, max_size=30), st.integers(0, 2**40))
def test_numbers_are_those_of_the_plain_definition(pairs: set[tuple[str, str]], seed: int) -> None:
    dataset = folders([f"{name}/{image}" for name, image in pairs])
    assert keys_of(dataset) == [f"{name}/{image}" for name, image in pairs]
    assert image_numbers(dataset, seed).tolist() == [number_of(f"{n}/{i}", seed) for n, i in pairs]


def test_numbers_are_evenly_spread() -> None:
    dataset = folders([f"n{c:08}/n{c:08}_{i}" for c in range(40) for i in range(100)])
    for seed in (0, 1):
        shares = [len(choose_images(dataset, Selection(val_fraction=f, split_seed=seed), "val")) for f in (0.2, 0.5)]
        assert shares == pytest.approx([800, 2000], abs=120)  # four standard deviations
    assert chosen(dataset, 0.5, 0) != chosen(dataset, 0.5, 1)


# -- the split ---------------------------------------------------------------------------------------------


many = st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 500)), max_size=60).map(
    lambda pairs: sorted({f"{name}/{i}" for name, i in pairs} | {f"{name}/{i}" for name in "ab" for i in range(-60, 0)})
)


@settings(max_examples=40)
@given(many, st.floats(0.2, 0.8), st.integers(0, 5), st.randoms())
def test_the_split_is_that_of_the_plain_definition_in_any_order(keys: list[str], share: float, seed: int, draw) -> None:  # type: ignore[no-untyped-def]
    expected = sides(keys, share, seed)
    assert chosen(folders(keys), share, seed) == expected
    draw.shuffle(keys)
    assert chosen(folders(keys), share, seed) == expected


@settings(max_examples=40)
@given(many, many, st.floats(0.2, 0.8))
def test_an_image_never_changes_sides(before: list[str], after: list[str], share: float) -> None:
    """Whatever else comes or goes."""
    val, train = chosen(folders(before), share)
    new_val, new_train = chosen(folders(after), share)
    assert val & set(after) == new_val & set(before)
    assert train & set(after) == new_train & set(before)


@settings(max_examples=40)
@given(many, st.integers(1, 20), st.integers(0, 20), st.none() | st.floats(0.2, 0.5))
def test_few_images_are_among_more_and_have_the_highest_numbers(
    keys: list[str], few: int, more: int, share: float | None
) -> None:
    dataset, found = folders(keys), []
    for count in (few, few + more):
        part = choose_images(dataset, Selection(per_class=count, val_fraction=share), "train")
        found.append(set(keys_of(part)))
        kept = [k for k in keys if share is None or number_of(k) >= Fraction(share) * 2**64]
        by_class = [sorted((k for k in kept if k.startswith(name)), key=number_of) for name in "ab"]
        assert found[-1] == {key for those in by_class for key in those[-count:]}
    assert found[0] <= found[1]


def test_a_class_with_fewer_images_is_named(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")
    dataset = folders(["a/1", "a/2", "a/3", "b/1"])
    assert len(choose_images(dataset, Selection(per_class=2), "train")) == 3
    assert "1 of 2 classes have fewer training images than --per-class 2: 'b' has 1." in caplog.text


def test_few_are_of_the_training_images(tmp_path: Path) -> None:
    plant_named(tmp_path, *(f"{split}/a/{i}.JPEG" for split in ("train", "val") for i in range(5)))
    found = open_splits(tmp_path, (), selection=Selection(per_class=2))
    assert [len(dataset) for dataset in found] == [2, 5]


def test_a_class_without_images_on_one_side_is_an_error_that_says_which_fractions_do() -> None:
    keys = ["a/1", "a/2", "b/1", "b/2", "b/3"]
    numbers = defaultdict[str, list[float]](list)
    for key in keys:
        numbers[key[0]].append(number_of(key) / 2**64)
    low, high = max(map(min, numbers.values())), min(map(max, numbers.values()))
    assert low < high - 0.02
    for share, side in ((low * 0.9, "validation"), ((high + 1) / 2, "training")):
        with pytest.raises(
            DatasetError, match=rf"leaves 1 of 2 classes of /data without {side} images, such as"
        ) as caught:
            chosen(folders(keys), share)
    words = str(caught.value).split()
    start, end = float(words[words.index("From") + 1]), float(words[words.index("From") + 3])
    assert low < start <= end < high
    for share in (start, end):
        chosen(folders(keys), share)
    with pytest.raises(DatasetError, match=r"'b', which has 1 in all\. Each class needs two images or more: leave"):
        chosen(folders(["a/1", "a/2", "b/1"]), 0.5)
    of_a, of_b = (sorted((f"{name}/{i}" for i in range(9)), key=number_of) for name in "ab")
    with pytest.raises(DatasetError, match="Try another --split-seed, or leave small classes"):
        chosen(folders(of_a[:2] + of_b[-2:]), 0.5)


@pytest.mark.parametrize("wrong", [{"val_fraction": 0.0}, {"val_fraction": 1.0}, {"per_class": 0}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"--val-fraction|--per-class"):
        Selection(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ILSVRC2012_img_test_v10102019.tar", "x-test-0.tar", "test/0.tar"])
def test_an_archive_of_a_test_set_is_no_validation_set(tmp_path: Path, name: str) -> None:
    """But one with labels is."""
    root, half = plant_named(tmp_path, "train/a/0.JPEG", "train/a/1.JPEG"), Selection(val_fraction=0.5, split_seed=1)
    plant(root, {name: archives.make_tar({"test/1.JPEG": b"x", "test/2.JPEG": b"x"})})
    assert [len(open_dataset(root, split, selection=half)) for split in ("train", "val")] == [1, 1]
    with pytest.raises(NoSplit, match=rf"The images in {root / name} have no labels\. Set some aside with --val-fra"):
        open_dataset(root, "val")
    plant(root, {name: archives.make_tar({"1.jpg": b"x", "1.cls": b"0"})})
    with pytest.raises(DatasetError, match="has validation images already"):
        open_dataset(root, "train", selection=half)


# -- layouts -----------------------------------------------------------------------------------------------

IMAGES = [f"n0{c}/n0{c}_{i}.JPEG" for c in (1, 2, 3) for i in range(8)]
HALF = Selection(val_fraction=0.5)


def planted(root: Path, layout: str) -> Path:
    if layout == "folders":
        return plant_named(root, *(f"train/{name}" for name in IMAGES))
    if layout == "Kaggle's folders":
        plant_named(root, *(f"ILSVRC/Data/CLS-LOC/train/{name}" for name in IMAGES))
        return root
    if layout == "the archive":
        inner = {f"n0{c}": {n.split("/")[1]: b"x" for n in IMAGES if n.startswith(f"n0{c}")} for c in (1, 2, 3)}
        tar = archives.make_tar({f"{name}.tar": archives.make_tar(files) for name, files in inner.items()})
        return plant(root, {"ILSVRC2012_img_train.tar": tar})
    members = dict[str, bytes]()  # a pack
    for i, name in enumerate(IMAGES):
        key = f"{i:08d}-{Path(name).stem}"
        members |= {f"{key}.jpg": b"x", f"{key}.cls": b"%d" % (int(name[2]) - 1)}
    files = {"train-000000.tar": archives.make_tar(members), "classes.txt": b"n01\nn02\nn03\n", "pack.json": b"{}"}
    return plant(root, files)


@pytest.mark.parametrize("layout", ["folders", "Kaggle's folders", "the archive", "a pack"])
def test_layouts_of_the_same_images_give_the_same_split(tmp_path: Path, layout: str) -> None:
    expected = sides([name.removesuffix(".JPEG") for name in IMAGES], 0.5, 0)
    root = planted(tmp_path, layout)
    val, train = (open_dataset(root, split, selection=HALF) for split in ("val", "train"))
    assert (set(keys_of(val)), set(keys_of(train))) == expected
    assert len(val) + len(train) == len(IMAGES)
    assert val.fingerprint != train.fingerprint != open_dataset(root, "train").fingerprint


def test_shards_of_others_are_split_by_the_names_of_their_members(tmp_path: Path) -> None:
    members = {f"{i:04}.{kind}": b"0" for i in range(20) for kind in ("jpg", "cls")}
    plant(tmp_path, {"x-train-0.tar": archives.make_tar(members)})
    found = {split: set(keys_of(open_dataset(tmp_path, split, selection=HALF))) for split in ("val", "train")}
    assert (found["val"], found["train"]) == sides([f"0/{i:04}" for i in range(20)], 0.5, 0)


def test_a_cached_list_gives_the_same_split(tmp_path: Path, caching: None) -> None:
    root = planted(tmp_path, "folders")
    prints = [open_dataset(root, "train", selection=HALF).fingerprint for _ in range(2)]
    assert prints[0] == prints[1] != open_dataset(root, "train").fingerprint


def test_data_with_validation_images_is_not_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant_named(tmp_path, *(f"train/{name}" for name in IMAGES), "val/n01/0.JPEG")
    with pytest.raises(DatasetError, match=r"has validation images already \(class folders in val/\)\. Leave it out\."):
        open_dataset(tmp_path, "train", selection=HALF)
    caplog.set_level(logging.INFO, logger="alexnet")
    assert selection_for(tmp_path, HALF) == EVERYTHING  # of a run that was trained elsewhere
    assert "the run held out --val-fraction 0.5" in caplog.text
    assert selection_for(planted(tmp_path / "other", "folders"), HALF) == HALF


def test_a_selection_survives_its_record() -> None:
    for selection in (EVERYTHING, HALF, Selection(classes=("a", "b"), per_class=3, split_seed=7)):
        assert Selection.from_record(selection.record()) == selection
    assert EVERYTHING.record() == {}
    with pytest.raises(ValueError, match="unknown field 'colour'"):
        Selection.from_record({"colour": 1})
