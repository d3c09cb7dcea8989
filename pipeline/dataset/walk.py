"""The image files below a folder: which are there, what was left out, and which folders to watch for changes.

`layouts.py` knows what the folders mean. Here links can lead nowhere or in a circle. What should be an image but cannot
be read is listed with a size of 0, and reported as a bad image once it is read.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Literal

from ..errors import DatasetError
from .classes import sorted_classes
from .names import count_left_out, is_hidden, is_image

Entry = os.DirEntry[str]


class Walk:
    """Finds images and remembers what it met; does not count files in `known` as left out."""

    def __init__(self, known: Iterable[Path] = ()) -> None:
        self.folders: dict[str, int] = {}  # folders read, and when each last changed, in ns
        self.left_out = Counter[str]()  # files that are not images, by extension
        self._known = frozenset(map(str, known))
        self._around: dict[Path, set[str]] = {}

    def subfolders(self, folder: Path) -> list[str]:
        """Return the names of the class folders, in the order of their labels; a lone images/ does not count."""
        names = list[str]()
        for entry in self._entries(str(folder)):
            if is_hidden(entry.name):
                continue
            kind = self._kind_of(entry)
            if kind == "folder":
                names.append(entry.name)
            elif is_image(entry.name):
                self.left_out["outside of class folders"] += 1
            elif kind == "file":
                self._leave_out(entry)
            else:
                hint = "A class folder may be missing; mend the link or remove it."
                raise DatasetError(f"{entry.path} is a symbolic link that leads nowhere or in a circle. {hint}")
        return [name for name in sorted_classes(names) if name != "images" or len(names) > 1]

    def images(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Yield (path, size) of every image file below, in sorted order; the size of an unreadable one is 0."""
        try:
            pending = [self._entries(str(folder))]
        except OSError as error:
            hint = "Allow reading, as by chmod -R a+rX, or remove it."
            raise DatasetError(f"The folder {folder} cannot be read ({error.strerror}). {hint}") from error
        while pending:
            for entry in pending[-1]:
                if is_hidden(entry.name):
                    continue
                if is_image(entry.name):
                    yield entry.path, _size_of(entry)
                elif (kind := self._kind_of(entry)) == "file":
                    self._leave_out(entry)
                elif kind == "folder" and self._descend(entry.path, pending):
                    break
                else:
                    yield entry.path, 0
            else:
                pending.pop()

    def _descend(self, folder: str, pending: list[Iterator[Entry]]) -> bool:
        try:
            pending.append(self._entries(folder))
        except OSError:
            return False
        return True

    def _entries(self, folder: str) -> Iterator[Entry]:
        self.folders[folder] = os.stat(folder).st_mtime_ns  # noqa: PTH116  (before it is read, so that no change is missed)
        with os.scandir(folder) as entries:
            return iter(sorted(entries, key=attrgetter("name")))

    def _leave_out(self, entry: Entry) -> None:
        if entry.path not in self._known:
            count_left_out(self.left_out, [entry.name])

    def _kind_of(self, entry: Entry) -> Literal["folder", "file", "lost"]:
        """Return the kind; a link that leads nowhere or in a circle is lost."""
        try:
            if entry.is_symlink() and os.path.realpath(entry.path, strict=True) in self._folders_around(entry):
                return "lost"
            return "folder" if entry.is_dir() else "file"
        except OSError:
            return "lost"

    def _folders_around(self, entry: Entry) -> set[str]:
        """Return the real paths of all folders above the entry, by whichever links it was reached."""
        folder = Path(entry.path).parent
        if folder not in self._around:
            real = [Path(os.path.realpath(above)) for above in (folder, *folder.parents)]
            self._around[folder] = {str(path) for way in real for path in (way, *way.parents)}
        return self._around[folder]


def _size_of(entry: Entry) -> int:
    try:
        found = entry.stat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
