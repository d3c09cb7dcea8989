"""The folder that keeps fetched shards: within bounds, the least recently used goes first, shared by all processes.

    <folder>/<digest of URL, size and tag>/<name>               a whole, verified shard
    <folder>/<digest of URL, size and tag>/<name>.<size>.part   one on its way, locked by the process that fetches it
    <folder>/.lock                                              held while shards are counted, evicted or get their name

A shard is read through a descriptor, and what is open can be read to its end even if it is evicted meanwhile: whoever
has opened a shard needs no lock. A whole shard was synced before it got its name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..cache import needed_cache
from ..errors import UserError
from ..files import can_write_into
from ..sizes import as_size, parse_size
from .store import RemoteFile, fetch

FOLDER, SIZE = "ALEXNET_SHARDS", "ALEXNET_CACHE_SIZE"  # environment variables
DEFAULT_SIZE = "100GB"
SECONDS_BETWEEN_TOUCHES = 5.0
RELEASED = 0.0  # the time of last use, for a shard that nobody needs any longer
PART = re.compile(r".*\.(\d+)\.part")


def shard_cache() -> ShardCache:
    """Return the cache in $ALEXNET_SHARDS, else in the cache folder, of at most $ALEXNET_CACHE_SIZE bytes."""
    if chosen := os.environ.get(FOLDER):
        folder = Path(chosen)
        if not can_write_into(folder):
            raise UserError(f"The folder {folder} (from ${FOLDER}) cannot be written. Choose another.")
    else:
        folder = needed_cache("Shards that are fetched are kept there.") / "shards"
    text = os.environ.get(SIZE) or DEFAULT_SIZE
    if (limit := parse_size(text)) is None:
        raise UserError(f"${SIZE} is {text!r}, which is not a size such as {DEFAULT_SIZE}.")
    return ShardCache(folder, limit)


@dataclass(frozen=True)
class ShardCache:
    """Whole shards in `folder`, of `limit` bytes together, but for those on their way."""

    folder: Path
    limit: int
    _touched: dict[Path, float] = field(default_factory=dict, repr=False)  # when, by the monotonic clock

    def path(self, file: RemoteFile) -> Path:
        """Return where the shard is, or will be; another version of it is elsewhere."""
        digest = hashlib.blake2b(f"{file.url}\n{file.size}\n{file.tag}".encode(), digest_size=12).hexdigest()
        return self.folder / digest / file.name

    def open(self, file: RemoteFile) -> int | None:
        """Return a descriptor of the whole shard, or None if it is not there."""
        path = self.path(file)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        found = os.fstat(descriptor)
        if found.st_size == file.size:
            self._touch(path, at_once=found.st_mtime == RELEASED)
            return descriptor
        os.close(descriptor)  # something else has damaged it
        path.unlink(missing_ok=True)
        return None

    def bring(self, file: RemoteFile) -> None:
        """Fetch the shard unless it is there; wait if another process or thread is fetching it."""
        path = self.path(file)
        part = path.with_name(f"{path.name}.{file.size}.part")
        with _locked(part):
            if path.exists():
                part.unlink()
                return
            try:
                self._make_room()
                fetch(file, part)
                _sync(part)
                with self._exclusively():
                    part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def release(self, file: RemoteFile) -> None:
        """Let the shard go before all others, for its last reader has had it. Any that opens it later keeps it."""
        with suppress(FileNotFoundError, PermissionError):
            os.utime(self.path(file), (RELEASED, RELEASED))

    def num_bytes(self) -> int:
        """The size of all that is here, whole or on its way."""
        return sum(_sizes(self._entries()).values())

    def check_room(self, num_bytes: int, where: str) -> None:
        """Raise UserError if the disk has no room for what the cache may hold of `num_bytes` of shards."""
        self.folder.mkdir(parents=True, exist_ok=True)
        room = self.num_bytes() + shutil.disk_usage(self.folder).free
        if room < min(self.limit, num_bytes):
            wanted = f"Up to {as_size(min(self.limit, num_bytes))} of {where} would be kept in {self.folder}"
            hint = f"Give a smaller --cache-size, or a folder on a larger disk in ${FOLDER}."
            raise UserError(f"{wanted}, which has room for {as_size(room)}. {hint}")

    def _make_room(self) -> None:
        """Evict whole shards, those first that were used least recently, until all is within the limit.

        One that somebody waits for, with a part beside it, stays. The parts count with their final sizes: that of the
        caller, too, which has room afterwards.
        """
        with self._exclusively():
            self._remove_stale_parts()
            entries = sorted(self._entries())
            sizes = _sizes(entries)
            total = sum(sizes.values())
            awaited = {path.parent for _, _, path in entries if PART.fullmatch(path.name)}
            for _, _, path in entries:
                if total <= self.limit:
                    break
                if path.parent not in awaited:
                    path.unlink(missing_ok=True)
                    total -= sizes[path.parent]
                    with suppress(OSError):  # a part may be in it by now
                        path.parent.rmdir()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Keep all other processes and threads from counting and evicting shards, and from giving them their names."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield (time of last use, size, path) of what is here."""
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                part = PART.fullmatch(path.name)
                yield found.st_mtime, int(part[1]) if part else found.st_size, path

    def _remove_stale_parts(self) -> None:
        """Remove what killed processes left: parts that nobody holds locked."""
        for path in self.folder.glob("*/*.part"):
            with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as part:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_named(part.fileno(), path):  # else it is whole by now, and another may have the name
                    path.unlink()

    def _touch(self, path: Path, *, at_once: bool) -> None:
        """Note that the shard is in use; every few seconds is enough."""
        now = time.monotonic()
        if at_once or now - self._touched.get(path, -SECONDS_BETWEEN_TOUCHES) >= SECONDS_BETWEEN_TOUCHES:
            self._touched[path] = now
            with suppress(FileNotFoundError, PermissionError):  # another user's
                os.utime(path)


def _sizes(entries: Iterable[tuple[float, int, Path]]) -> dict[Path, int]:
    """Return the size of each shard by its folder: whoever waits for one may find it whole beside a part of its own."""
    return {path.parent: size for _, size, path in entries}


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold the lock on a file, which is made if need be. A killed process releases it.

    Whoever had it before has perhaps renamed or removed the file: a lock counts only on the file that has the name.
    """
    while True:
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("ab")
        except (FileExistsError, FileNotFoundError):  # the folder was empty, and is being removed
            continue
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_named(file.fileno(), part):
                yield
                return


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
