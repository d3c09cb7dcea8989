"""A number for each image that depends on its name alone, by which `choose.py` takes some and leaves others.

    key      the class, and the image's path in the class folder without its extension: n01440764/n01440764_10026
    number   the 64-bit FNV-1a hash of "<seed>/<key>" in UTF-8, finished as MurmurHash3 does, so that all bits are even

An image keeps its number when others come or go, wherever the data set lies, and in a pack, which keeps the keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from .images import Dataset, Split
from .record import read_record
from .splits import ILSVRC_TARS

PREFIX = 9  # bytes that a pack puts before a name: eight digits, the image's place in its data set, and a hyphen
OFFSET, PRIME, MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1  # of FNV-1a
AT_ONCE = 1 << 17  # images, which stay in a core's cache


@dataclass(frozen=True)
class Keys:
    """What each image is called in its class: bytes `starts[i]` to `stops[i]` of `blob`."""

    blob: NDArray[np.uint8]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def have_other_than(self, usual: bytes) -> NDArray[np.bool_]:
        """Return which keys, bool (n,), have bytes that are not among the usual ones."""
        is_other = ~np.isin(np.arange(256), list(usual))
        found, lengths = np.zeros(len(self.starts), np.bool_), self.stops - self.starts
        for column in range(int(lengths.max())):
            longer = np.flatnonzero(lengths > column)
            found[longer] |= is_other[self.blob[self.starts[longer] + column]]
        return found

    def __getitem__(self, i: int) -> str:
        return self.blob[self.starts[i] : self.stops[i]].tobytes().decode("utf-8", "surrogateescape")


def image_numbers(dataset: Dataset, seed: int) -> NDArray[np.uint64]:
    """Return the number of each image, uint64 (n,), evenly spread."""
    keys = image_keys(dataset)
    begun = [_fnv1a(f"{seed}/{name}/".encode("utf-8", "surrogateescape")) for name in dataset.classes]
    numbers = np.array(begun, np.uint64)[dataset.labels]
    for first in range(0, len(numbers), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        _go_on(numbers[part], keys.blob, keys.starts[part], keys.stops[part])
        _finish(numbers[part])
    return numbers


def _fnv1a(text: bytes) -> int:
    state = OFFSET
    for byte in text:
        state = (state ^ byte) * PRIME & MASK
    return state


def _go_on(
    states: NDArray[np.uint64], blob: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> None:
    """Take the bytes of the keys into the states of their hashes, the first byte of all, then the second, ..."""
    lengths, prime = stops - starts, np.uint64(PRIME)
    shortest, longest = int(lengths.min()), int(lengths.max())
    for column in range(shortest):
        states ^= blob[starts + column]
        states *= prime
    for column in range(shortest, longest):
        longer = np.flatnonzero(lengths > column)
        states[longer] = (states[longer] ^ blob[starts[longer] + column]) * prime


def _finish(states: NDArray[np.uint64]) -> None:
    """MurmurHash3's `fmix64`: FNV-1a alone says little about a key's last bytes in its high bits."""
    shift = np.uint64(33)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        states ^= states >> shift
        states *= np.uint64(factor)
    states ^= states >> shift


# -- keys --------------------------------------------------------------------------------------------------


def image_keys(dataset: Dataset) -> Keys:
    """Return what each image is called in its class."""
    blob, stops = dataset.names.blob, dataset.names.ends
    starts = np.concatenate([np.zeros(1, np.int64), stops[:-1]])
    stops = _before_extension(blob, starts, stops)
    skipped = _before_class(dataset)
    if skipped is not None:
        skip = np.array([skipped + len(name.encode("utf-8", "surrogateescape")) + 1 for name in dataset.classes])
        return Keys(blob, np.minimum(starts + skip[dataset.labels], stops), stops)
    if prefixes := num_prefixes(dataset):
        return _with_kept_names(Keys(blob, np.minimum(starts + PREFIX * prefixes, stops), stops), starts, dataset)
    return Keys(blob, starts, stops)


def _before_extension(
    blob: NDArray[np.uint8], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return where names end without their extensions, which have three or four letters."""
    found = stops.copy()
    for size in (5, 4):
        dots = np.maximum(stops - size, 0)
        np.copyto(found, dots, where=(dots > starts) & (blob[dots] == ord(".")))
    return found


def _before_class(dataset: Dataset) -> int | None:
    """The number of bytes before the class in the names of a data set of class folders; None for other names."""
    if not dataset.containers and dataset.classes:
        first = dataset.names[0]
        folder = first.partition("/")[0] + "/"
        of_class = first.startswith(f"{folder}{dataset.classes[dataset.labels[0]]}/")
        return len(folder.encode("utf-8", "surrogateescape")) if of_class else None
    return 0 if [path.name for path in dataset.containers] == [ILSVRC_TARS["train"]] else None


def num_prefixes(dataset: Dataset) -> int:
    """How often the names have been through `pack`, which each time puts an image's place before its name."""
    record = read_record(dataset.root) if dataset.containers else None
    return 0 if record is None else int(record.get("prefixes", 1))


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path} is damaged ({error}). Write the pack again.") from error


def kept_names_path(folder: Path, split: Split) -> Path:
    """Return where a pack keeps the keys that the names of its members do not tell: by place, as JSON."""
    return folder / f"{split}.names.json"


def _with_kept_names(keys: Keys, begins: NDArray[np.int64], dataset: Dataset) -> Keys:
    """Put in the keys that a pack keeps beside its shards; `begins` is where each whole name begins."""
    path = kept_names_path(dataset.root, dataset.split)
    if not path.is_file():
        return keys
    kept = {int(place): name.encode("utf-8", "surrogateescape") for place, name in _json(path).items()}
    digits = keys.blob[np.minimum(begins[:, None] + np.arange(PREFIX - 1), len(keys.blob) - 1)] - ord("0")
    places = (digits.astype(np.int64) * 10 ** np.arange(PREFIX - 2, -1, -1)).sum(axis=1)
    rows = np.flatnonzero(np.isin(places, list(kept)))
    texts = [kept[place] for place in places[rows].tolist()]
    ends = len(keys.blob) + np.cumsum([len(text) for text in texts], dtype=np.int64)
    starts, stops = keys.starts.copy(), keys.stops.copy()
    starts[rows], stops[rows] = ends - [len(text) for text in texts], ends
    return Keys(np.concatenate([keys.blob, np.frombuffer(b"".join(texts), np.uint8)]), starts, stops)
