"""The compiled half of a module: plain C beside it, built when alexnet is installed, called through ctypes."""

import ctypes
from pathlib import Path

from .errors import UserError


class NotBuilt(UserError):
    """The compiled half of a module is missing."""


def load(source: Path) -> ctypes.CDLL:
    """What was built of a C file. Any interpreter's build will do: there is no Python in it."""
    found = next(source.parent.glob(f"_{source.stem}*.so"), None)
    if found is None:
        raise NotBuilt(f"{source.name} was not compiled. Install gcc, then install alexnet again.")
    return ctypes.CDLL(str(found))
