"""The samples of WebDataset shards, as a `Dataset`.

A sample's image is an encoded file; or a 256-square, from `alexnet pack --raw` as pixels in numpy's format, from
`alexnet pack --dct` as coefficients.
Archives are read in place: nothing is unpacked, and member names are never used as paths.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from ..errors import DatasetError
from .archive import archive_size, members, open_archive
from .classes import Labels, is_numbered, named, text_of
from .images import Dataset, Listing, Split, Stored
from .index import VERSION, keep_index, load_index
from .names import IMAGE_EXTENSIONS, count_left_out, is_hidden, is_image
from .record import check_all_there, read_record, shard_digests

LABELS = ("cls", "json")  # extensions of a sample's label
MAX_CLASSES = 100_000  # ImageNet has 21,841 in all; a nonsense label could ask for a billion
RAW_SHAPE = (256, 256, 3)
PACKED: dict[str, Stored] = {"npy": "raw", "dct": "dct"}  # by extension


def open_shards(
    root: Path, split: Split, shards: Sequence[Path], class_file: Path | None, left_out: Counter[str], rescan: bool
) -> Dataset:
    """Open the samples of WebDataset shards, from the index beside them if it fits; `rescan` rebuilds it.

    `class_file` names numbered classes; `left_out` counts, by extension, the files of samples without an image.
    """
    folder = shards[0].parent
    check_all_there(shard_digests(read_record(folder)), split, (shard.name for shard in shards), folder)
    index, stamp = root / f"{split}.index", shard_stamp(shards)
    if not rescan and (packed := load_index(index, stamp, split)) is not None:
        packed = replace(packed, root=root, containers=tuple(shards), _descriptors={})
        return named(packed, class_file) if is_numbered(packed.classes) else packed
    dataset = named(list_shards(root, split, shards, left_out), class_file)
    if rescan and index.is_file() and len(dataset):
        keep_index(index, stamp, dataset)
    return dataset


def list_shards(
    root: Path,
    split: Split,
    shards: Sequence[Path],
    left_out: Counter[str],
    opened: Callable[[int], AbstractContextManager[Path]] | None = None,
) -> Dataset:
    """List the samples; the classes are the names or numbers in their labels.

    `opened`, given a shard's number, provides the file to read for it; by default that is the shard itself.
    """
    listing, labels = Listing(), Labels()
    kinds = set[Stored]()
    for number in range(len(shards)):
        with (
            opened(number) if opened else nullcontext(shards[number]) as shard,
            open(open_archive(shard), "rb") as file,  # noqa: PTH123 (a descriptor)
        ):
            for key, parts in _samples(shard):
                if (extension := _image_of(shard, key, parts)) is None:
                    count_left_out(left_out, (f"{key}.{e}" for e in parts))
                    continue
                image = parts[extension]
                kinds.add(kind := PACKED.get(extension, "encoded"))
                header = _raw_header(file, shard, image) if kind == "raw" else 0
                label = labels.position(_shard_label(file, shard, key, parts))
                listing.add(image.name, label, image.size - header, container=number, offset=image.offset_data + header)
    if len(kinds) > 1:
        names = [{"encoded": "images", "raw": ".npy arrays", "dct": ".dct images"}[kind] for kind in sorted(kinds)]
        raise DatasetError(f"The shards in {shards[0].parent} hold both {' and '.join(names)}. Keep them apart.")
    stored: Stored = kinds.pop() if kinds else "encoded"
    return listing.dataset(root, split, labels.classes(shards[0].parent), shards, stored)


def has_label(shard: Path) -> bool:
    """Return whether the first sample has a label; True if there is no sample."""
    first = next(_samples(shard), None)
    return first is None or not first[1].keys().isdisjoint(LABELS)


def shard_stamp(shards: Iterable[Path]) -> str:
    """Return what the index of a pack is valid for: these shards, wherever they are moved."""
    return stamp_of_sizes((shard.name, archive_size(shard)) for shard in shards)


def stamp_of_sizes(shards: Iterable[tuple[str, int]]) -> str:
    """Return the same from the names and sizes of the shards."""
    return json.dumps([VERSION, *([name, size] for name, size in shards)])


def _raw_header(file: io.BufferedReader, shard: Path, member: tarfile.TarInfo) -> int:
    """Return the number of bytes before the pixels of a 256-square in numpy's format."""
    file.seek(member.offset_data)
    start = io.BytesIO(file.read(min(member.size, 4096)))
    try:
        version = np.lib.format.read_magic(start)
        found = (version, *np.lib.format.read_array_header_1_0(start), member.size - start.tell())
        if found != ((1, 0), RAW_SHAPE, False, np.uint8, prod(RAW_SHAPE)):
            raise ValueError(f"{found[3]} {found[1]}")
    except ValueError as error:
        hint = "`alexnet pack --raw` writes uint8 (256, 256, 3)."
        raise DatasetError(f"{member.name} in {shard} is not a readable array ({error}). {hint}") from error
    return start.tell()


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Yield (key, members by extension) of each sample: neighbours whose file names agree up to their first dot.

    Names without a dot, or with one in front, belong to no sample.
    """
    key, parts = "", dict[str, tarfile.TarInfo]()
    for member in members(shard):
        folder, _, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not dot or is_hidden(member.name):
            continue
        if (name := f"{folder}/{stem}" if folder else stem) != key:
            if parts:
                yield key, parts
            key, parts = name, {}
        if parts.setdefault(extension.lower(), member) is not member:
            raise DatasetError(f"The sample {key} in {shard} has two members .{extension}; write the shard again.")
    if parts:
        yield key, parts


def _image_of(shard: Path, key: str, parts: Collection[str]) -> str | None:
    """Return which of a sample's extensions is the image: .jpg before .png and so on, and either before seg.png."""
    images = [e for e in parts if is_image(f".{e}")]
    plain = [e for e in images if "." not in e]
    if not plain and len(images) > 1:
        hint = "Write the shard again, with the one to train on called .jpg, .png or the like."
        raise DatasetError(f"The sample {key} in {shard} has several images: {', '.join(images)}. {hint}")
    if plain:
        return min(plain, key=lambda e: IMAGE_EXTENSIONS.index(f".{e}"))
    return next((e for e in (*images, *PACKED) if e in parts), None)


def _shard_label(file: io.BufferedReader, shard: Path, key: str, parts: dict[str, tarfile.TarInfo]) -> int | str:
    """Read `<key>.cls`, or `label` or `cls` in `<key>.json`: a number, or in JSON the name of a class."""

    def content(member: tarfile.TarInfo) -> str:
        file.seek(member.offset_data)
        return text_of(file.read(min(member.size, 1 << 20)))

    hint = "Each sample needs <key>.cls with a number, or <key>.json with `label`."
    if (source := next((extension for extension in LABELS if extension in parts), None)) is None:
        hint = f"{hint} Unpack plain images into class folders."
        raise DatasetError(f"The sample {key} in {shard} has no label, only {', '.join(parts)}. {hint}")
    try:
        if source == "cls":
            label: int | str = int(content(parts[source]))
        else:
            record = json.loads(content(parts[source]))
            label = _number_or_name(record["label"] if "label" in record else record["cls"])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"The sample {key} in {shard} has no label in its {source} ({error}). {hint}") from error
    if isinstance(label, int) and not 0 <= label < MAX_CLASSES:
        raise DatasetError(f"The sample {key} in {shard} has label {label}; labels are 0 to {MAX_CLASSES - 1}.")
    return label


def _number_or_name(value: object) -> int | str:
    """Return the label; a number may be written as text."""
    if isinstance(value, str) and value.strip():
        value.encode()  # refuses half a surrogate pair
        return int(value) if re.fullmatch(r"\s*-?\d+\s*", value, re.ASCII) else value
    return int(str(value))  # refuses 2.7 and true
