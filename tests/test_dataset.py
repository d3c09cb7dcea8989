"""Data sets on disk become the right list of images: against the files themselves, in any folder, cached or not."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planting import TREE, Tree, listed, plant

from alexnet.pipeline.dataset import open as module
from alexnet.pipeline.dataset.images import Dataset, Listing, StringTable
from alexnet.pipeline.dataset.open import locate, open_dataset
from alexnet.pipeline.errors import DatasetError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_class_folders_are_listed_in_sorted_order_with_their_bytes(tmp_path: Path) -> None:
    dataset = open_dataset(plant(tmp_path, TREE), "train")
    assert dataset.classes == ("a", "b")
    assert [dataset.name(i) for i in range(3)] == ["train/a/x.png", "train/b/10.jpg", "train/b/2.JPEG"]
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.lengths.tolist() == [1, 4, 3]
    assert [dataset.read(i).tobytes() for i in range(3)] == [b"x", b"ten!", b"two"]
    assert (len(dataset), dataset.num_classes, dataset.split) == (3, 2, "train")


def test_real_images_are_all_found(tiny_tree: Path) -> None:
    for split in ("train", "val"):
        files = {str(p.relative_to(tiny_tree)): p.read_bytes() for p in (tiny_tree / split).rglob("*.JPEG")}
        found = listed(open_dataset(tiny_tree, split))
        assert found == {name: (Path(name).parent.name, content) for name, content in files.items()}


def test_validation_labels_follow_the_training_classes(tmp_path: Path) -> None:
    tree = {**TREE, "train/0first/y.JPEG": b"y"}  # shifts every label by one; val/ knows nothing of it
    dataset = open_dataset(plant(tmp_path, tree), "val")
    assert dataset.classes == ("0first", "a", "b")
    assert dataset.labels.tolist() == [1, 2]


# -- strings and bytes -------------------------------------------------------------------------------------

file_name_bytes = st.binary(max_size=12)


@given(names=st.lists(file_name_bytes.map(os.fsdecode), min_size=1, max_size=20))
def test_names_of_any_bytes_survive_the_table(names: list[str]) -> None:
    listing = Listing()
    for i, name in enumerate(names):
        listing.add(name, i, i)
    table = listing.dataset(Path(), "train", ["a"]).names
    assert isinstance(table, StringTable)
    assert [table[i] for i in range(len(table))] == names


ODD_NAMES = [
    os.fsdecode(b"\xff\xfe bytes.JPEG"),
    "naïve ü.JPEG",
    "日本語.JPEG",
    "new\nline.JPEG",
    "e\u0301.JPEG",
    "a b.JPEG",
]


def test_odd_file_and_class_names(tmp_path: Path, caching: None) -> None:
    root = tmp_path / os.fsdecode(b"r\xf6ot")
    for split in ("train", "val"):
        plant(
            root,
            {
                f"{split}/{os.fsdecode(b'cl' + bytes([255]))}/{n}": n.encode("utf-8", "surrogateescape")
                for n in ODD_NAMES
            },
        )
    for _ in ("listed", "from the cache"):
        dataset = open_dataset(root, "train")
        assert sorted(Path(dataset.name(i)).name for i in range(len(dataset))) == sorted(ODD_NAMES)
        for i in range(len(dataset)):
            assert dataset.read(i).tobytes() == Path(dataset.name(i)).name.encode("utf-8", "surrogateescape")
        assert dataset.classes == (os.fsdecode(b"cl\xff"),)
        assert len(dataset.fingerprint) == 32
    assert open_dataset(root, "val").num_classes == 1


def test_a_changed_or_missing_file_is_an_error_when_read(tmp_path: Path) -> None:
    dataset = open_dataset(plant(tmp_path, TREE), "train")
    (tmp_path / "train/a/x.png").write_bytes(b"longer than it was")
    with pytest.raises(DatasetError, match=r"has 18 bytes where 1 were listed"):
        dataset.read(0)
    (tmp_path / "train/b/10.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        dataset.read(1)
    assert dataset.read(2).tobytes() == b"two"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_an_archive_is_closed_with_its_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc")
    listing = Listing()
    listing.add("a", 0, 2, container=0, offset=1)
    dataset = listing.dataset(tmp_path, "train", ["a"], [tmp_path / "a.bin"])
    before = open_files()
    assert dataset.read(0).tobytes() == b"bc"
    assert open_files() == before + 1
    del dataset
    assert open_files() == before


def test_of_many_archives_only_some_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.pipeline.dataset.images.KEPT_OPEN", 3)
    listing, archives = Listing(), [tmp_path / f"{i}.bin" for i in range(8)]
    for i, archive in enumerate(archives):
        archive.write_bytes(bytes([i]))
        listing.add("a", 0, 1, container=i)
    dataset = listing.dataset(tmp_path, "train", ["a"], archives)
    before = open_files()
    for i in [*range(8), *range(8)]:
        assert dataset.read(i).tobytes() == bytes([i])
        assert open_files() <= before + 3


@pytest.mark.parametrize("copied", [copy.copy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
def test_a_copy_opens_its_archives_itself(tmp_path: Path, copied: Callable[[Dataset], Dataset]) -> None:
    """In another process a descriptor would be another file; and each must be closed once."""
    (tmp_path / "a.bin").write_bytes(b"abc")
    listing = Listing()
    listing.add("a", 0, 2, container=0, offset=1)
    dataset = listing.dataset(tmp_path, "train", ["a"], [tmp_path / "a.bin"])
    before = open_files()
    dataset.read(0)
    other = copied(dataset)
    assert other.read(0).tobytes() == b"bc"
    assert open_files() == before + 2
    del other
    assert open_files() == before + 1
    assert dataset.read(0).tobytes() == b"bc"


def test_many_threads_may_read_one_archive(tmp_path: Path) -> None:
    content = os.urandom(4096)
    (tmp_path / "a.bin").write_bytes(content)
    listing = Listing()
    for i in range(4096):
        listing.add(str(i), 0, 1, container=0, offset=i)
    dataset = listing.dataset(tmp_path, "train", ["a"], [tmp_path / "a.bin"])
    before = open_files()
    wrong: list[int] = []
    barrier = threading.Barrier(8)

    def read(start: int) -> None:
        barrier.wait()
        wrong.extend(i for i in range(start, 4096, 8) if dataset.read(i).tobytes() != content[i : i + 1])

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert open_files() == before + 1  # one descriptor for all threads


# -- fingerprint -------------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one, two = plant(tmp_path / "one", TREE), plant(tmp_path / "far" / "two", dict(reversed(TREE.items())))
    assert open_dataset(one, "train").fingerprint == open_dataset(two, "train").fingerprint
    assert open_dataset(one, "train").fingerprint != open_dataset(one, "val").fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"train/b/new.JPEG": b"added"},
        {"train/a/x.png": b"resized"},
        {"train/c/z.JPEG": b"another class"},
    ],
)
def test_fingerprint_changes_with_the_files(tmp_path: Path, change: Tree) -> None:
    before = open_dataset(plant(tmp_path, TREE), "train").fingerprint
    assert open_dataset(plant(tmp_path, change), "train").fingerprint != before


def test_fingerprint_changes_with_a_name_and_a_label(tmp_path: Path) -> None:
    before = open_dataset(plant(tmp_path, TREE), "train").fingerprint
    (tmp_path / "train/a/x.png").rename(tmp_path / "train/a/y.png")
    renamed = open_dataset(tmp_path, "train").fingerprint
    (tmp_path / "train/b").rename(tmp_path / "train/c")
    assert len({before, renamed, open_dataset(tmp_path, "train").fingerprint}) == 3


def test_labels_are_part_of_the_fingerprint() -> None:
    def fingerprint(name: str = "b", label: int = 1, length: int = 3, classes: str = "ab") -> str:
        listing = Listing()
        listing.add("a", 0, 2)
        listing.add(name, label, length)
        return listing.dataset(Path(), "train", classes).fingerprint

    others = [fingerprint(name="c"), fingerprint(label=0), fingerprint(length=4), fingerprint(classes="ac")]
    assert len({fingerprint(), *others}) == 5
    assert fingerprint() == fingerprint()


# -- where -------------------------------------------------------------------------------------------------


def test_data_is_the_argument_else_the_environment_else_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_one, environment, default = (tmp_path / n for n in ("given", "environment", "default"))
    for folder in (given_one, environment, default):
        folder.mkdir()
    monkeypatch.setattr(module, "DEFAULT_DATA", default)
    assert locate(None) == default.resolve()
    monkeypatch.setenv("ALEXNET_DATA", str(environment))
    assert locate(None) == environment.resolve()
    assert locate(given_one) == given_one.resolve()
    environment.rmdir()
    with pytest.raises(DatasetError, match=r"environment \(from \$ALEXNET_DATA\).*Pass the folder"):
        locate(None)


def test_a_file_or_nothing_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"images\.tar is a file\. Pass the folder that holds it"):
        open_dataset(tmp_path / "images.tar", "train")
    with pytest.raises(DatasetError, match=r"No data set at .*nowhere \(given\)"):
        open_dataset(tmp_path / "nowhere", "train")


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(0, 2**40), min_size=1, max_size=30), data=st.data())
def test_a_listing_keeps_every_extent(lengths: list[int], data: st.DataObject) -> None:
    listing = Listing()
    extents = [(f"n{i}", i % 7, n, data.draw(st.integers(0, 2**50))) for i, n in enumerate(lengths)]
    for name, label, length, offset in extents:
        listing.add(name, label, length, container=0, offset=offset)
    d = listing.dataset(Path(), "train", [str(i) for i in range(7)], [Path("t.tar")])
    assert [(d.name(i), int(d.labels[i]), int(d.lengths[i]), int(d.offsets[i])) for i in range(len(d))] == [
        (f"t.tar:{name}", label, length, offset) for name, label, length, offset in extents
    ]


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.integers(0, 9), st.integers(0, 2**40), st.integers(-1, 1)),
        min_size=1,
        max_size=20,
    ),
    st.data(),
)
def test_a_subset_is_those_images_in_that_order(images: list[tuple[str, int, int, int]], data: st.DataObject) -> None:
    listing = Listing()
    for name, label, length, container in images:
        listing.add(name, label, length, container=container, offset=2 * length)
    whole = listing.dataset(Path("/root"), "train", map(str, range(10)), [Path("a.tar"), Path("b.tar")])
    order = data.draw(st.lists(st.integers(0, len(images) - 1), max_size=30))
    part = whole.subset(np.array(order, np.int64))
    assert len(part) == len(order)
    assert (part.root, part.split, part.classes, part.containers) == (
        whole.root,
        whole.split,
        whole.classes,
        whole.containers,
    )
    for i, j in enumerate(order):
        found = (part.names[i], part.labels[i], part.lengths[i], part.container[i], part.offsets[i])
        assert found == (*images[j][:3], images[j][3], 2 * images[j][2])
        assert part.name(i) == whole.name(j)
