"""A data set in memory: where the bytes of each image are, and its label.

A `Dataset` is a list of extents (container, offset, length, label) and the class names. An image is a plain file, or a
stretch of bytes inside a tar archive, read in place: nothing is decoded or unpacked here. An entry that should be an
image but is not a readable file has a length of 0. `layouts.py` makes data sets, `index.py` keeps them in files,
`open.py` uses both.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from .regular import open_regular, read_regular
from .selection import EVERYTHING, Selection

if TYPE_CHECKING:  # local data need none of it
    from ..remote.shards import RemoteShards

Split = Literal["train", "val"]
# How images are stored: as files of any format; or, in packs, as pixels of 256-squares, uint8 (256, 256, 3), or as
# quantised DCT coefficients of such squares (`decode/dct.py`).
Stored = Literal["encoded", "raw", "dct"]
TAKEN_AT_ONCE = 1 << 16  # strings
KEPT_OPEN = 256  # archives of one data set: most systems allow a process 1,024 open files


@dataclass(frozen=True, eq=False)
class StringTable:
    """Many strings in two arrays, so that fifteen million names cost little more than their bytes."""

    blob: NDArray[np.uint8]  # every string in UTF-8, end to end
    ends: NDArray[np.int64]  # (n,): where each ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        start = int(self.ends[i - 1]) if i > 0 else 0
        return self.blob[start : int(self.ends[i])].tobytes().decode("utf-8", "surrogateescape")

    def take(self, indices: NDArray[np.int64]) -> StringTable:
        """Return a table of these strings, in this order."""
        begins = np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])[indices]
        lengths = self.ends[indices] - begins
        ends = np.cumsum(lengths, dtype=np.int64)
        blob = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        for first in range(0, len(ends), TAKEN_AT_ONCE):
            part = slice(first, first + TAKEN_AT_ONCE)
            start, stop = int(ends[first] - lengths[first]), int(ends[part][-1])
            shift = np.repeat(begins[part] + lengths[part] - ends[part], lengths[part])
            blob[start:stop] = self.blob[np.arange(start, stop) + shift]
        return StringTable(blob, ends)


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    `containers[container[i]]` is the archive that holds image i, or, where `container[i]` is -1, the image is
    the file `root / names[i]` itself. Lengths are bytes of encoded image. If the archives are `remote`, they are read
    through its cache, and `root` is a local folder with the small files beside them.
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
    stored: Stored = "encoded"
    selection: Selection = EVERYTHING  # which of the images there are
    remote: RemoteShards | None = None
    _descriptors: dict[int, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def where(self) -> str:
        """The data set's folder or URL, for people and as DATA."""
        return self.remote.url if self.remote else str(self.root)

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
        """Return the image's name for people: its path below the root, or `archive:member`."""
        where = int(self.container[i])
        return self.names[i] if where < 0 else f"{self.containers[where].name}:{self.names[i]}"

    def read(self, i: int) -> NDArray[np.uint8]:
        """Return the encoded bytes of image i, uint8 (length,). Safe to call from many threads.

        Raise OSError if the file is gone, `NotRegular` if it is something else, `DatasetError` if its size has changed,
        `RemoteError` if its shard cannot be fetched.
        """
        where, length = int(self.container[i]), int(self.lengths[i])
        if where < 0:
            data = read_regular(os.path.join(self.root, self.names[i]), listed_as_such=length > 0)  # noqa: PTH118 (hot)
        elif self.remote is not None:
            data = self.remote.read(where, length, int(self.offsets[i]))
        else:
            data = self._read_archive(where, length, int(self.offsets[i]))
        if len(data) != length:
            hint = "start again with --rescan, which lists it again"
            raise DatasetError(f"has {len(data)} bytes where {length} were listed: the data set has changed; {hint}")
        return np.frombuffer(data, np.uint8)

    def until(self, stop: Event) -> Dataset:
        """Return the same data set for readers that are to wait for no remote shard any longer once `stop` is set."""
        return replace(self, remote=self.remote.until(stop), _descriptors={}) if self.remote else self

    @contextmanager
    def while_reading(self) -> Iterator[Dataset]:
        """Provide the data set; at the end of the block, also by an error or Ctrl-C, no reader waits any longer."""
        stop = Event()
        try:
            yield self.until(stop)
        finally:
            stop.set()

    def ahead(self, indices: NDArray[np.integer]) -> Callable[[int], None]:
        """Prepare to read these images in this order. Call the result with each position that reading has reached."""
        return self.remote.ahead(self.container[indices]) if self.remote else lambda position: None

    def subset(self, indices: NDArray[np.int64]) -> Dataset:
        """Return a data set of these images alone, in this order."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        picked: dict[str, Any] = {key: a[indices] for key, a in values.items() if isinstance(a, np.ndarray)}
        return replace(self, names=self.names.take(indices), _descriptors={}, **picked)

    def _read_archive(self, where: int, length: int, offset: int) -> bytes:
        """Read from an archive, which stays open unless many others are."""
        if (kept := self._descriptors.get(where)) is not None:
            return os.pread(kept, length, offset)
        opened = open_regular(self.containers[where])
        keep = len(self._descriptors) < KEPT_OPEN and self._descriptors.setdefault(where, opened) == opened
        try:
            return os.pread(opened, length, offset)
        finally:
            if not keep:  # or another thread was first
                os.close(opened)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the descriptors: a copy, perhaps in another process, opens its archives itself."""
        return vars(self) | {"_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


class Listing:
    """A `Dataset` in the making, one image at a time, without a Python object for each."""

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
        self,
        root: Path,
        split: Split,
        classes: Iterable[str],
        containers: Iterable[Path] = (),
        stored: Stored = "encoded",
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
            stored=stored,
        )
