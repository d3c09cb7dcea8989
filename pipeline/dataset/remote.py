"""Shards behind a URL as a `Dataset`: a pack, or WebDataset shards.

    the folder's listing, the manifest of a pack, or a pattern -> the shards of a split
    an index beside them, or else one pass over them -> a `Dataset` that reads through the cache (`remote/shards.py`)

The small files beside the shards are copied into a folder of the cache, which stands for the data set's own: class
names, a pack's record and its indexes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..cache import needed_cache
from ..errors import DatasetError, NoSplit
from ..files import whole_file
from ..remote.errors import Refused
from ..remote.shard_cache import shard_cache
from ..remote.shards import RemoteShards
from ..remote.store import RemoteFile, examine, examine_those_there, fetch, list_folder
from ..remote.urls import expanded, is_pattern, url_of
from ..sizes import as_size
from .classes import CLASS_FILE, is_numbered, named
from .images import Dataset, Split
from .index import index_path, keep_index, load_index, stamp_of
from .labels import WORD_FILES
from .names import SPLIT_NAMES, describe_left_out, split_word
from .numbers import kept_names_path
from .record import RECORD, check_all_there, read_record, shard_digests
from .shards import has_label, list_shards, stamp_of_sizes
from .splits import ILSVRC_TARS, chosen_by_word, is_of_test

log = logging.getLogger("alexnet")

BESIDE = (
    CLASS_FILE,
    *WORD_FILES,
    RECORD,
    *(f"{split}.index" for split in ILSVRC_TARS),
    *(kept_names_path(Path(), split).name for split in ILSVRC_TARS),
)
SECONDS_LISTED = 60.0  # how long a listing is good for: both splits are opened with one


def open_remote(url: str, split: Split, rescan: bool = False) -> Dataset:
    """Open a split of what is behind a URL, with labels that are positions in its own classes.

    Raise `NoSplit` if nothing of the split is there, `DatasetError` or `RemoteError` if something is wrong with it.
    """
    cache, folder = shard_cache(), RemoteFolder.find(url, rescan)
    files, root = folder.shards(split), folder.beside()
    remote = RemoteShards(url, files, cache)
    remote.check_cache()
    index, stamp = root / f"{split}.index", stamp_of_sizes((file.name, file.size) for file in files)
    dataset = None if rescan else load_index(index, stamp, split)
    names = root / CLASS_FILE if (root / CLASS_FILE).is_file() else None
    if dataset is None:
        dataset = _listed(remote, root, split, names, rescan)
    dataset = replace(dataset, root=root, containers=remote.paths, remote=remote, _descriptors={})
    return named(dataset, names) if is_numbered(dataset.classes) else dataset


def describe_remote(url: str, split: Split) -> str:
    """Say what there is of a split; raise `NoSplit` if nothing is."""
    count = len(RemoteFolder.find(url).shards(split))
    return f"{count} shard{'s' * (count > 1)}"


@dataclass(frozen=True)
class RemoteFolder:
    """What is behind a URL: shards, by their paths below it, and the small files beside them."""

    url: str
    tars: dict[str, str]  # their URLs by their paths below this one, or below the folders that a pattern has in common
    small: tuple[RemoteFile, ...]
    time: float  # when it was listed, by the monotonic clock
    _examined: dict[Split, tuple[RemoteFile, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def find(cls, url: str, rescan: bool = False) -> RemoteFolder:
        """List it, unless that was done within the last minute."""
        known = _listings.get(url)
        if rescan or known is None or time.monotonic() - known.time > SECONDS_LISTED:
            known = _listings[url] = cls._pattern(url) if is_pattern(url) else cls._folder(url)
        return known

    @classmethod
    def _pattern(cls, url: str) -> RemoteFolder:
        shards = expanded(url)
        base = url_of(os.path.commonpath([shard.rpartition("/")[0] for shard in shards]))
        if not base:
            raise DatasetError(f"{url} names shards of several hosts or buckets. Give those of one.")
        small = examine_those_there(f"{base}/{name}" for name in BESIDE)
        return cls(url, {shard.removeprefix(f"{base}/"): shard for shard in shards}, tuple(small), time.monotonic())

    @classmethod
    def _folder(cls, url: str) -> RemoteFolder:
        refused: Refused | None = None
        try:
            entries = list_folder(url)
        except Refused as error:  # the files in it may be for everyone all the same
            entries, refused = [], error
        for inner in [entry for entry in entries if entry.endswith("/") and _is_split(entry[:-1])]:
            entries += list_folder(inner[:-1])
        below = {entry[len(url) + 1 :]: entry for entry in entries}
        small = examine([below[name] for name in BESIDE if name in below])
        tars = {name: entry for name, entry in below.items() if name.endswith(".tar")}
        if not tars:
            small = examine_those_there(f"{url}/{name}" for name in BESIDE)
            found = cls(url, {}, tuple(small), 0.0)
            tars = {name: f"{url}/{name}" for name in found.manifest()}
        if refused and not tars:
            raise refused
        if not tars:
            what = ", ".join(sorted(below)[:5]) or "nothing, or no page that lists it"
            raise DatasetError(f"There are no shards at {url}; found: {what}. {_how_to()}")
        return cls(url, tars, tuple(small), time.monotonic())

    def shards(self, split: Split) -> tuple[RemoteFile, ...]:
        """Return the shards of a split, those in its folder or else those with its word in their names, in order."""
        if split not in self._examined:
            digests, chosen = self.manifest(), self._chosen(split)
            if not is_pattern(self.url):
                check_all_there(digests, split, chosen, self.url)
            files = examine(self.tars[tar] for tar in chosen)
            known = tuple(replace(file, checksum=digests.get(file.name) or file.checksum) for file in files)
            self._check_labels(split, chosen[0], known)
            self._examined[split] = known
        return self._examined[split]

    def _check_labels(self, split: Split, first: str, shards: tuple[RemoteFile, ...]) -> None:
        """Raise `NoSplit` if these are the images of a competition, without labels."""
        if not is_of_test(Path(first), split) or (self.beside() / f"{split}.index").is_file():
            return
        remote = RemoteShards(self.url, shards, shard_cache())
        remote.check_cache()
        with _opened(remote, lambda number: None, 0) as shard:
            labelled = has_label(shard)
        if not labelled:
            raise NoSplit(f"The images in {shards[0].url} have no labels. Set some aside with --val-fraction 0.1.")

    def _chosen(self, split: Split) -> list[str]:
        if originals := {*ILSVRC_TARS.values()} & {*self.tars}:
            raise DatasetError(f"{self.url}/{min(originals)} can only be read from a local disk. {_how_to()}")
        within = {tar: tar.partition("/")[0].lower() for tar in self.tars if "/" in tar}
        beside = {tar: split_word(tar.removesuffix(".tar")) for tar in self.tars if "/" not in tar}
        chosen = sorted(chosen_by_word(within, split) or chosen_by_word(beside, split))
        if not chosen:
            shown = ", ".join(sorted(self.tars)[:3]) + (", ..." if len(self.tars) > 3 else "")
            looked = f"Looked for names such as x-{split}-000.tar; found: {shown}"
            hint = "A pattern can name both splits: 'https://host/{x-train-{000..146},x-val-{000..006}}.tar'"
            raise NoSplit(f"No {split} shards at {self.url}. {looked}. {hint if is_pattern(self.url) else ''}".strip())
        return chosen

    def beside(self) -> Path:
        """Return a local folder with copies of the small files; others get another folder once they change."""
        what = json.dumps([self.url, *([file.url, file.size, file.tag] for file in self.small)])
        digest = hashlib.blake2b(what.encode(), digest_size=12).hexdigest()
        folder = needed_cache("What is beside the shards is kept there.") / "remote" / digest
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.small:
            if not (folder / file.name).exists():
                with whole_file(folder / file.name) as copy:
                    fetch(file, Path(copy.name))
        return folder

    def manifest(self) -> dict[str, str]:
        """Return the shards that a pack's record names, with their digests; none if there is no such record."""
        return shard_digests(read_record(self.beside(), self.url))


_listings: dict[str, RemoteFolder] = {}  # by URL


def _is_split(url: str) -> bool:
    return any(url.rpartition("/")[2].lower() in names for names in SPLIT_NAMES.values())


def _how_to() -> str:
    return "Packs and WebDataset shards can be read from afar: `alexnet pack` makes a pack of any data set."


def _listed(remote: RemoteShards, root: Path, split: Split, names: Path | None, rescan: bool) -> Dataset:
    """List the samples of shards without an index, or take the list that was kept when that was done before."""
    tags = [[file.url, file.tag, file.size] for file in remote.files]
    path, stamp = index_path(Path(remote.url), split), stamp_of(root, split, "remote shards", tags)
    if path and not rescan and (kept := load_index(path, stamp, split)) is not None:
        return kept
    size = as_size(int(remote.sizes.sum()))
    log.info("%s has no index of its %s split: reading all %d shards (%s) once", remote.url, split, len(tags), size)
    left_out, reached = Counter[str](), remote.ahead(np.arange(len(tags)))
    listed = list_shards(root, split, remote.paths, left_out, partial(_opened, remote, reached))
    dataset = named(replace(listed, remote=remote), names)
    if not len(dataset):
        raise DatasetError(f"No images in the {split} shards of {remote.url}. {describe_left_out(left_out)}".strip())
    if left_out:
        log.info("%s split of %s: %s", split, remote.url, describe_left_out(left_out))
    if path:
        keep_index(path, stamp, dataset)
    return dataset


@contextmanager
def _opened(remote: RemoteShards, reached: Callable[[int], None], number: int) -> Iterator[Path]:
    """Provide a shard as a file that stays there even if the cache evicts it; errors name its URL."""
    reached(number)
    descriptor = remote.open(number)
    path = Path(f"/proc/self/fd/{descriptor}")
    try:
        yield path
    except DatasetError as error:
        raise DatasetError(str(error).replace(str(path), remote.files[number].url)) from error
    finally:
        os.close(descriptor)
