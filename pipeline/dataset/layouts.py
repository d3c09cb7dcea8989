"""The known layouts of data sets: class folders, the original ILSVRC archives, WebDataset shards.

`find_layout` says which of them a split has. A `Layout` can list its images into a `Dataset`, and has a cheap stamp
that changes when files come or go. `open.py` keeps the list under that stamp.
"""

from __future__ import annotations

import logging
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DatasetError, NoSplit
from .archive import members
from .classes import CLASS_FILE, sorted_classes
from .images import Dataset, Listing, Split
from .labels import label_files, val_labels
from .names import (
    IMAGE_EXTENSIONS,
    count_left_out,
    describe_left_out,
    is_hidden,
    is_image,
    names_both_splits,
    split_word,
)
from .parquet import have_labels, no_labels, open_parquet, parquet_files
from .shards import has_label, open_shards
from .splits import (
    ILSVRC_TARS,
    TEST,
    archives_in,
    archives_of_split,
    how_to_get,
    is_of_test,
    kaggle_root,
    nothing_found,
    split_folder,
)
from .walk import Walk

log = logging.getLogger("alexnet")


@dataclass(frozen=True)
class Layout:
    """How a split is laid out on disk. Listing its images fills `folders` and `left_out`."""

    describe: str
    list_images: Callable[[bool], Dataset]  # True: ignore the index beside archives
    stamp: Callable[[], list[list[Any]]]  # [path, modification time in ns, size] of the files it depends on
    list_classes: Callable[[], list[str]] | None = None  # if that is cheaper than listing the images
    folders: dict[str, int] = field(default_factory=dict)  # folders read, and when each last changed, in ns
    left_out: Counter[str] = field(default_factory=Counter)  # files that are not images, by extension
    remark: str = ""  # what the user should know about the choice
    must_be_packed: bool = False  # no order but that of `pack` is fast

    def describe_left_out(self) -> str:
        return describe_left_out(self.left_out)


def find_layout(root: Path, split: Split) -> Layout:
    """Find the layout of a split; folders with images come before archives.

    Raise `NoSplit` if there is none, saying what was looked for and what is there instead.
    """
    root = kaggle_root(root)
    folder = split_folder(root, split)
    inside, beside = archives_in(folder) if folder else [], archives_of_split(root, split)
    if folder and _is_test(folder) and beside and split_word(beside[0].stem) != TEST:
        folder, inside = None, []  # an archive named val, validation or valid wins over test/
    tars = inside + beside
    if not tars and (files := parquet_files(root, split)) and not (folder and _hold_images([folder])):
        if is_of_test(files[0], split) and not have_labels(files):
            raise no_labels(files)
        return _parquet_layout(root, split, files)
    if folder and (not tars or _hold_images(_class_folders(folder) if split == "train" else [folder])):
        return _folder_layout(root, split, folder, inside, beside)
    if original := next((tar for tar in tars if tar.name == ILSVRC_TARS[split]), None):
        return _ilsvrc_layout(root, split, original)
    if shards := inside or beside:
        if is_of_test(shards[0], split) and not has_label(shards[0]):
            raise NoSplit(f"The images in {shards[0]} have no labels. {how_to_get(root, split)}".strip())
        return _shard_layout(root, split, shards)
    raise NoSplit(nothing_found(root, split))


def _class_folders(folder: Path) -> list[Path]:
    return [folder / name for name in _subfolders(folder)]


def _hold_images(folders: Iterable[Path]) -> bool:
    return any(True for folder in folders for _ in Walk().images(folder))


def _folder_layout(root: Path, split: Split, folder: Path, inside: list[Path], beside: list[Path]) -> Layout:
    """Make the layout of a folder; `inside` and `beside` are archives, ignored with a remark."""
    labels, classes = label_files(root, folder), _class_folders(folder)
    walk = Walk([*inside, *labels])
    remark = _ignored_archives(folder, inside + beside, classes)
    layout = partial(Layout, folders=walk.folders, left_out=walk.left_out, remark=remark)
    if classes and (not _is_test(folder) or _hold_images(classes)):
        return layout(
            f"class folders in {folder.name}/",
            lambda _: _list_folders(root, split, folder, walk),
            lambda: _stamp([]),
            lambda: _subfolders(folder),
        )
    if split == "train":
        hint = "Each class needs a folder of its own: train/<class>/*.JPEG."
        raise NoSplit(f"{folder} holds no class folders. {hint}")
    if not _hold_images([folder]):
        raise NoSplit(f"{folder} holds neither class folders nor images. {how_to_get(root, split)}".strip())
    if _is_test(folder) and not labels:
        raise NoSplit(f"The images in {folder} have no labels. {how_to_get(root, split)}".strip())
    return layout(f"a flat {folder.name}/", lambda _: _list_flat(root, folder, walk), lambda: _stamp(labels))


def _is_test(folder: Path) -> bool:
    """Return whether this is test/, which may hold the images of a competition, without labels."""
    return folder.name.lower() == TEST


def _ignored_archives(folder: Path, archives: list[Path], classes: Sequence[Path]) -> str:
    if not archives:
        return ""
    more = f" and {len(archives) - 1} more" if len(archives) > 1 else ""
    remark = f"Reading the images in {folder}; ignoring {archives[0]}{more}."
    of_class = [tar for tar in archives if tar.parent == folder and not split_word(tar.stem)]
    # unpacking may have been interrupted
    if packed := [tar.stem for tar in of_class if tar.with_suffix("") not in classes]:
        remark += f" {len(packed)} of these may be classes not yet unpacked: there is no folder {packed[0]}, for one."
    return remark


def _ilsvrc_layout(root: Path, split: Split, tar: Path) -> Layout:
    left_out, describe = Counter[str](), f"the archive {tar.name}"
    if split == "train":
        return Layout(
            describe,
            lambda _: _list_train_tar(root, tar, left_out),
            lambda: _stamp([tar]),
            lambda: sorted_classes(_class_tars(tar)),
            left_out=left_out,
        )
    return Layout(
        describe,
        lambda _: _list_val_tar(root, tar, left_out),
        lambda: _stamp([tar, *label_files(root, None)]),
        left_out=left_out,
    )


def _shard_layout(root: Path, split: Split, shards: list[Path]) -> Layout:
    names = next((p for p in (shards[0].parent / CLASS_FILE, root / CLASS_FILE) if p.is_file()), None)
    left_out, remark = Counter[str](), ""
    unclear = [shard.name for shard in shards if names_both_splits(shard.stem)]
    if unclear and shards[0].parent == root:
        which = f"{len(unclear)} archives have words of both splits in their names, {unclear[0]} among them"
        remark = f"{which}; the last word counts: {split_word(unclear[0])}."
    return Layout(
        f"{len(shards)} shard{'s' * (len(shards) > 1)}",
        lambda rescan: open_shards(root, split, shards, names, left_out, rescan),
        lambda: _stamp([*shards, *([names] if names else [])]),
        left_out=left_out,
        remark=remark,
    )


def _parquet_layout(root: Path, split: Split, files: list[Path]) -> Layout:
    return Layout(
        f"{len(files)} parquet file{'s' * (len(files) > 1)}",
        lambda _: open_parquet(root, split),
        lambda: _stamp(files),
        must_be_packed=True,
    )


def _stamp(paths: Sequence[Path]) -> list[list[Any]]:
    """Return [path, modification time in ns, size] of the files that exist."""
    stamps = []
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            found = path.stat()
            stamps.append([str(path), found.st_mtime_ns, found.st_size])
    return stamps


# -- class folders -----------------------------------------------------------------------------------------


def _subfolders(folder: Path) -> list[str]:
    return Walk().subfolders(folder)


def _list_folders(root: Path, split: Split, folder: Path, walk: Walk) -> Dataset:
    classes, listing, skip = walk.subfolders(folder), Listing(), len(str(root)) + 1
    for label, name in enumerate(classes):
        before = len(listing)
        for path, size in walk.images(folder / name):
            listing.add(path[skip:], label, size)
        if len(listing) == before:
            raise DatasetError(_no_images(folder / name))
    return listing.dataset(root, split, classes)


def _no_images(folder: Path) -> str:
    list((walk := Walk()).images(folder))
    found = describe_left_out(walk.left_out) or f"Looked for {' '.join(IMAGE_EXTENSIONS)}."
    return f"The class folder {folder} has no images. {found} Remove the folder, or put its images in."


def _list_flat(root: Path, folder: Path, walk: Walk) -> Dataset:
    files = {path[len(str(root)) + 1 :]: size for path, size in walk.images(folder)}
    images = [name for name in files if is_image(name)]  # `files` has unreadable folders, too
    classes, labels = _numbered(val_labels(root, folder, images))
    label_of, listing = dict(zip(images, labels, strict=True)), Listing()
    for name, size in files.items():
        listing.add(name, label_of.get(name, 0), size)
    return listing.dataset(root, "val", classes)


def _numbered(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the sorted classes, and each image's label, from the names of the images' classes."""
    classes = sorted_classes(set(names))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, [label_of[name] for name in names]


# -- archives ----------------------------------------------------------------------------------------------


def _class_tars(tar: Path) -> dict[str, tarfile.TarInfo]:
    """Return the tars inside ILSVRC2012_img_train.tar, one for each class."""
    inner: dict[str, tarfile.TarInfo] = {}
    for m in members(tar):
        if not m.name.endswith(".tar") or is_hidden(m.name):
            continue
        if inner.setdefault(Path(m.name).stem, m) is not m:
            raise DatasetError(f"{tar} holds {m.name} twice; copy it again.")
    if not inner:
        raise DatasetError(f"{tar} holds no tars of classes. Is it the original ILSVRC2012_img_train.tar?")
    return inner


def _list_train_tar(root: Path, tar: Path, left_out: Counter[str]) -> Dataset:
    inner, listing = _class_tars(tar), Listing()
    classes = sorted_classes(inner)
    for label, name in enumerate(classes):
        begin, end, before = inner[name].offset_data, inner[name].offset_data + inner[name].size, len(listing)
        for m in _images(members(tar, begin, end), left_out):
            listing.add(f"{name}/{m.name}", label, m.size, container=0, offset=m.offset_data)
        if len(listing) == before:
            raise DatasetError(f"The class archive {name}.tar in {tar} has no images.")
        if label % 100 == 99:
            log.info("Listed %d of %d classes in %s", label + 1, len(classes), tar.name)
    return listing.dataset(root, "train", classes, [tar])


def _images(found: Iterable[tarfile.TarInfo], left_out: Counter[str]) -> Iterator[tarfile.TarInfo]:
    for member in found:
        if is_hidden(member.name):
            continue
        if is_image(member.name):
            yield member
        else:
            count_left_out(left_out, [member.name])


def _list_val_tar(root: Path, tar: Path, left_out: Counter[str]) -> Dataset:
    found = sorted(_images(members(tar), left_out), key=lambda m: m.name)
    classes, labels = _numbered(val_labels(root, None, [m.name for m in found]))
    listing = Listing()
    for m, label in zip(found, labels, strict=True):
        listing.add(m.name, label, m.size, container=0, offset=m.offset_data)
    return listing.dataset(root, "val", classes, [tar])
