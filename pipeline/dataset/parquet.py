"""Parquet files of encoded images, such as Hugging Face's copy of ImageNet, as a `Dataset` for `pack.py` alone.

    image    struct of `bytes` and `path`, or bytes alone
    label    a number, whose name the schema's metadata may tell, or a name

Rows come in groups of a hundred or so, each of which can only be read whole. A pass in the order of `shuffled` reads
every group once; training, in an order of its own for each epoch, would read a group for nearly every image.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError, NoSplit
from ..optional import optional
from .classes import CLASS_FILE, is_numbered, named, sorted_classes
from .images import Dataset, Listing, Split
from .names import SPLIT_NAMES, is_hidden, split_word
from .regular import NotRegular, check_regular
from .shards import MAX_CLASSES

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp"), ("label", "labels", "cls", "class")
FOLDERS = ("", "data", "default")  # below the data set's own: where the hub and its converter put the files
WNID_LAST = re.compile(r"(.+)_(n\d{8})(\.\w+)")  # n01440764_10026_n01440764.JPEG
KEPT_BYTES, KEPT_GROUPS = 1 << 27, 2  # row groups in memory: so many bytes, but at least two


def parquet_files(root: Path, split: Split) -> list[Path]:
    """Return the files of a split, by their names or by that of their folder, sorted."""
    for word in SPLIT_NAMES[split]:
        for base in (root / name for name in FOLDERS):
            named = [path for path in base.glob("*.parquet") if split_word(path.stem) == word]
            if found := [p for p in (*named, *(base / word).glob("*.parquet")) if not is_hidden(p.name)]:
                return sorted(found)
    return []


def have_labels(files: Sequence[Path]) -> bool:
    """Return whether any row has one: those of a competition's test set have none, or -1."""
    arrow = require_pyarrow()
    for file in files:
        with _reading(file), arrow.parquet.ParquetFile(file) as opened:
            label = next((name for name in LABEL_COLUMNS if name in opened.schema_arrow.names), None)
            found = opened.read(columns=[label])[label].to_pylist() if label else []
        if any(value not in (None, -1) for value in found):
            return True
    return False


def no_labels(files: Sequence[Path]) -> NoSplit:
    return NoSplit(f"The rows of {files[0]} have no labels. They may be those of a competition's test set.")


def require_pyarrow() -> Any:
    """The module that reads the files; UserError where the package is missing."""
    for part in ("compute", "parquet"):
        optional(f"pyarrow.{part}", "Reading parquet", "parquet")
    return optional("pyarrow", "Reading parquet", "parquet")


class RowGroups:
    """The encoded images of row groups; those that were read last stay in memory."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._lock = Lock()

    def images(self, file: Path, group: int) -> Any:
        """Return a row group's images, an arrow array of bytes. Safe to call from many threads."""
        with self._lock:
            if (file, group) not in self._kept:
                self._kept[file, group] = _read_group(file, group)
            self._kept.move_to_end((file, group))
            while len(self._kept) > KEPT_GROUPS and sum(a.nbytes for a in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            return self._kept[file, group]


def _read_group(file: Path, group: int) -> Any:
    arrow = require_pyarrow()
    try:
        with arrow.parquet.ParquetFile(file) as opened:
            image, inner, _ = _columns(file, opened.schema_arrow)
            table = opened.read_row_group(group, columns=[".".join(filter(None, (image, inner)))], use_threads=False)
    except (arrow.ArrowException, OSError) as error:
        raise DatasetError(f"its row group {group} cannot be read ({_line(error)})") from error
    return arrow.compute.struct_field(table[image], inner) if inner else table[image]


@dataclass(frozen=True, eq=False, kw_only=True)
class ParquetDataset(Dataset):
    """Image i is row `offsets[i]` of row group `groups[i]` of its container. Lengths are averages of row groups; a row
    without a label has a length of 0."""

    groups: NDArray[np.int32]
    words: Mapping[str, str]  # everyday names of the classes
    read_groups: RowGroups = field(default_factory=RowGroups, repr=False)

    def read(self, i: int) -> NDArray[np.uint8]:
        if self.lengths[i] == 0:
            raise DatasetError("has no label")
        images = self.read_groups.images(self.containers[self.container[i]], int(self.groups[i]))
        image = images[int(self.offsets[i])]
        if not image.is_valid:
            raise DatasetError("has no bytes of an image")
        return np.frombuffer(image.as_buffer(), np.uint8)

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return a random order of the images in which those of a row group follow each other."""
        _, group = np.unique(np.stack([self.container, self.groups]), axis=1, return_inverse=True)
        return np.lexsort((rng.random(len(self)), rng.permutation(int(group.max()) + 1)[group]))


# -- listing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """What a file says of its rows, besides the images. A label without a name is -1."""

    file: Path
    labels: list[int | str]
    names: list[str]  # of the images
    class_names: list[str]  # by label, as far as the file tells
    group_sizes: list[tuple[int, int]]  # rows and bytes


def open_parquet(root: Path, split: Split) -> ParquetDataset:
    """List the rows of a split; both splits have the same classes.

    They are ImageNet's WordNet ids if the names of the images end in them, else as the files name them, or a
    `classes.txt` beside files that only number them.
    """
    of_split = {each: parquet_files(root, each) for each in get_args(Split)}
    rows = {
        each: [_read_rows(file) for file in files]
        for each, files in of_split.items()
        if each in (split, "train") or have_labels(files)
    }
    every = [one for those in rows.values() for one in those]
    _check_same_classes(every)
    classes = _class_names(every)
    wnids = _wnids(every, len(classes))
    listing, groups = Listing(), list[int]()
    place = {name: i for i, name in enumerate(classes)}
    for number, one in enumerate(rows[split]):
        where = _places(one.group_sizes)
        for name, label, (group, row, size) in zip(one.names, one.labels, where, strict=True):
            index = place.get(label, -1) if isinstance(label, str) else label
            known = 0 <= index < len(classes)
            stem = WNID_LAST.sub(r"\1\3", name) if wnids else name
            listing.add(stem, index if known else 0, size * known, container=number, offset=row)
            groups.append(group)
    files = [one.file for one in rows[split]]
    listed = listing.dataset(root, split, wnids or classes, files)
    if not listed.lengths.any():
        raise no_labels(files)
    words = dict(zip(wnids, classes, strict=True)) if every[0].class_names and wnids else {}
    dataset = ParquetDataset(**_fields(listed), groups=np.array(groups, np.int32), words=words)
    beside = next((path for path in (files[0].parent / CLASS_FILE, root / CLASS_FILE) if path.is_file()), None)
    if beside and is_numbered(dataset.classes):
        return replace(dataset, classes=named(dataset, beside).classes)
    return dataset


def _fields(dataset: Dataset) -> dict[str, Any]:
    return {name: value for name, value in vars(dataset).items() if name in Dataset.__dataclass_fields__}


def _read_rows(file: Path) -> _Rows:
    """Read all columns but the images."""
    arrow = require_pyarrow()
    with _reading(file), arrow.parquet.ParquetFile(file) as opened:
        image, inner, label = _columns(file, opened.schema_arrow)
        has_paths = inner and opened.schema_arrow.field(image).type.get_field_index("path") >= 0
        table = opened.read(columns=[label, *([f"{image}.path"] if has_paths else [])])
        groups = [opened.metadata.row_group(i) for i in range(opened.num_row_groups)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
        class_names = _named_in(opened.schema_arrow.metadata, label)
    labels = [-1 if value is None else value for value in table[label].to_pylist()]
    paths = arrow.compute.struct_field(table[image], "path").to_pylist() if has_paths else [None] * len(labels)
    names = [path or f"{file.stem}-{row:06d}" for row, path in enumerate(paths)]
    return _Rows(file, labels, names, class_names, sizes)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raise DatasetError, before the body or from it, if the file cannot be read."""
    try:
        check_regular(file)
        yield
    except NotRegular as error:
        raise DatasetError(f"{file} is {error}. Put the file itself there.") from error
    except (require_pyarrow().ArrowException, OSError) as error:
        with file.open("rb") as start:
            pointer = start.read(30).startswith(b"version https://git-lfs")
        hint = "It is a Git LFS pointer: `git lfs pull` fetches it." if pointer else "Copy it again."
        raise DatasetError(f"{file} cannot be read as parquet ({_line(error)}). {hint}") from error


def _columns(file: Path, schema: Any) -> tuple[str, str, str]:
    """Return the column of images, the field of it that has their bytes ("" if it is no struct) and that of labels."""
    types = require_pyarrow().types
    for image in (name for name in IMAGE_COLUMNS if name in schema.names):
        kind, inner = schema.field(image).type, ""
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind, inner = kind.field("bytes").type, "bytes"
        if types.is_binary(kind) or types.is_large_binary(kind):
            break
    else:
        raise DatasetError(_lacks(file, schema, f"images, as bytes called {_either(IMAGE_COLUMNS)}"))
    for label in (name for name in LABEL_COLUMNS if name in schema.names):
        kind = schema.field(label).type
        if types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind):
            return image, inner, label
    raise DatasetError(_lacks(file, schema, f"labels, as numbers or names called {_either(LABEL_COLUMNS)}"))


def _lacks(file: Path, schema: Any, what: str) -> str:
    there = ", ".join(f"{field.name} ({str(field.type)[:40]})" for field in schema)
    return f"{file} has no column of {what}; it has {there or 'none'}. Rename its columns."


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _named_in(metadata: Mapping[bytes, bytes] | None, label: str) -> list[str]:
    """Return the names of the classes in the order of their numbers, from what Hugging Face's library writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, ValueError, TypeError):
        return []


def _places(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield the row group, the row in it and the mean bytes of a row, for each row of a file."""
    for group, (num_rows, num_bytes) in enumerate(sizes):
        yield from ((group, row, max(1, num_bytes // num_rows)) for row in range(num_rows))


def _check_same_classes(rows: Sequence[_Rows]) -> None:
    for one in rows:
        if one.class_names != rows[0].class_names:
            raise DatasetError(f"{rows[0].file} and {one.file} name their classes differently. Keep them apart.")


def _class_names(rows: Sequence[_Rows]) -> list[str]:
    if rows[0].class_names:
        return rows[0].class_names
    labels = {label for one in rows for label in one.labels}
    if names := {label for label in labels if isinstance(label, str)}:
        return sorted_classes(names)
    highest = max((int(label) for label in labels), default=-1)
    if highest >= MAX_CLASSES:
        raise DatasetError(f"{rows[0].file} and others have label {highest}; labels are 0 to {MAX_CLASSES - 1}.")
    return [str(number) for number in range(highest + 1)]


def _wnids(rows: Sequence[_Rows], num_classes: int) -> list[str]:
    """Return the WordNet id of each class if every image has it at the end of its name, and always the same."""
    wnid_of: dict[int | str, str] = {}
    for one in rows:
        for label, name in zip(one.labels, one.names, strict=True):
            if label == -1:
                continue
            found = WNID_LAST.fullmatch(name)
            if not found or wnid_of.setdefault(label, found[2]) != found[2]:
                return []
    wnids = [wnid_of.get(label, "") for label in range(num_classes)]
    return wnids if all(wnids) and len(set(wnids)) == num_classes else []


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
