"""The paper's offline down-sampling (section 2): each image once to its central 256-square, kept in WebDataset shards.

    any data set -> `encode.py`: JPEGs, coefficients or pixels -> train-000000.tar, train-000001.tar, ... + an index

A pack decodes several times faster than the originals and fits in memory. Samples are `<key>.jpg` (`.dct`, `.npy`) and
`<key>.cls`; the training split is in one fixed random order, for readers that go through shards from front to back
(parquet files, by row groups). Images can also be kept as they are.
Each shard has an index in DALI's format beside it; the split has another, from which `open_dataset` opens the pack
without reading the shards. A shard appears only once it is whole, so an interrupted pass goes on with the missing
ones, and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from string import ascii_letters, digits
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from .dataset.classes import CLASS_FILE, class_lines, escape
from .dataset.images import Dataset, Listing
from .dataset.index import save_index
from .dataset.labels import class_words
from .dataset.numbers import PREFIX, image_keys, kept_names_path, num_prefixes
from .dataset.parquet import ParquetDataset
from .dataset.record import RECORD
from .dataset.shards import PACKED, RAW_SHAPE, shard_stamp
from .decode.bad_images import describe_bad
from .decode.formats import extension_of
from .decode.settings import Settings
from .encode import CHROMA, EXTENSIONS, Encoded, Encoding, Kind, choose_encoding, encode
from .errors import DatasetError, TooManyBadFiles, UserError
from .files import only_writer, whole_file, write_atomically
from .window import require_all_shards

VERSION = 1
ORDER_SEED = 2012
IMAGES_PER_SHARD = 4096  # 110 MB as JPEGs
PLAIN = f"{ascii_letters}{digits}_-".encode()  # what the names of members keep of the images'
NAME_BYTES = 60  # and how much of it
OF_OLDER_PACKS = {"dct": False, "copy": False, "chroma": CHROMA, "shards": {}}  # which their records do not tell


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How to write a pack; an interrupted one continues only with the options it was begun with."""

    raw: bool = False  # pixels, not JPEGs
    dct: bool = False  # their quantised DCT coefficients, not JPEGs
    copy: bool = False  # the images as they are, whatever their size and format
    quality: int | None = None  # of the JPEGs; None: 90, or that of the pack which is converted
    chroma: Literal["444", "420"] | None = None  # of the JPEGs, likewise
    images_per_shard: int = IMAGES_PER_SHARD

    def __post_init__(self) -> None:
        if kinds := [f"--{kind}" for kind in ("raw", "dct", "copy") if getattr(self, kind)][1:]:
            first = next(f"--{kind}" for kind in ("raw", "dct") if getattr(self, kind))
            raise UserError(f"{first} and {kinds[0]} are two kinds of pack: choose one.")
        if self.copy and (self.quality is not None or self.chroma):
            raise UserError("--copy keeps the images as they are: leave out --quality and --chroma.")

    @property
    def kind(self) -> Kind:
        return "raw" if self.raw else "dct" if self.dct else "copy" if self.copy else "jpeg"


@dataclass(frozen=True)
class Packed:
    """What was written for one split."""

    split: str
    num_images: int
    num_shards: int
    num_bytes: int
    bad: dict[str, str]  # what was left out, with reasons


def pack(
    dataset: Dataset,
    out: Path,
    options: PackOptions,
    settings: Settings,
    progress: Callable[[int], None] = lambda done: None,
) -> Packed:
    """Write one split as shards into the folder `out`, or go on where an earlier call was interrupted.

    Raise `DatasetError` if `out` holds something else, `TooManyBadFiles` beyond `settings.max_bad`.
    """
    with only_writer(out, DatasetError(f"Another process is packing into {out}. Wait for it, or use another folder.")):
        for left in out.glob(f".{dataset.split}-*.tmp"):
            left.unlink()  # by a pass that was killed
        encoding = choose_encoding(dataset, options.kind, options.quality, options.chroma)
        record = _Record(dataset, out, options, encoding, settings)
        record.check(settings.max_bad)  # the shards that are there may lack too many already
        shards = _plan(dataset, out, options)
        missing = {shard: images for shard, images in shards.items() if not shard.exists()}
        done = len(dataset) - sum(map(len, missing.values()))
        with ThreadPoolExecutor(settings.threads, thread_name_prefix="alexnet-pack") as pool:
            images = encode(dataset, np.concatenate([*missing.values(), np.empty(0, int)]), encoding, settings, pool)
            for shard, wanted in missing.items():
                done = _write_shard(shard, dataset, islice(images, len(wanted)), options, record, done, progress)
                record.check(settings.max_bad)
        progress(len(dataset))
        return _finish(dataset, out, list(shards), record, options.kind)


class _Record:
    """pack.json: what a pack was made from and how, and which images it lacks."""

    def __init__(
        self, dataset: Dataset, out: Path, options: PackOptions, encoding: Encoding, settings: Settings
    ) -> None:
        self._dataset, self._path = dataset, out / RECORD
        how = asdict(options) | {"quality": encoding.quality, "chroma": encoding.chroma, "decode": settings.decode}
        wanted = {"version": VERSION, **how, "classes": list(dataset.classes)}
        found: dict[str, Any] = {"fingerprints": {}, "bad": {}, "shards": {}}
        if self._path.exists():
            found = OF_OLDER_PACKS | json.loads(self._path.read_text())
        if differing := [key for key in wanted if key in found and found[key] != wanted[key]]:
            begun = ", ".join(_difference(key, found[key], wanted[key]) for key in differing)
            hint = "Use the options it was begun with, or another folder."
            raise DatasetError(f"{out} holds a pack that was begun otherwise: {begun}. {hint}")
        if found["fingerprints"].setdefault(dataset.split, dataset.fingerprint) != dataset.fingerprint:
            raise DatasetError(f"{out} holds a pack of other {dataset.split} images. Use another folder.")
        if not self._path.exists() and next(out.glob("*.tar"), None):
            raise DatasetError(f"{out} holds archives that `alexnet pack` did not write. Use another folder.")
        self._all: dict[str, Any] = {key: found[key] for key in ("fingerprints", "bad", "shards")} | wanted
        self._all["prefixes"] = num_prefixes(dataset) + 1
        self.bad: dict[int, str] = {int(i): why for i, why in found["bad"].get(dataset.split, {}).items()}
        write_atomically(out / CLASS_FILE, class_lines(dataset.classes))
        if words := _words(dataset):
            write_atomically(out / "words.txt", "".join(f"{escape(c)}\t{w}\n" for c, w in words.items()).encode())
        _keep_names(dataset, out)
        self.save()

    def add(self, shard: str, digest: str, bad: dict[int, str]) -> None:
        """Add a shard and the images it lacks; called before it appears, so that the record is never behind."""
        self.bad |= bad
        self._all["shards"][shard] = f"blake2b:{digest}"
        self.save()

    def save(self) -> None:
        self._all["bad"][self._dataset.split] = {str(i): why for i, why in sorted(self.bad.items())}
        write_atomically(self._path, json.dumps(self._all, indent=1).encode())

    def check(self, max_bad: float) -> None:
        if len(self.bad) > max_bad * len(self._dataset):
            raise TooManyBadFiles(describe_bad(self._dataset, self.bad, max_bad))


def _difference(option: str, begun: object, now: object) -> str:
    """Say with what a pack was begun."""
    if isinstance(begun, bool):
        return f"{'with' if begun else 'without'} --{option}"
    if isinstance(begun, list):
        return f"with other {option}"
    name = option if option == "version" else f"--{option.replace('_', '-')}"
    return f"with {name} {begun}, not {now}"


def _plan(dataset: Dataset, out: Path, options: PackOptions) -> dict[Path, NDArray[np.int64]]:
    """Each shard and its images, in order."""
    order = np.arange(len(dataset))
    if dataset.split == "train":
        require_all_shards(dataset)
        rng = np.random.default_rng(ORDER_SEED)
        order = dataset.shuffled(rng) if isinstance(dataset, ParquetDataset) else rng.permutation(len(dataset))
    size = options.images_per_shard
    starts = range(0, len(order), size)
    return {out / f"{dataset.split}-{i:06d}.tar": order[first : first + size] for i, first in enumerate(starts)}


def _write_shard(
    path: Path,
    dataset: Dataset,
    images: Iterator[Encoded],
    options: PackOptions,
    record: _Record,
    done: int,
    progress: Callable[[int], None],
) -> int:
    """Write one shard and its index, and record the images it lacks; return how many images are done in all."""
    bad, index = dict[int, str](), list[str]()
    with whole_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for image, content in images:
            if isinstance(content, str):
                bad[image] = content
            else:
                extension = EXTENSIONS.get(options.kind) or extension_of(content)
                parts = {extension: content, "cls": b"%d" % dataset.labels[image]}
                index.append(" ".join(_add(tar, file, f"{_key(dataset, image)}.{e}", parts[e]) for e in parts))
            done += 1
            progress(done)
        tar.close()
        file.seek(0)
        record.add(path.name, hashlib.file_digest(file, "blake2b").hexdigest(), bad)  # type: ignore[arg-type]
        write_atomically(path.with_suffix(".idx"), "\n".join([f"v1.2 {len(index)}", *index, ""]).encode())
    return done


def _key(dataset: Dataset, image: int) -> str:
    """The image's index in its data set, then its name in characters that every archive reader accepts."""
    stem = Path(dataset.names[image]).stem.encode("ascii", "replace").decode()
    return f"{image:08d}-{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:NAME_BYTES]}"


def _words(dataset: Dataset) -> Mapping[str, str]:
    """Everyday names of the classes, as far as known."""
    if isinstance(dataset, ParquetDataset):
        return {name: dataset.words[name] for name in dataset.classes if name in dataset.words}
    return class_words(dataset.root, dataset.classes)


def _keep_names(dataset: Dataset, out: Path) -> None:
    """Keep the images' own names where those of the pack's members do not tell them, as of Japanese file names."""
    keys, prefixes = image_keys(dataset), num_prefixes(dataset)
    may_be_lost = keys.have_other_than(PLAIN) | (keys.stops - keys.starts > NAME_BYTES - PREFIX * prefixes)
    images, start = np.flatnonzero(may_be_lost).tolist(), PREFIX * (prefixes + 1)
    if lost := {i: keys[i] for i in images if keys[i] != _key(dataset, i)[start:]}:
        write_atomically(kept_names_path(out, dataset.split), json.dumps(lost).encode())


def _add(tar: tarfile.TarFile, file: BinaryIO, name: str, content: bytes) -> str:
    """Append a member; return its line for DALI's index."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    offset = file.tell() + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(content))
    return f"{name.partition('.')[2]} {offset} {len(content)} {name}"


def _finish(dataset: Dataset, out: Path, shards: list[Path], record: _Record, kind: Kind) -> Packed:
    """Write the index of the whole split."""
    listing = Listing()
    header = _raw_header_size() if kind == "raw" else 0
    for number, shard in enumerate(shards):
        for line in shard.with_suffix(".idx").read_text().splitlines()[1:]:
            _, offset, size, name, *_ = line.split()
            label = int(dataset.labels[int(name.split("-")[0])])
            listing.add(name, label, int(size) - header, container=number, offset=int(offset) + header)
    stored = PACKED.get(EXTENSIONS.get(kind, ""), "encoded")
    packed = listing.dataset(out, dataset.split, dataset.classes, shards, stored)
    save_index(out / f"{dataset.split}.index", shard_stamp(shards), packed)
    bad = {dataset.name(i): why for i, why in sorted(record.bad.items())}
    return Packed(dataset.split, len(packed), len(shards), sum(s.stat().st_size for s in shards), bad)


def _raw_header_size() -> int:
    """Bytes before the pixels of a square in numpy's format."""
    buffer, square = io.BytesIO(), np.empty(RAW_SHAPE, np.uint8)
    np.save(buffer, square)
    return buffer.tell() - square.nbytes
