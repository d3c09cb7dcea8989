"""Where the images of a data set are.

A `Dataset` is a list of extents (container, offset, length, label) and the class names. A plain file is a
container of its own; a member of a tar archive is a stretch of bytes inside one, read in place. Nothing is
decoded and nothing is unpacked here. `layouts.py` finds the extents, `index.py` keeps a list of them, `plan.py`
decides their order. What should be an image and is no file that can be read has a length of 0, and is not opened.
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .cache import can_keep
from .regular import NotRegular, check_regular, open_regular, read_regular

if TYPE_CHECKING:
    from .layouts import Layout

Split = Literal["train", "val"]

log = logging.getLogger("alexnet")

DEFAULT_DATA = Path("/data/imagenet")
CACHE_FROM_IMAGES = 20_000  # smaller data sets are listed anew each time: it takes less than half a second


class DatasetError(ValueError):
    """The data set is not there, or not as it should be; the message says where, what and what to do."""


class NoSplit(DatasetError):
    """There is a data set, and nothing of this split in it."""


@dataclass(frozen=True, eq=False)
class StringTable:
    """Many strings in two arrays, so that fifteen million names cost their bytes and little more."""

    blob: NDArray[np.uint8]  # every string in UTF-8, end to end
    ends: NDArray[np.int64]  # (n,): where each ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        start = int(self.ends[i - 1]) if i > 0 else 0
        return self.blob[start : int(self.ends[i])].tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    `containers[container[i]]` is the archive that holds image i, or, where `container[i]` is -1, the image is
    the file `root / names[i]` itself. Lengths are bytes of encoded image.
    """

    root: Path
    split: Split
    classes: tuple[str, ...]
    names: StringTable
    labels: NDArray[np.int32]
    container: NDArray[np.int32]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    containers: tuple[Path, ...] = ()
    raw: bool = False  # pixels of 256-squares, uint8 (256, 256, 3), instead of encoded images
    _descriptors: dict[int, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over class names, image names, lengths and labels: what the images are, not where."""
        digest = hashlib.blake2b(digest_size=16)
        classes = "\n".join(self.classes).encode("utf-8", "surrogateescape")
        for part in (classes, self.names.blob, self.names.ends, self.lengths, self.labels):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def name(self, i: int) -> str:
        """The image's name for people: its path below the root, or `archive:member`."""
        where = int(self.container[i])
        return self.names[i] if where < 0 else f"{self.containers[where].name}:{self.names[i]}"

    def read(self, i: int) -> NDArray[np.uint8]:
        """The encoded bytes of image i, uint8 (length,). Safe to call from many threads.

        Raises OSError when the file is gone, `NotRegular` when it is something else, `DatasetError` when its size is no
        longer what was listed.
        """
        where, length = int(self.container[i]), int(self.lengths[i])
        if where < 0:
            data = read_regular(os.path.join(self.root, self.names[i]), listed_as_such=length > 0)  # noqa: PTH118 (hot)
        else:
            data = os.pread(self._descriptor(where), length, int(self.offsets[i]))
        if len(data) != length:
            hint = "start again with --rescan, which lists it anew"
            raise DatasetError(f"has {len(data)} bytes where {length} were listed: the data set has changed; {hint}")
        return np.frombuffer(data, np.uint8)

    def subset(self, indices: NDArray[np.int64]) -> Dataset:
        """These images alone, in this order."""
        names = [self.names[i].encode("utf-8", "surrogateescape") for i in indices.tolist()]
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        table = StringTable(np.frombuffer(b"".join(names), np.uint8), ends)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        picked: dict[str, Any] = {key: a[indices] for key, a in values.items() if isinstance(a, np.ndarray)}
        return replace(self, names=table, _descriptors={}, **picked)

    def _descriptor(self, where: int) -> int:
        descriptor = self._descriptors.get(where)
        if descriptor is None:
            opened = open_regular(self.containers[where])
            descriptor = self._descriptors.setdefault(where, opened)
            if descriptor != opened:  # another thread was first
                os.close(opened)
        return descriptor

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class Listing:
    """Grows a `Dataset` one image at a time without a Python object an image."""

    def __init__(self) -> None:
        self._blob = bytearray()
        self._ends, self._offsets, self._lengths = array("q"), array("q"), array("q")
        self._labels, self._container = array("i"), array("i")

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, name: str, label: int, length: int, *, container: int = -1, offset: int = 0) -> None:
        self._blob += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._blob))
        self._labels.append(label)
        self._lengths.append(length)
        self._container.append(container)
        self._offsets.append(offset)

    def dataset(
        self, root: Path, split: Split, classes: Iterable[str], containers: Iterable[Path] = (), raw: bool = False
    ) -> Dataset:
        return Dataset(
            root=root,
            split=split,
            classes=tuple(classes),
            names=StringTable(np.frombuffer(self._blob, np.uint8), np.asarray(self._ends, np.int64)),
            labels=np.asarray(self._labels, np.int32),
            container=np.asarray(self._container, np.int32),
            offsets=np.asarray(self._offsets, np.int64),
            lengths=np.asarray(self._lengths, np.int64),
            containers=tuple(containers),
            raw=raw,
        )


def locate(data: Path | None) -> Path:
    """DATA as given, else $ALEXNET_DATA, else /data/imagenet."""
    if data is not None:
        where, source = data, "given"
    elif os.environ.get("ALEXNET_DATA"):
        where, source = Path(os.environ["ALEXNET_DATA"]), "from $ALEXNET_DATA"
    else:
        where, source = DEFAULT_DATA, "the default"
    if not where.exists():
        hint = "Pass the folder that holds train/ and val/, or set ALEXNET_DATA."
        raise DatasetError(f"No data set at {where} ({source}). {hint}")
    if not where.is_dir():
        raise DatasetError(f"{where} is a file. Pass the folder that holds it; archives in it are read in place.")
    return where.resolve()


def from_files(paths: Sequence[Path]) -> Dataset:
    """Images named one by one, without labels, as a data set."""
    listing = Listing()
    for path in paths:
        try:
            check_regular(path)
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(f"There is no image file {path}.") from None
        except NotRegular as error:
            raise DatasetError(f"{path} is {error}. Give image files.") from error
        listing.add(str(path), 0, path.stat().st_size)
    return listing.dataset(Path(), "val", ())


def open_dataset(data: Path | None, split: Split, *, rescan: bool = False) -> Dataset:
    """The images of one split, from any layout in `layouts.py`; large data sets are listed once and cached.

    The labels of a validation split count in the classes of the training split, where there is one. `rescan` lists
    anew, as is needed when a file was replaced in place. Raises `NoSplit` where there is nothing of the split.
    """
    from .classes import in_training_classes  # the modules need each other's types
    from .layouts import find_layout

    root = locate(data)
    layout = find_layout(root, split)
    dataset = _open_layout(root, split, layout, rescan)
    if layout.remark:
        log.info(layout.remark)
    if left_out := layout.describe_left_out():
        log.info("%s split of %s: %s", split, root, left_out)
    if split == "train" or (trained := _training_classes(root)) is None:
        return dataset
    return in_training_classes(dataset, trained)


def _training_classes(root: Path) -> Sequence[str] | None:
    from .layouts import find_layout

    try:
        layout = find_layout(root, "train")
    except NoSplit:  # a validation split alone
        return None
    return layout.list_classes() if layout.list_classes else _open_layout(root, "train", layout).classes


def _open_layout(root: Path, split: Split, layout: Layout, rescan: bool = False) -> Dataset:
    """A split with classes of its own."""
    from . import index

    path, stamp = index.index_path(root, split), index.stamp_of(root, split, layout)
    if path and not rescan and (cached := index.load_index(path, stamp, split)) is not None:
        return cached
    dataset = layout.list_images(rescan)
    if len(dataset) == 0:
        where = f"No images under {root} for split '{split}' ({layout.describe})."
        raise DatasetError(f"{where} {layout.describe_left_out()}".strip())
    if len(dataset) >= CACHE_FROM_IMAGES and can_keep() and path:
        index.keep_index(path, stamp, dataset, layout.folders)
    return dataset


def open_splits(data: Path | None, splits: Sequence[Split], *, rescan: bool = False) -> list[Dataset]:
    """These splits; where none is named those that there are, with a word of one that is missing."""
    if splits:
        return [open_dataset(data, split, rescan=rescan) for split in splits]
    found, missing = list[Dataset](), list[NoSplit]()
    for split in get_args(Split):
        try:
            found.append(open_dataset(data, split, rescan=rescan))
        except NoSplit as error:
            missing.append(error)
    if not found:
        raise missing[0]
    for absent in missing:
        log.warning("Only the %s split is there. %s", found[0].split, absent)
    return found
