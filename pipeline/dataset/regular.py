"""Open regular files only: opening a FIFO can wait for ever, and opening a device can have effects.

`images.py` and `archive.py` read with this.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegular(ValueError):
    """There is no regular file; the message says what there is."""


def check_regular(path: str | Path) -> None:
    """Raise `NotRegular` with what is at `path` instead, OSError if nothing is there or it cannot be examined."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114
            target = os.readlink(path)  # noqa: PTH115
            raise NotRegular(f"a symbolic link to {target}, which cannot be followed ({error.strerror})") from error
        raise
    if stat.S_ISDIR(mode) and os.path.islink(path):  # noqa: PTH114
        raise NotRegular("a symbolic link to a folder, not a regular file")
    if stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK):
        raise NotRegular("a folder without read permission")
    _check_mode(mode)


def open_regular(path: str | Path) -> int:
    """Open the file and return a descriptor; raise as `check_regular` does."""
    check_regular(path)
    return _open(path)


def read_regular(path: str, *, listed_as_such: bool) -> bytes:
    """Return the file's bytes; raise as `check_regular` does, but skip that check for a file `listed_as_such`."""
    if not listed_as_such:
        check_regular(path)
    with io.FileIO(_open(path)) as file:
        return file.readall()


def _open(path: str | Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # NONBLOCK: it may be a FIFO by now
    try:
        _check_mode(os.fstat(descriptor).st_mode)
    except NotRegular:
        os.close(descriptor)
        raise
    return descriptor


def _check_mode(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegular(f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file")
