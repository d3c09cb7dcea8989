"""A folder of features: what is in it, how it is filled, how it is opened.

    features.npy    (n, ...), a row for each image that can be used, in the data set's order
    index.jsonl     a line for each row: name, label, class
    features.json   a `Description`: which network, layer and images, and the images that were left out

`features.py` computes the rows. They go to a file of another name that has a row for each image of the data set; beside
it is a byte for each row, which is set once the row is on disk, so that the ranks write where they please and an
interrupted pass goes on. features.npy appears when it is whole, and last: a folder that has it is complete.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..pipeline.dataset.images import Dataset, Split
from ..pipeline.errors import FeaturesError
from ..pipeline.files import naming, sync_folder, whole_file, write_atomically

FORMAT, VERSION = "alexnet-features", 1
ARRAY, INDEX, RECORD = "features.npy", "index.jsonl", "features.json"
ROWS, DONE = ".features.npy.part", ".features.done"  # while a folder is filled
COPIED_AT_ONCE = 2**24  # bytes

Pool = Literal["none", "mean"]
Dtype = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class Description:
    """What features are of, and how they were computed: features.json."""

    checkpoint: str  # a name for people
    network: str  # fingerprint of its parameters, configuration and treatment
    layer: str
    pool: Pool
    views: int
    dtype: Dtype
    images: str  # the data set's folder, for people
    split: Split
    dataset: str  # fingerprint
    decode: str  # and on which kind of device
    max_pixels: int
    shape: tuple[int, ...]  # of the array; while the folder is filled with a row for every image, bad or not
    classes: tuple[str, ...]  # that labels count in
    versions: dict[str, str]
    bad: dict[str, str] = field(default_factory=dict)  # images without a row, with reasons

    def save(self, folder: Path) -> None:
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write_atomically(folder / RECORD, json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> Description:
        """FeaturesError where the folder has none that this version can read."""
        path = folder / RECORD
        try:
            content = json.loads(path.read_bytes())
            if content.pop("format") != FORMAT:
                raise ValueError("it is of another program")
            if (version := content.pop("version")) > VERSION:
                raise ValueError(f"version {version} is newer than this program's, {VERSION}")
            lists: dict[str, Any] = {name: tuple(content.pop(name)) for name in ("shape", "classes")}
            return cls(**content, **lists)
        except (FileNotFoundError, NotADirectoryError):
            raise FeaturesError(f"There are no features in {folder}: it has no {RECORD}.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FeaturesError(f"{path} does not describe features of alexnet: {error}") from error


@dataclass(frozen=True)
class Features:
    """Row i of `array` is image `names[i]`, of class `about.classes[labels[i]]`; its label is -1 if it has no class."""

    array: NDArray[Any]  # float32 or float16 (n, ...), mapped: read as it is used
    names: list[str]
    labels: NDArray[np.int64]  # (n,)
    about: Description


def open_features(folder: Path) -> Features:
    """Features that `alexnet features` has written; FeaturesError where the folder is anything else, or damaged."""
    about = Description.load(folder)
    path = folder / ARRAY
    if not path.exists():
        raise FeaturesError(f"{folder} is not complete: give the command that began it again.")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy's parser of headers raises many types
        raise FeaturesError(f"{path} is damaged or cut short: {error}") from error
    expected, found = (about.dtype, about.shape), (str(array.dtype), array.shape)
    if found != expected:
        raise FeaturesError(f"{path} is not the array of its {RECORD}: expected {expected}, found {found}.")
    names, labels = _read_index(folder / INDEX)
    if len(names) != len(array):
        raise FeaturesError(f"{folder / INDEX} has {len(names)} lines for the {len(array)} rows of {ARRAY}.")
    return Features(array, names, labels, about)


def _read_index(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    names, labels = [], []
    try:
        with path.open("rb") as lines:
            for line in lines:
                entry = json.loads(line)
                labels.append(-1 if entry["label"] is None else int(entry["label"]))
                names.append(str(entry["name"]))
    except FileNotFoundError:
        raise FeaturesError(f"{path} is missing.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FeaturesError(f"{path}, line {len(names) + 1}, is damaged: {error}") from error
    return names, np.array(labels, np.int64)


def begin(folder: Path, wanted: Description) -> bool:
    """Make the folder ready for its rows, with those of an earlier call; return whether it is complete already.

    Raise FeaturesError where it holds something else.
    """
    begun = (folder / RECORD).exists()
    if begun:
        _check_same(folder, Description.load(folder), wanted)
    elif taken := [name for name in (ARRAY, INDEX) if (folder / name).exists()]:
        raise FeaturesError(f"{folder} holds a {taken[0]} that is not ours. Use another folder.")
    if (folder / ARRAY).exists():
        return True
    sizes = {folder / ROWS: len(_header(wanted)) + _num_bytes(wanted), folder / DONE: wanted.shape[0]}
    if begun and all(path.exists() and path.stat().st_size == size for path, size in sizes.items()):
        return False
    with naming(folder / ROWS), (folder / ROWS).open("wb") as file:
        file.write(_header(wanted))
        file.flush()
        os.posix_fallocate(file.fileno(), 0, sizes[folder / ROWS])  # a full disk is met now or never
        os.fsync(file.fileno())
    write_atomically(folder / DONE, bytes(wanted.shape[0]))
    wanted.save(folder)
    return False


def _check_same(folder: Path, found: Description, wanted: Description) -> None:
    """Refuse to go on with features that would be other numbers; where the files lie does not matter."""
    options = ("layer", "pool", "views", "dtype", "decode", "max_pixels")
    problems = [f"another {name}" for name in ("network", "dataset") if getattr(found, name) != getattr(wanted, name)]
    problems += [
        f"{name} {getattr(found, name)} (not {getattr(wanted, name)})"
        for name in options
        if getattr(found, name) != getattr(wanted, name)
    ]
    if problems:
        raise FeaturesError(f"{folder} holds features with {', '.join(problems)}. Use another folder.")


def _num_bytes(about: Description) -> int:
    return int(np.prod(about.shape, dtype=np.int64)) * np.dtype(about.dtype).itemsize


def _header(about: Description) -> bytes:
    """What comes before the rows in numpy's format."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(about.dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": about.shape})
    return buffer.getvalue()


class RowFile:
    """The rows of a folder that `begin` has made ready, of which this process writes some.

    They are written, not mapped: mapped rows count as memory of the process.
    """

    def __init__(self, folder: Path, about: Description) -> None:
        self._path = folder / ROWS
        self._rows, self._marks = (folder / ROWS).open("r+b"), (folder / DONE).open("r+b", buffering=0)
        self._start, self._row_bytes = len(_header(about)), _num_bytes(about) // about.shape[0]
        self._done = np.frombuffer(bytearray(self._marks.read()), np.uint8)
        self._unsynced = list[NDArray[np.int64]]()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._marks.close()

    def missing(self) -> NDArray[np.int64]:
        """The rows that are not on disk yet, ascending."""
        return np.flatnonzero(self._done == 0)

    def write(self, indices: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write rows (b, ...) at ascending indices, above all that this process wrote before."""
        with naming(self._path):
            for run in _runs(indices):
                first = int(np.searchsorted(indices, run[0]))
                self._rows.seek(self._start + int(run[0]) * self._row_bytes)
                self._rows.write(values[first : first + len(run)].data)
        self._unsynced.append(indices)

    def sync(self) -> None:
        """Put what was written on disk, and then down as done."""
        if not self._unsynced:
            return
        first, last = int(self._unsynced[0][0]), int(self._unsynced[-1][-1])
        with naming(self._path):
            self._rows.flush()
            os.fsync(self._rows.fileno())
            self._done[np.concatenate(self._unsynced)] = 1
            self._marks.seek(first)
            self._marks.write(self._done[first : last + 1].data)  # of nobody else: ranks have rows side by side
            os.fsync(self._marks.fileno())
        self._unsynced.clear()


def finish(folder: Path, wanted: Description, dataset: Dataset, bad: dict[int, str]) -> None:
    """Complete a folder whose rows are all on disk but for those of `bad`, which it then has no longer."""
    good = np.setdiff1d(np.arange(len(dataset)), list(bad))
    about = replace(
        wanted,
        shape=(len(good), *wanted.shape[1:]),
        bad={dataset.name(index): reason for index, reason in bad.items()},
    )
    with naming(folder / INDEX), whole_file(folder / INDEX) as file:
        for index in good.tolist():
            file.write(_index_line(dataset, index))
    about.save(folder)
    if bad:
        _copy_rows(folder, wanted, about, good)
        (folder / ROWS).unlink()
    else:
        (folder / ROWS).replace(folder / ARRAY)
        sync_folder(folder)
    (folder / DONE).unlink()


def _index_line(dataset: Dataset, index: int) -> bytes:
    label = int(dataset.labels[index]) if dataset.classes else None
    known = None if label is None else dataset.classes[label]
    return json.dumps({"name": dataset.name(index), "label": label, "class": known}).encode() + b"\n"


def _copy_rows(folder: Path, whole: Description, about: Description, good: NDArray[np.int64]) -> None:
    """Write the array without the rows of bad images."""
    start, row_bytes = len(_header(whole)), _num_bytes(whole) // whole.shape[0]
    path = folder / ARRAY
    with naming(path), (folder / ROWS).open("rb") as rows, whole_file(path, _num_bytes(about)) as file:
        file.write(_header(about))
        for run in _runs(good):
            rows.seek(start + int(run[0]) * row_bytes)
            left = len(run) * row_bytes
            while left:
                left -= file.write(rows.read(min(left, COPIED_AT_ONCE)))


def _runs(indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Ascending indices in parts without gaps."""
    return np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
