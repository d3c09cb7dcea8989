"""The shards of a data set that are elsewhere: read through the cache, and brought there ahead of need.

A reader that needs a shard waits until it is whole. So that it seldom has to, whoever knows the order of reading asks
for `ahead`, and says at each step how far it has come; a few threads then fetch what comes next.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import RemoteError
from ..sizes import as_size
from .shard_cache import FOLDER, ShardCache
from .store import RemoteFile

AHEAD = 4  # shards to fetch before they are needed, and at the same time
SECONDS_BETWEEN_LOOKS = 0.1  # at whether anybody still waits
LEAST_SHARDS = AHEAD + 3  # that a cache must hold: those ahead, and three that are read, of a window or of two splits


class RemoteShards:
    """The shards of one split, by their number. Reading is safe from many threads and processes."""

    def __init__(self, url: str, files: tuple[RemoteFile, ...], cache: ShardCache) -> None:
        self.url, self.files, self.cache = url, files, cache
        self.sizes: NDArray[np.int64] = np.array([file.size for file in files], np.int64)
        self._fetching = _Fetching(files, cache)
        self._stop = threading.Event()

    def __reduce__(self) -> tuple[type[RemoteShards], tuple[str, tuple[RemoteFile, ...], ShardCache]]:
        return RemoteShards, (self.url, self.files, self.cache)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the shards are, or will be once fetched."""
        return tuple(map(self.cache.path, self.files))

    def check_cache(self) -> None:
        """Raise UserError if the cache is too small to work with, or the disk for the cache."""
        total, largest = int(self.sizes.sum()), int(self.sizes.max())
        if self.cache.limit < min(total, LEAST_SHARDS * largest):
            least = f"{as_size(LEAST_SHARDS * largest)}, or all {as_size(total)}"
            raise RemoteError(
                f"--cache-size {as_size(self.cache.limit)} is too small for the shards of {self.url}, of which the "
                f"largest has {as_size(largest)}: give at least {LEAST_SHARDS} times that ({least})."
            )
        self.cache.check_room(total, self.url)

    def until(self, stop: threading.Event) -> RemoteShards:
        """Return the same shards for readers that are to wait no longer once `stop` is set."""
        view = RemoteShards.__new__(RemoteShards)
        vars(view).update(vars(self), _stop=stop)
        return view

    def open(self, shard: int) -> int:
        """Return a descriptor of a whole shard, which can be read whatever happens to the cache meanwhile.

        RemoteError if it cannot be fetched.
        """
        try:
            while (descriptor := self.cache.open(self.files[shard])) is None:
                arriving = self._fetching.now(shard)
                while not wait([arriving], SECONDS_BETWEEN_LOOKS).done:
                    if self._stop.is_set():
                        raise RemoteError(f"Nobody waits for {self.files[shard].url} any longer.")
                arriving.result()
        except OSError as error:  # as of a bad image, it would be passed over
            what = f"{self.files[shard].url} cannot be kept in {self.cache.folder}: {error.strerror or error}"
            raise RemoteError(f"{what}. Give a smaller --cache-size, or another folder in ${FOLDER}.") from error
        return descriptor

    def read(self, shard: int, length: int, offset: int) -> bytes:
        """Return these bytes of a shard; RemoteError if it cannot be fetched."""
        descriptor = self.open(shard)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    # -- ahead of need -------------------------------------------------------------------------------------

    def ahead(self, order: NDArray[np.integer]) -> Callable[[int], None]:
        """Prepare to read from these shards, one for each position, in this order.

        Call the result with each position that reading has reached. If the cache holds all of these shards, all are
        fetched; otherwise no more than `AHEAD` of those that have not had their turn, and those that had their last
        make room first.
        """
        shards, first = np.unique(order, return_index=True)
        last = len(order) - np.unique(order[::-1], return_index=True)[1]
        by_turn, by_end = np.argsort(first), np.argsort(last)
        begins, ends = first[by_turn], last[by_end]
        coming, going = shards[by_turn].tolist(), shards[by_end].tolist()
        fits, asked, released = int(self.sizes[shards].sum()) <= self.cache.limit, 0, 0

        def reached(position: int) -> None:
            nonlocal asked, released
            if not fits:
                over = int(np.searchsorted(ends, position, side="right"))
                for shard in going[released:over]:
                    self.cache.release(self.files[shard])
                released = max(released, over)
            begun = int(np.searchsorted(begins, position, side="right"))
            until = len(coming) if fits else min(begun + AHEAD, len(coming))
            self._fetching.soon(coming[asked:until])
            asked = max(asked, until)

        return reached


class _Fetching:
    """The shards that are on their way, and those that will be: one for all that read a data set, and no longer."""

    def __init__(self, files: tuple[RemoteFile, ...], cache: ShardCache) -> None:
        self._files, self._cache = files, cache
        self._waiting: deque[int] = deque()
        self._on_its_way: dict[int, Future[None]] = {}
        self._lock = threading.Lock()

    def now(self, shard: int) -> Future[None]:
        """Fetch the shard at once, unless it is on its way; the result is there when it has arrived."""
        with self._lock:
            return self._on_its_way.get(shard) or self._start(shard)

    def soon(self, shards: list[int]) -> None:
        """Fetch these, up to `AHEAD` at a time."""
        with self._lock:
            self._waiting.extend(shards)
            self._start_those_waiting()

    def _start_those_waiting(self) -> None:
        while self._waiting and len(self._on_its_way) < AHEAD:
            shard = self._waiting.popleft()
            if shard not in self._on_its_way and not self._cache.path(self._files[shard]).exists():
                self._start(shard)

    def _start(self, shard: int) -> Future[None]:
        """Fetch the shard in a thread of its own, which holds up neither a reader that stops nor the program's end."""
        arriving = self._on_its_way[shard] = Future[None]()
        arguments = weakref.ref(self), self._cache, self._files[shard], shard, arriving
        threading.Thread(target=_fetch, args=arguments, name="alexnet-fetch", daemon=True).start()
        return arriving

    def ended(self, shard: int, *, whole: bool) -> None:
        """Note that a shard has arrived, or that it will not."""
        with self._lock:
            del self._on_its_way[shard]
            if not whole:  # nor will the others come
                self._waiting.clear()
            self._start_those_waiting()


def _fetch(
    owner: weakref.ref[_Fetching], cache: ShardCache, file: RemoteFile, shard: int, arriving: Future[None]
) -> None:
    """Fetch one shard; once its data set is forgotten, which may happen meanwhile, nothing follows it."""
    error: Exception | None = None
    try:
        cache.bring(file)
    except Exception as failed:
        error = failed
    if (fetching := owner()) is not None:
        fetching.ended(shard, whole=error is None)
    if error:
        arriving.set_exception(error)
    else:
        arriving.set_result(None)
