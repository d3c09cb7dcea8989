"""The paper's offline down-sampling (section 2): each image once to its central 256-square, kept in WebDataset shards.

    any data set -> `squares` -> JPEG, or uint8 as it is -> train-000000.tar, train-000001.tar, ... + an index

A pack decodes several times faster than the originals and fits in memory. Samples are `<key>.jpg` (or `.npy`) and
`<key>.cls`; the training split is in one fixed random order, for readers that go through shards from front to back.
Each shard has an index in DALI's format beside it; the split has another, from which `open_dataset` opens the pack
without reading the shards. A shard appears only once it is whole, so an interrupted pass goes on with the missing
ones, and ends with the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .dataset.classes import CLASS_FILE, class_lines, escape
from .dataset.images import Dataset, Listing
from .dataset.index import save_index
from .dataset.labels import class_words
from .dataset.shards import RAW_EXTENSION, RAW_SHAPE, shard_stamp
from .decode.bad_images import describe_bad
from .decode.settings import Settings
from .errors import DatasetError, TooManyBadFiles
from .files import only_writer, whole_file, write_atomically
from .squares import squares

RECORD = "pack.json"
VERSION = 1
ORDER_SEED = 2012
IMAGES_PER_SHARD = 4096  # 110 MB as JPEGs
CHROMA = "4:4:4"  # 4:2:0 saves a fifth of the bytes and 4% of the colour variance, which lighting is drawn from
BATCH = 64

Encoded = tuple[int, bytes | str]  # image, and its encoded square or why there is none


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How to write a pack; an interrupted one continues only with the options it was begun with."""

    raw: bool = False  # pixels, not JPEGs
    quality: int = 90  # of the JPEGs
    images_per_shard: int = IMAGES_PER_SHARD


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
        record = _Record(dataset, out, options, settings)
        shards = _plan(dataset, out, options)
        missing = {shard: images for shard, images in shards.items() if not shard.exists()}
        done = len(dataset) - sum(map(len, missing.values()))
        with ThreadPoolExecutor(settings.threads, thread_name_prefix="alexnet-pack") as pool:
            images = _encode(dataset, np.concatenate([*missing.values(), np.empty(0, int)]), options, settings, pool)
            for shard, wanted in missing.items():
                done = _write_shard(shard, dataset, islice(images, len(wanted)), options, record, done, progress)
                record.check(settings.max_bad)
        progress(len(dataset))
        return _finish(dataset, out, list(shards), record, raw=options.raw)


class _Record:
    """pack.json: what a pack was made from and how, and which images it lacks."""

    def __init__(self, dataset: Dataset, out: Path, options: PackOptions, settings: Settings) -> None:
        self._dataset, self._path = dataset, out / RECORD
        how = {**asdict(options), "decode": settings.decode}
        wanted = {"version": VERSION, **how, "classes": list(dataset.classes)}
        found = json.loads(self._path.read_text()) if self._path.exists() else {"fingerprints": {}, "bad": {}}
        if differing := [key for key in wanted if key in found and found[key] != wanted[key]]:
            hint = "Use the options it was begun with, or another folder."
            raise DatasetError(f"{out} holds a pack with another {' and '.join(differing)}. {hint}")
        if found["fingerprints"].setdefault(dataset.split, dataset.fingerprint) != dataset.fingerprint:
            raise DatasetError(f"{out} holds a pack of other {dataset.split} images. Use another folder.")
        if not self._path.exists() and next(out.glob("*.tar"), None):
            raise DatasetError(f"{out} holds archives that `alexnet pack` did not write. Use another folder.")
        self._all: dict[str, Any] = found | wanted
        self.bad: dict[int, str] = {int(i): why for i, why in found["bad"].get(dataset.split, {}).items()}
        words = class_words(dataset.root, dataset.classes)
        write_atomically(out / CLASS_FILE, class_lines(dataset.classes))
        if words:
            write_atomically(out / "words.txt", "".join(f"{escape(c)}\t{w}\n" for c, w in words.items()).encode())
        self.save({})

    def save(self, bad: dict[int, str]) -> None:
        """Add bad images; called before the shard that lacks them appears, so that the record is never behind."""
        self.bad |= bad
        self._all["bad"][self._dataset.split] = {str(i): why for i, why in sorted(self.bad.items())}
        write_atomically(self._path, json.dumps(self._all, indent=1).encode())

    def check(self, max_bad: float) -> None:
        if len(self.bad) > max_bad * len(self._dataset):
            raise TooManyBadFiles(describe_bad(self._dataset, self.bad, max_bad))


def _plan(dataset: Dataset, out: Path, options: PackOptions) -> dict[Path, NDArray[np.int64]]:
    """Each shard and its images, in order."""
    order = np.arange(len(dataset))
    if dataset.split == "train":
        order = np.random.default_rng(ORDER_SEED).permutation(len(dataset))
    size = options.images_per_shard
    starts = range(0, len(order), size)
    return {out / f"{dataset.split}-{i:06d}.tar": order[first : first + size] for i, first in enumerate(starts)}


def _encode(
    dataset: Dataset, images: NDArray[np.int64], options: PackOptions, settings: Settings, pool: ThreadPoolExecutor
) -> Iterator[Encoded]:
    """Encode these images in this order, several at a time. `_Record.check` limits how many may be bad."""

    def encoded(pixels: NDArray[np.uint8]) -> bytes:
        buffer = io.BytesIO()
        if options.raw:
            np.save(buffer, pixels, allow_pickle=False)
        else:
            Image.fromarray(pixels).save(buffer, "JPEG", quality=options.quality, subsampling=CHROMA)
        return buffer.getvalue()

    done, lenient = 0, replace(settings, max_bad=1.0)
    for batch in squares(dataset, images, batch_size=BATCH, settings=lenient):
        contents = pool.map(encoded, batch.pixels.cpu().numpy())
        found = dict(batch.bad) | dict(zip(batch.indices.tolist(), contents, strict=True))
        yield from ((image, found[image]) for image in images[done : done + len(found)].tolist())
        done += len(found)


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
                parts = {RAW_EXTENSION[1:] if options.raw else "jpg": content, "cls": b"%d" % dataset.labels[image]}
                index.append(" ".join(_add(tar, file, f"{_key(dataset, image)}.{e}", parts[e]) for e in parts))
            done += 1
            progress(done)
        tar.close()
        record.save(bad)
        write_atomically(path.with_suffix(".idx"), "\n".join([f"v1.2 {len(index)}", *index, ""]).encode())
    return done


def _key(dataset: Dataset, image: int) -> str:
    """The image's index in its data set, then its name in characters that every archive reader accepts."""
    stem = Path(dataset.names[image]).stem.encode("ascii", "replace").decode()
    return f"{image:08d}-{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:60]}"


def _add(tar: tarfile.TarFile, file: BinaryIO, name: str, content: bytes) -> str:
    """Append a member; return its line for DALI's index."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    offset = file.tell() + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(content))
    return f"{name.partition('.')[2]} {offset} {len(content)} {name}"


def _finish(dataset: Dataset, out: Path, shards: list[Path], record: _Record, raw: bool) -> Packed:
    """Write the index of the whole split."""
    listing = Listing()
    header = _raw_header_size() if raw else 0
    for number, shard in enumerate(shards):
        for line in shard.with_suffix(".idx").read_text().splitlines()[1:]:
            _, offset, size, name, *_ = line.split()
            label = int(dataset.labels[int(name.split("-")[0])])
            listing.add(name, label, int(size) - header, container=number, offset=int(offset) + header)
    packed = listing.dataset(out, dataset.split, dataset.classes, shards, raw=raw)
    save_index(out / f"{dataset.split}.index", shard_stamp(shards), packed)
    bad = {dataset.name(i): why for i, why in sorted(record.bad.items())}
    return Packed(dataset.split, len(packed), len(shards), sum(s.stat().st_size for s in shards), bad)


def _raw_header_size() -> int:
    """Bytes before the pixels of a square in numpy's format."""
    buffer, square = io.BytesIO(), np.empty(RAW_SHAPE, np.uint8)
    np.save(buffer, square)
    return buffer.tell() - square.nbytes
