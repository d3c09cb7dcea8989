"""The samples of WebDataset shards.

A sample's image is encoded, or, from `pack.py`, the pixels of a 256-square in numpy's format. Archives are never
unpacked; member names are only labels.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from .archive import members
from .dataset import Dataset, DatasetError, Listing, Split
from .index import VERSION, load_index

MAX_CLASSES = 100_000  # ImageNet has 21,841 in all; a nonsensical label would make a billion
RAW_EXTENSION, RAW_SHAPE = ".npy", (256, 256, 3)
IMAGE_EXTENSIONS = frozenset({".jpeg", ".jpg", ".png", ".bmp", ".webp"})


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122


def list_shards(root: Path, split: Split, shards: Sequence[Path], classes: Sequence[str] | None) -> Dataset:
    """The samples of WebDataset shards, from a pack's index where one fits them. Labels count in `classes`; without,
    classes are numbers."""
    if (packed := load_index(root / f"{split}.index", shard_stamp(shards), split)) is not None:
        return replace(packed, root=root, containers=tuple(shards), _descriptors={})
    listing, most = Listing(), -1
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
                label = _shard_label(file, shard, key, parts)
                most = max(most, label)
                listing.add(image.name, label, image.size - header, container=number, offset=image.offset_data + header)
    if len(encodings) > 1:
        raise DatasetError(f"The shards in {shards[0].parent} hold both images and .npy arrays. Keep them apart.")
    classes = classes or [str(i) for i in range(most + 1)]
    if most >= len(classes):
        raise DatasetError(f"A sample in {shards[0].parent} has label {most}, but there are {len(classes)} classes.")
    return listing.dataset(root, split, classes, shards, raw=True in encodings)


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


def _shard_label(file: io.BufferedReader, shard: Path, key: str, parts: dict[str, tarfile.TarInfo]) -> int:
    """From `<key>.cls`, or `label` or `cls` in `<key>.json`."""

    def content(member: tarfile.TarInfo) -> bytes:
        file.seek(member.offset_data)
        return file.read(min(member.size, 1 << 20))

    try:
        if "cls" in parts:
            label = int(content(parts["cls"]))
        else:
            record = json.loads(content(parts["json"]))
            label = int(str(record["label"] if "label" in record else record["cls"]))  # (2.7 is none)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        hint = "Each sample needs <key>.cls with a number, or <key>.json with `label`."
        raise DatasetError(f"The sample {key} in {shard} has no label ({error!r}). {hint}") from error
    if not 0 <= label < MAX_CLASSES:
        raise DatasetError(f"The sample {key} in {shard} has label {label}; labels are 0 to {MAX_CLASSES - 1}.")
    return label
