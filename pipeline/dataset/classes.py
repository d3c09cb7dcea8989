"""Class names: their order, the file that lists them, and how the lists of two sources are matched.

A label is a position in a list of names. A validation split must match its training split, and a data set its
checkpoint: by the names, never by their count. Many shards only number their classes; numbers match nothing but
numbers, and a `classes.txt` says what they stand for.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np

from ..errors import DatasetError
from .images import Dataset

CLASS_FILE = "classes.txt"  # one name a line, in the order of the labels
UNSAFE = re.compile(r"[\\\x00-\x1f\x7f\udc80-\udcff]|^[\s\ufeff]|\s\Z")  # would not survive as a line of text
ESCAPED = re.compile(rb"\\(\\|x[0-9a-f]{2})")
NUM_SYNSETS, FIRST_SYNSET, LAST_SYNSET = 1000, "n01440764", "n15075141"  # of ImageNet


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Sort class names in the order of their labels: as numbers if all are numbers, else as text."""
    names = list(names)
    if all(_as_number(name) is not None for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def is_numbered(classes: Sequence[str]) -> bool:
    """Return whether the classes have no names, only the numbers 0 to n - 1."""
    return all(_as_number(name) == label for label, name in enumerate(classes))


def _as_number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 19 else None


# -- files -------------------------------------------------------------------------------------------------


def text_of(content: bytes) -> str:
    """Decode the text of a file, with or without a byte order mark; bytes that are not UTF-8 survive as surrogates."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def read_classes(file: Path) -> list[str]:
    """Read the names in a `classes.txt`, whether a pack's or a person's."""
    names = [unescape(line.strip()) for line in text_of(file.read_bytes()).rstrip().split("\n")]
    if "" in names:
        raise DatasetError(f"Line {names.index('') + 1} of {file} is empty. Each line is the name of a class.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"{file} has {twice!r} twice. Give each class its own name.")
    return names


def class_lines(classes: Iterable[str]) -> bytes:
    """Return the content of a `classes.txt`; `read_classes` reads back the same names, whatever they are."""
    return "".join(f"{escape(name)}\n" for name in classes).encode()


def escape(name: str) -> str:
    r"""Write a name as one line of valid text; what does not fit becomes `\xNN`, byte by byte, and `\` becomes `\\`."""

    def escaped(found: re.Match[str]) -> str:
        if found[0] == "\\":
            return r"\\"
        return "".join(f"\\x{byte:02x}" for byte in found[0].encode("utf-8", "surrogateescape"))

    return UNSAFE.sub(escaped, name)


def unescape(text: str) -> str:
    """Undo `escape`; a backslash that it would not have written stays."""

    def byte(found: re.Match[bytes]) -> bytes:
        return b"\\" if found[1] == b"\\" else bytes.fromhex(found[1][1:].decode())

    return ESCAPED.sub(byte, text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


# -- labels ------------------------------------------------------------------------------------------------


class Labels:
    """Turns labels, each a number or a name, into positions in a list that grows as they come."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._num_numbers = 0

    def position(self, label: int | str) -> int:
        if isinstance(label, str):
            return self._names.setdefault(label, len(self._names))
        self._num_numbers = max(self._num_numbers, label + 1)
        return label

    def classes(self, where: Path) -> list[str]:
        """Return the names in the order in which they came, or the numbers from 0 to the highest."""
        if self._names and self._num_numbers:
            name = next(iter(self._names))
            raise DatasetError(f"Some labels in {where} are numbers, others names such as {name!r}. Use only one kind.")
        return list(self._names) or [str(i) for i in range(self._num_numbers)]


def named(dataset: Dataset, file: Path | None) -> Dataset:
    """Give shards the class names of a `classes.txt`, in its order; without one, their own names, sorted."""
    if file is None:
        return relabelled(dataset, sorted_classes(dataset.classes), "", "")
    classes = read_classes(file)
    if not is_numbered(dataset.classes):
        return relabelled(dataset, classes, str(file), "Add them to it.")
    if len(classes) < dataset.num_classes:
        where = f"A sample in {dataset.where} has label {dataset.num_classes - 1}"
        raise DatasetError(f"{where}, but there are {len(classes)} classes in {file}. Add the others to it.")
    return replace(dataset, classes=tuple(classes), _descriptors={})


def in_training_classes(dataset: Dataset, trained: Sequence[str]) -> Dataset:
    """Relabel a validation split with positions in the classes of the training split."""
    remedy = how_to_name(dataset.where) if is_numbered(trained) else "Remove them, or add them to the training split."
    return relabelled(dataset, trained, "the training split", remedy)


def relabelled(dataset: Dataset, classes: Sequence[str], owner: str, remedy: str) -> Dataset:
    """Relabel a data set with positions in `classes`, matched by name.

    Raise `DatasetError` if it has a class that `classes` lacks; the message says whose `classes` they are (`owner`) and
    what to do (`remedy`).
    """
    if dataset.classes == tuple(classes):
        return dataset
    places = _places(dataset.classes, classes)
    unknown = [name for name, place in zip(dataset.classes, places, strict=True) if place is None]
    if unknown:
        raise DatasetError(_misfit(dataset, classes, unknown, owner, remedy))
    labels = np.array(places, np.int32)[dataset.labels]
    return replace(dataset, classes=tuple(classes), labels=labels, _descriptors={})


def _places(ours: Sequence[str], theirs: Sequence[str]) -> list[int | None]:
    """Return the position of each of our classes in theirs; None if it is not there."""
    key: Callable[[str], int | str | None] = _as_number if is_numbered(theirs) else str
    place = {key(name): i for i, name in enumerate(theirs)}
    return [place.get(key(name)) for name in ours]


def _misfit(dataset: Dataset, classes: Sequence[str], unknown: Sequence[str], owner: str, remedy: str) -> str:
    where, theirs = f"The {dataset.split} split of {dataset.where}", first_few(classes)
    if is_numbered(dataset.classes) and not is_numbered(classes):
        remedy = how_to_name(dataset.where) if dataset.containers else "Rename its class folders."
        return f"{where} numbers its classes, but {owner} names them ({theirs}). {remedy}"
    return f"{where} has the classes {first_few(unknown)}, which {owner} does not have (it has {theirs}). {remedy}"


def how_to_name(where: str) -> str:
    return f"Say what the numbers mean in {where}/{CLASS_FILE}: one name per line, in order of the numbers."


def first_few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def is_imagenet(classes: Sequence[str]) -> bool:
    """Return whether these look like ImageNet's 1000 synsets in order: by form, number, the first and the last."""
    if len(classes) != NUM_SYNSETS or (classes[0], classes[-1]) != (FIRST_SYNSET, LAST_SYNSET):
        return False
    return list(classes) == sorted(classes) and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Name the first class in which two lists differ, as a phrase for a message."""
    pairs = enumerate(zip_longest(map(repr, ours), map(repr, theirs), fillvalue="missing"))
    label, (one, other) = next((label, pair) for label, pair in pairs if pair[0] != pair[1])
    return f"class {label}: {one} and {other}"
