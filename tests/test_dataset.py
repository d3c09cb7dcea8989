"""Data sets on disk become the right list of images: against the files themselves, in any folder, cached or not."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.pipeline.dataset import index as index_module
from alexnet.pipeline.dataset import open as module
from alexnet.pipeline.dataset.images import Dataset, Listing, StringTable
from alexnet.pipeline.dataset.open import locate, open_dataset
from alexnet.pipeline.errors import DatasetError

Tree = dict[str, bytes]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ALEXNET_CACHE", str(cache))
    monkeypatch.delenv("ALEXNET_DATA", raising=False)
    return cache


@pytest.fixture
def caching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_FROM_IMAGES", 1)


TREE: Tree = {
    "train/b/2.JPEG": b"two",
    "train/b/10.jpg": b"ten!",
    "train/a/x.png": b"x",
    "train/a/notes.txt": b"not an image",
    "train/a/.hidden.JPEG": b"hidden",
    "val/a/v.JPEG": b"va",
    "val/b/w.JPEG": b"wb",
}


def plant(root: Path, tree: Tree) -> Path:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def listed(dataset: Dataset) -> dict[str, tuple[str, bytes]]:
    """Name -> (class, bytes)."""
    images = {
        dataset.name(i): (dataset.classes[dataset.labels[i]], dataset.read(i).tobytes()) for i in range(len(dataset))
    }
    assert len(images) == len(dataset)
    return images


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


# -- the cached index --------------------------------------------------------------------------------------


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


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, caching: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "file"))
    plant(tmp_path / "data", TREE)
    assert len(open_dataset(tmp_path / "data", "train")) == 3
    assert f"The cache folder {tmp_path / 'file'} cannot be written, so nothing is kept" in caplog.text


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


@settings(max_examples=30, deadline=None)
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
