"""The cache folder, for what can be made again: lists of images, statistics, half-done passes, generated JPEGs.

Without one that can be written nothing is kept: everything works, but is made anew each time. Work that cannot do
without it asks before it begins.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

from .errors import UserError
from .files import can_write_into

ADVICE = "Set ALEXNET_CACHE to a folder that can be written"

log = logging.getLogger("alexnet")


def cache_folder() -> Path | None:
    """Where to look for what was kept: $ALEXNET_CACHE, else the user's cache folder; None where nobody could."""
    folder = _wanted()
    readable = folder is not None and os.access(folder, os.R_OK | os.X_OK)
    return folder if readable or not cache_problem() else None


def cache_problem() -> str:
    """Why nothing can be kept; empty where it can."""
    if (folder := _wanted()) is None:
        return "There is no home folder to keep a cache in"
    return "" if can_write_into(folder) else f"The cache folder {folder} cannot be written"


def can_keep() -> bool:
    """Whether there is a folder to write into; the first time that there is none, a note says so."""
    if problem := cache_problem():
        _note(problem)
    return not problem


def needed_cache(what: str) -> Path:
    """The folder, to write into; UserError says that `what`, a sentence, is why there must be one."""
    folder, problem = cache_folder(), cache_problem()
    if folder is None or problem:
        raise UserError(f"{problem}. {what} {ADVICE}.")
    return folder


@cache
def _note(problem: str) -> None:
    log.warning("%s, so nothing is kept for the next time. %s.", problem, ADVICE)


def _wanted() -> Path | None:
    """None for a user without a home: one that the system does not know, or whose home is the root of all folders."""
    if own := os.environ.get("ALEXNET_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "alexnet"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return None if home == Path("/") else home / ".cache/alexnet"
