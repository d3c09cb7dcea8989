"""Files that are whole or absent, and folders that have one writer at a time.

Whatever must survive a kill or a power cut is written by `whole_file`: checkpoints, statistics, indexes, packs.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

log = logging.getLogger("alexnet")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError that lacks one, as errors of an open file do."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def whole_file(path: Path, needed_bytes: int = 0) -> Iterator[BinaryIO]:
    """Yield a file to write; it appears at `path` once complete and on disk. After an error the old one stays.

    Raise OSError at once if the disk has no room for `needed_bytes`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < needed_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    # Processes in two containers can have the same number, and the same cache.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{token_hex(4)}.tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, though not the contents of its files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def can_write_into(folder: Path) -> bool:
    """Return whether permissions allow writing into a folder, or making it first."""
    levels = (folder, *folder.absolute().parents)
    there = next(level for level in levels if os.path.exists(level))  # noqa: PTH110  # Path's raises if denied
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def write_atomically(path: Path, content: bytes) -> None:
    """Put all of `content` at `path`, or leave what was there before."""
    with naming(path), whole_file(path) as file:
        file.write(content)


@contextmanager
def only_writer(folder: Path, otherwise: Exception) -> Iterator[None]:
    """Hold the folder's lock; raise `otherwise` if another process holds it. A killed process releases it.

    Where the file system has no locks, as Lustre on many clusters, warn and go on without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise otherwise from None
        except OSError as error:
            hint = "see that no other process writes there"
            log.warning("%s cannot be locked (%s); %s.", folder, error.strerror, hint)
        yield


def write_figure(path: Path, figure: Any) -> None:
    """Write a figure of matplotlib's, in the format that the suffix of `path` names, whole or not at all."""
    drawn = BytesIO()
    figure.savefig(drawn, format=path.suffix[1:].lower())
    write_atomically(path, drawn.getvalue())
