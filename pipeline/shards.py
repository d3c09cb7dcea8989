"""The samples of WebDataset shards.

A sample's image is encoded, or, from `pack.py`, the pixels of a 256-square in numpy's format. Archives are never
unpacked; member names are only labels.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from .archive import members
from .classes import Labels, is_numbered, named, text_of
from .dataset import Dataset, DatasetError, Listing, Split
from .index import VERSION, load_index

MAX_CLASSES = 100_000  # ImageNet has 21,841 in all; a nonsensical label would make a billion
RAW_EXTENSION, RAW_SHAPE = ".npy", (256, 256, 3)
IMAGE_EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".bmp", ".webp"})


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122


def list_shards(root: Path, split: Split, shards: Sequence[Path], class_file: Path | None) -> Dataset:
    """The samples of WebDataset shards, from a pack's index where one fits them. Numbers are named by the file."""
    if (packed := load_index(root / f"{split}.index", shard_stamp(shards), split)) is not None:
        packed = replace(packed, root=root, containers=tuple(shards), _descriptors={})
        return named(packed, class_file) if is_numbered(packed.classes) else packed
    listing, labels = Listing(), Labels()
    encodings = set()
    for number, shard in enumerate(shards):
        with shard.open("rb") as file:
            for key, parts in _samples(shard):
                extension = next((e for e in sorted(parts) if f".{e}" in (*IMAGE_EXTENSIONS, RAW_EXTENSION)), None)
                if extension is None:
                    continue
                image = parts[extension]
                header = _raw_header(file, shard, image) if f".{extension}" == RAW_EXTENSION else 0
                encodings.add(header > 0)
                label = labels.position(_shard_label(file, shard, key, parts))
                listing.add(image.name, label, image.size - header, container=number, offset=image.offset_data + header)
    if len(encodings) > 1:
        raise DatasetError(f"The shards in {shards[0].parent} hold both images and .npy arrays. Keep them apart.")
    classes = labels.classes(shards[0].parent)
    return named(listing.dataset(root, split, classes, shards, raw=True in encodings), class_file)


def shard_stamp(shards: Sequence[Path]) -> str:
    """What the index of a pack is valid for: shards of these names and sizes, wherever they are moved."""
    return json.dumps([VERSION, *([shard.name, shard.stat().st_size] for shard in shards)])


def _raw_header(file: io.BufferedReader, shard: Path, member: tarfile.TarInfo) -> int:
    """Bytes before the pixels of a 256-square in numpy's format."""
    file.seek(member.offset_data)
    start = io.BytesIO(file.read(min(member.size, 4096)))
    try:
        version = np.lib.format.read_magic(start)
        found = (version, *np.lib.format.read_array_header_1_0(start), member.size - start.tell())
        if found != ((1, 0), RAW_SHAPE, False, np.uint8, prod(RAW_SHAPE)):
            raise ValueError(f"{found[3]} {found[1]}")
    except ValueError as error:
        hint = "`alexnet pack --raw` writes uint8 (256, 256, 3)."
        raise DatasetError(f"{member.name} in {shard} is no such array as can be read ({error}). {hint}") from error
    return start.tell()


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Neighbouring members that share a name up to the first dot are one sample."""
    key, parts = "", dict[str, tarfile.TarInfo]()
    for member in members(shard):
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if (name := f"{folder}/{stem}") != key:
            if parts:
                yield key, parts
            key, parts = name, {}
        if parts.setdefault(extension.lower(), member) is not member:
            raise DatasetError(f"The sample {key} in {shard} has two members .{extension}; write the shard again.")
    if parts:
        yield key, parts


def _shard_label(file: io.BufferedReader, shard: Path, key: str, parts: dict[str, tarfile.TarInfo]) -> int | str:
    """From `<key>.cls`, or `label` or `cls` in `<key>.json`: a number, or in JSON the name of a class."""

    def content(member: tarfile.TarInfo) -> str:
        file.seek(member.offset_data)
        return text_of(file.read(min(member.size, 1 << 20)))

    try:
        if "cls" in parts:
            label: int | str = int(content(parts["cls"]))
        else:
            record = json.loads(content(parts["json"]))
            label = _number_or_name(record["label"] if "label" in record else record["cls"])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        hint = "Each sample needs <key>.cls with a number, or <key>.json with `label`."
        raise DatasetError(f"The sample {key} in {shard} has no label ({error!r}). {hint}") from error
    if isinstance(label, int) and not 0 <= label < MAX_CLASSES:
        raise DatasetError(f"The sample {key} in {shard} has label {label}; labels are 0 to {MAX_CLASSES - 1}.")
    return label


def _number_or_name(value: object) -> int | str:
    """A number may be written as text."""
    if isinstance(value, str) and value.strip():
        value.encode()  # no half of a surrogate pair
        return int(value) if re.fullmatch(r"\s*-?\d+\s*", value, re.ASCII) else value
    return int(str(value))  # neither 2.7 nor true
