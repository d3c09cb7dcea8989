"""The compiled half of a module: C code beside it, built when alexnet is installed and called through ctypes."""

import ctypes
from pathlib import Path

from .errors import UserError


class NotBuilt(UserError):
    """The compiled half of a module is missing."""


def load(source: Path) -> ctypes.CDLL:
    """The newest library built from a C file. One for any interpreter will do: the code does not use Python's API."""
    built = source.parent.glob(f"_{source.stem}.*so")
    if (found := max(built, key=lambda path: path.stat().st_mtime, default=None)) is None:
        raise NotBuilt(f"{source.name} was not compiled. Install gcc, then install alexnet again.")
    return ctypes.CDLL(str(found))
