"""A `Dataset` in a file, so that its images are listed once: in the cache folder, or beside a pack.

    a checksum of all that follows | a JSON text: stamp, root, classes, containers, fingerprint | the arrays

Each part is an array in numpy's format (NEP 1). The arrays are mapped into memory, not read: fifteen million images
load in half a second, and processes on one machine share them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from numpy.typing import NDArray

from ..cache import cache_folder
from ..files import whole_file
from ..geometry import SHORT_SIDE
from .images import Dataset, Split, Stored, StringTable
from .regular import open_regular

log = logging.getLogger("alexnet")

RAW_BYTES = SHORT_SIDE**2 * 3
MOST_BYTES = 2**31 - 2**12  # Linux reads no more at once

VERSION = 4  # of the file format
LISTING = 3  # of the rules that turn files into a list; a pack's index does not depend on them
ARRAYS = ("labels", "container", "offsets", "lengths")


def index_path(root: Path, split: Split) -> Path | None:
    """Return where the list of a split's images is kept; None without a cache folder."""
    folder = cache_folder()
    return folder and folder / "index" / f"{_digest(os.fsencode(f'{root}|{split}'))}.index"


def stamp_of(root: Path, split: Split, description: str, files: list[list[Any]]) -> str:
    """Return a digest of what a listing depends on, besides the folders that were read for it.

    `description` is the layout's; `files` are the [path, modification time, size] that `Layout.stamp` gives.
    """
    return _digest(json.dumps([VERSION, LISTING, str(root), split, description, files]).encode())


def keep_index(path: Path, stamp: str, dataset: Dataset, folders: dict[str, int] | None = None) -> None:
    """Save the index, or warn that it cannot be saved."""
    try:
        save_index(path, stamp, dataset, folders)
    except OSError as error:
        log.warning("The list of images could not be cached in %s (%s); it is made again each time.", path, error)


def save_index(path: Path, stamp: str, dataset: Dataset, folders: dict[str, int] | None = None) -> None:
    """Write the index; if that fails, raise OSError and leave what was there before.

    `folders` are those that were read, with the times of their last change: a file that comes or goes changes one.
    """
    facts = {
        "stamp": stamp,
        "folders": folders or {},
        "root": str(dataset.root),  # Kaggle's is below the folder given
        "classes": dataset.classes,
        "containers": [str(c) for c in dataset.containers],
        "raw": dataset.stored == "raw",  # all that indexes told before there were other packs
        "stored": dataset.stored,
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
    """Load the data set as it was saved; return None if none has this stamp, or if a folder has changed."""
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
            stored=facts.get("stored", "raw" if facts["raw"] else "encoded"),
            **dict(zip(ARRAYS, arrays, strict=True)),  # type: ignore[arg-type]
        )
        _check(dataset)
    except FileNotFoundError:
        return None
    except Exception as error:  # damage makes numpy raise many kinds of errors
        log.warning("The cached list of images %s is damaged (%s); making a new one.", path, error)
        return None
    vars(dataset)["fingerprint"] = facts["fingerprint"]  # what the property would compute
    return dataset


def _changed(folders: dict[str, int]) -> bool:
    """Return whether files have come or gone since these folders were read; look only at the folders themselves."""
    try:
        return any(os.stat(folder).st_mtime_ns != time for folder, time in folders.items())  # noqa: PTH116
    except OSError:
        return True


def _check(dataset: Dataset) -> None:
    """Raise ValueError for impossible values. Anyone can have made a pack's index: it must stay within the pack."""
    limits = {
        "labels": (0, len(dataset.classes) - 1),
        "container": (0, len(dataset.containers) - 1) if dataset.containers else (-1, -1),
        "offsets": (0, np.inf),
        "lengths": (RAW_BYTES, RAW_BYTES) if dataset.stored == "raw" else (0, MOST_BYTES),
    }
    for key, (low, high) in limits.items():
        array = getattr(dataset, key)
        if array.shape != dataset.names.ends.shape or array.min() < low or array.max() > high:
            raise ValueError(f"impossible {key}")
    if dataset.stored not in get_args(Stored):
        raise ValueError(f"impossible stored: {dataset.stored}")


def _map_array(file: BufferedReader) -> NDArray[Any]:
    """Map, read-only, the array that `np.save` wrote at the current position; move the position past it."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    array = np.asarray(np.memmap(file, dtype, "r", start, shape))
    file.seek(start + array.nbytes)
    return array


def _checksum(file: BinaryIO, start: int) -> int:
    """Return the CRC-32 of a file from byte `start` to its end."""
    file.seek(start)
    checksum = 0
    while part := file.read(1 << 24):
        checksum = zlib.crc32(part, checksum)
    return checksum


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()
