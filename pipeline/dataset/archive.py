"""The members of tar archives and where they are, with every header checked.

`layouts.py` and `shards.py` know what the members mean. Python's `tarfile` needs watching: a damaged header can make it
read gigabytes, go backwards, or take the damage for the end of the archive.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import DatasetError
from .regular import NotRegular, open_regular

MAX_HEADER = 1 << 20  # bytes of a long name or of extended headers; real ones have a few hundred


class _HeaderFile(io.BufferedReader):
    """A file from which `tarfile` can read headers, but nothing large."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def open_archive(path: Path) -> int:
    """Open the archive; return a descriptor."""
    try:
        return open_regular(path)
    except NotRegular as error:
        raise DatasetError(f"{path} is {error}. Put the archive itself there.") from error


def archive_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        os.close(open_archive(path))  # raises DatasetError if something else is there
        raise


def members(path: Path, start: int = 0, end: int | None = None) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar, or of the tar that begins at byte `start` of a larger one; offsets are absolute.

    Raise `DatasetError` if it is not a complete, uncompressed tar.
    """
    end = archive_size(path) if end is None else end
    with _HeaderFile(io.FileIO(open_archive(path))) as file:
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield from _checked(tar, start, end)
                file.seek(tar.offset)
                if tar.offset + tarfile.BLOCKSIZE > end or any(file.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError(f"no end mark at byte {tar.offset - start}")  # tarfile accepts that
        except (tarfile.TarError, ValueError, LookupError, RecursionError) as error:  # it depends on the damage
            hint = "It is truncated or not a plain tar; copy it again."
            raise DatasetError(f"The archive {path} cannot be read ({error}). {hint}") from error


def _checked(tar: tarfile.TarFile, before: int, end: int) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep a million of them
        if tar.offset <= before or member.size < 0:
            raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
        before = tar.offset
        is_file = member.isfile()
        if before > end or (is_file and member.offset_data + member.size > end):  # unknown kinds are skipped by size
            raise tarfile.ReadError(f"{member.name} ends beyond the archive")
        if not is_file:
            continue
        if member.issparse():
            raise tarfile.ReadError(f"{member.name} is stored as a sparse file")
        yield member
