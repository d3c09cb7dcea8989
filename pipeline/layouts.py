"""The layouts in which data sets are found: class folders, the original ILSVRC archives, WebDataset shards.

Each layout knows how to say whether it is there (`find_layout`), a cheap stamp that changes when files come or
go, and how to list its images into a `Dataset`. Archives are never unpacked; member names are only labels.
"""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .archive import members
from .classes import CLASS_FILE, sorted_classes
from .dataset import Dataset, DatasetError, Listing, Split
from .shards import IMAGE_EXTENSIONS, is_image, list_shards
from .val_labels import label_files, val_labels

log = logging.getLogger("alexnet")

SPLIT_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation", "valid", "test")}
ILSVRC_TARS: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


@dataclass(frozen=True)
class Layout:
    """One way in which a split lies on disk."""

    describe: str
    list_images: Callable[[], Dataset]
    stamp: Callable[[], list[list[Any]]]  # [path, modification time in ns, size] of what would change
    list_classes: Callable[[], list[str]] | None = None  # where that takes less than to list the images


def find_layout(root: Path, split: Split) -> Layout:
    """The first layout that is there; raises DatasetError that says what was looked for and what is there."""
    root = _kaggle_root(root)
    folder = next((root / name for name in SPLIT_FOLDERS[split] if (root / name).is_dir()), None)
    if folder is not None:
        if shards := sorted(folder.glob("*.tar")):
            return _shards(root, split, shards)
        if (_subfolders(folder) and folder.name != "test") or _holds_class_folders(folder):
            return Layout(f"class folders in {folder.name}/", lambda: _list_folders(root, split, folder),
                          lambda: _stamp(_with_images(folder)), lambda: _subfolders(folder))  # fmt: skip
        if split == "val":
            return Layout(f"a flat {folder.name}/", lambda: _list_flat(root, folder),
                          lambda: _stamp([folder, folder / "images", *label_files(root, folder)]))  # fmt: skip
        hint = "Each class needs a folder of its own: train/<class>/*.JPEG."
        raise DatasetError(f"{folder} holds no class folders. {hint}")
    if (tar := root / ILSVRC_TARS[split]).is_file():
        if split == "train":
            return Layout(f"the archive {tar.name}", lambda: _list_train_tar(root, tar),
                          lambda: _stamp([tar]), lambda: sorted_classes(_class_tars(tar)))  # fmt: skip
        return Layout(f"the archive {tar.name}", lambda: _list_val_tar(root, tar),
                      lambda: _stamp([tar, *label_files(root, None)]))  # fmt: skip
    if shards := sorted(p for word in SPLIT_FOLDERS[split] for p in root.glob(f"*{word}*.tar")):
        return _shards(root, split, shards)
    raise DatasetError(_nothing_found(root, split))


def _nothing_found(root: Path, split: Split) -> str:
    entries = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    found = ", ".join(entries[:5]) + (f", ... ({len(entries)} entries)" if len(entries) > 5 else "")
    wanted = f"{split}/<class>/*.JPEG, {ILSVRC_TARS[split]} or *{split}*.tar shards"
    message = f"No {split} images in {root}. Looked for {wanted}; found: {found or 'an empty folder'}."
    if root.name in SPLIT_FOLDERS["train"] + SPLIT_FOLDERS["val"]:
        message += f" Did you mean its parent, {root.parent}?"
    return message


def _kaggle_root(root: Path) -> Path:
    """Kaggle's download keeps the two folders three levels down."""
    below = root / "ILSVRC" / "Data" / "CLS-LOC"
    return below if below.is_dir() else root


def _stamp(paths: Sequence[str | Path]) -> list[list[Any]]:
    """Of what holds the images, and of what their labels follow from."""
    stamps = []
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            found = os.stat(path)  # noqa: PTH116 (of every class folder)
            stamps.append([str(path), found.st_mtime_ns, found.st_size])
    return stamps


def _with_images(folder: Path) -> list[str]:
    """The folder, those of its classes, and the images/ in each that some data sets have."""
    classes = (f"{folder}/{name}" for name in _subfolders(folder))
    return [str(folder), *(path for c in classes for path in (c, f"{c}/images"))]


# -- class folders -----------------------------------------------------------------------------------------


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted_classes(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    return [name for name in names if name != "images" or len(names) > 1]


def _holds_class_folders(folder: Path) -> bool:
    subfolders = _subfolders(folder)
    return bool(subfolders) and any(True for _ in _walk(folder / subfolders[0]))


def _walk(folder: Path) -> Iterator[tuple[str, int]]:
    """(path, size) of every image file below, in sorted order; hidden files are left out."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda e: e.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS:  # noqa: PTH122 (a million times)
            yield entry.path, entry.stat().st_size


def _list_folders(root: Path, split: Split, folder: Path) -> Dataset:
    classes, listing, skip = _subfolders(folder), Listing(), len(str(root)) + 1
    for label, name in enumerate(classes):
        before = len(listing)
        for path, size in _walk(folder / name):
            listing.add(path[skip:], label, size)
        if len(listing) == before:
            kinds = " ".join(sorted(IMAGE_EXTENSIONS))
            hint = f"Looked for {kinds}. Remove the folder, or put its images in."
            raise DatasetError(f"The class folder {folder / name} has no images. {hint}")
    return listing.dataset(root, split, classes)


def _list_flat(root: Path, folder: Path) -> Dataset:
    files = [(path, size) for path, size in _walk(folder)]
    if not files:
        raise DatasetError(f"{folder} holds neither class folders nor images.")
    names = [path[len(str(root)) + 1 :] for path, _ in files]
    classes, labels = _numbered(val_labels(root, folder, names))
    listing = Listing()
    for name, label, (_, size) in zip(names, labels, files, strict=True):
        listing.add(name, label, size)
    return listing.dataset(root, "val", classes)


def _numbered(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Classes, and of each image its class's number, from its class's name."""
    classes = sorted_classes(set(names))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, [label_of[name] for name in names]


# -- archives ----------------------------------------------------------------------------------------------


def _class_tars(tar: Path) -> dict[str, tarfile.TarInfo]:
    """What ILSVRC2012_img_train.tar holds: a tar a class."""
    inner: dict[str, tarfile.TarInfo] = {}
    for m in members(tar):
        if m.name.endswith(".tar") and inner.setdefault(Path(m.name).stem, m) is not m:
            raise DatasetError(f"{tar} holds {m.name} twice; copy it again.")
    if not inner:
        raise DatasetError(f"{tar} holds no tar a class inside. Is it the original ILSVRC2012_img_train.tar?")
    return inner


def _list_train_tar(root: Path, tar: Path) -> Dataset:
    inner, listing = _class_tars(tar), Listing()
    classes = sorted_classes(inner)
    for label, name in enumerate(classes):
        begin, end, before = inner[name].offset_data, inner[name].offset_data + inner[name].size, len(listing)
        for m in members(tar, begin, end):
            if is_image(m.name):
                listing.add(f"{name}/{m.name}", label, m.size, container=0, offset=m.offset_data)
        if len(listing) == before:
            raise DatasetError(f"The class archive {name}.tar in {tar} has no images.")
        if label % 100 == 99:
            log.info("Listed %d of %d classes in %s", label + 1, len(classes), tar.name)
    return listing.dataset(root, "train", classes, [tar])


def _list_val_tar(root: Path, tar: Path) -> Dataset:
    found = sorted((m for m in members(tar) if is_image(m.name)), key=lambda m: m.name)
    classes, labels = _numbered(val_labels(root, None, [m.name for m in found]))
    listing = Listing()
    for m, label in zip(found, labels, strict=True):
        listing.add(m.name, label, m.size, container=0, offset=m.offset_data)
    return listing.dataset(root, "val", classes, [tar])


def _shards(root: Path, split: Split, shards: list[Path]) -> Layout:
    names = next((p for p in (shards[0].parent / CLASS_FILE, root / CLASS_FILE) if p.is_file()), None)
    return Layout(f"{len(shards)} shards", lambda: list_shards(root, split, shards, names),
                  lambda: _stamp([*shards, *([names] if names else [])]))  # fmt: skip
