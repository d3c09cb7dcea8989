"""A `Dataset` in a file, so that its images are listed once: in the cache folder, or beside a pack.

    a checksum of all that follows | a JSON text: stamp, root, classes, containers, fingerprint | the arrays

Each part is an array in numpy's format (NEP 1). The arrays are mapped into memory, not read: fifteen million images
are there in half a second, and processes on one machine share them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..cache import cache_folder
from ..files import whole_file
from .images import Dataset, Split, StringTable
from .regular import open_regular

log = logging.getLogger("alexnet")

VERSION = 4  # of the file
LISTING = 3  # of what a listing says of the same files; a pack's, which says what its shards say, stays
ARRAYS = ("labels", "container", "offsets", "lengths")


def index_path(root: Path, split: Split) -> Path | None:
    """Where the list of a split's images is kept; None without a cache folder."""
    folder = cache_folder()
    return folder and folder / "index" / f"{_digest(os.fsencode(f'{root}|{split}'))}.index"


def stamp_of(root: Path, split: Split, description: str, files: list[list[Any]]) -> str:
    """A digest of what a listing depends on besides the folders that were read for it.

    `description` is the layout's; `files` are the [path, modification time, size] that `Layout.stamp` gives.
    """
    return _digest(json.dumps([VERSION, LISTING, str(root), split, description, files]).encode())


def keep_index(path: Path, stamp: str, dataset: Dataset, folders: dict[str, int] | None = None) -> None:
    """Save the index, or warn that it cannot be saved."""
    try:
        save_index(path, stamp, dataset, folders)
    except OSError as error:
        log.warning("The list of images could not be cached in %s (%s); it is made anew each time.", path, error)


def save_index(path: Path, stamp: str, dataset: Dataset, folders: dict[str, int] | None = None) -> None:
    """Write the index; raise OSError where that fails, and leave what was there before.

    `folders` are those that were read, with the times of their last change: a file that comes or goes changes one.
    """
    facts = {
        "stamp": stamp,
        "folders": folders or {},
        "root": str(dataset.root),  # Kaggle's lies below the folder given
        "classes": dataset.classes,
        "containers": [str(c) for c in dataset.containers],
        "raw": dataset.raw,
        "fingerprint": dataset.fingerprint,
    }
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    with whole_file(path) as file:
        np.save(file, np.uint32(0))
        start = file.tell()
        arrays = [getattr(dataset, key) for key in ARRAYS]
        for array in (text, dataset.names.blob, dataset.names.ends, *arrays):
            np.save(file, array)
        checksum = _checksum(file, start)
        file.seek(0)
        np.save(file, np.uint32(checksum))


def load_index(path: Path, stamp: str, split: Split) -> Dataset | None:
    """The data set as it was saved; None where there is none of this stamp, or a folder has changed."""
    try:
        with open(open_regular(path), "rb") as file:  # noqa: PTH123 (a descriptor)
            expected = int(np.load(file))
            start = file.tell()
            facts = json.loads(np.load(file).tobytes())
            if facts["stamp"] != stamp or _changed(facts.get("folders", {})):
                return None
            blob, ends, *arrays = (_map_array(file) for _ in range(2 + len(ARRAYS)))
            if _checksum(file, start) != expected:
                raise ValueError("its checksum is wrong")
        dataset = Dataset(
            root=Path(facts["root"]),
            split=split,
            classes=tuple(facts["classes"]),
            names=StringTable(blob, ends),
            containers=tuple(Path(c) for c in facts["containers"]),
            raw=facts["raw"],
            **dict(zip(ARRAYS, arrays, strict=True)),  # type: ignore[arg-type]
        )
        _check(dataset)
    except FileNotFoundError:
        return None
    except Exception as error:  # numpy meets damage with errors of many kinds
        log.warning("The cached list of images %s is damaged (%s); it is made anew.", path, error)
        return None
    vars(dataset)["fingerprint"] = facts["fingerprint"]  # what the cached property would find, from the same arrays
    return dataset


def _changed(folders: dict[str, int]) -> bool:
    """Whether files have come or gone since these folders were read; only the folders themselves are looked at."""
    try:
        return any(os.stat(folder).st_mtime_ns != time for folder, time in folders.items())  # noqa: PTH116
    except OSError:
        return True


def _check(dataset: Dataset) -> None:
    """Raise ValueError at what cannot be. A pack's index may come from anyone: it must not point outside the pack."""
    limits = {
        "labels": (0, len(dataset.classes) - 1),
        "container": (0, len(dataset.containers) - 1) if dataset.containers else (-1, -1),
        "offsets": (0, np.inf),
        "lengths": (0, np.inf),
    }
    for key, (low, high) in limits.items():
        array = getattr(dataset, key)
        if array.shape != dataset.names.ends.shape or array.min() < low or array.max() > high:
            raise ValueError(f"its {key} cannot be")


def _map_array(file: BufferedReader) -> NDArray[Any]:
    """The array that `np.save` wrote at the present position, mapped read-only; move the position behind it."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    array = np.asarray(np.memmap(file, dtype, "r", start, shape))
    file.seek(start + array.nbytes)
    return array


def _checksum(file: BinaryIO, start: int) -> int:
    """CRC-32 of a file from byte `start` to its end."""
    file.seek(start)
    checksum = 0
    while part := file.read(1 << 24):
        checksum = zlib.crc32(part, checksum)
    return checksum


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()
