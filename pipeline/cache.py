"""The cache folder, for what can be made again: lists of images, statistics, half-done passes, generated JPEGs.

Without a writable one everything works, but is made again each time. Work that needs one checks before it begins.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from pathlib import Path

from .errors import UserError
from .files import can_write_into

ADVICE = "Set ALEXNET_CACHE to a writable folder"

log = logging.getLogger("alexnet")


def cache_folder() -> Path | None:
    """Return $ALEXNET_CACHE, else the user's cache folder; None if it can be neither read nor written."""
    folder = _wanted()
    readable = folder is not None and os.access(folder, os.R_OK | os.X_OK)
    return folder if readable or not cache_problem() else None


def cache_problem() -> str:
    """Say why nothing can be kept; empty if all is well."""
    if (folder := _wanted()) is None:
        return "There is no home folder to keep a cache in"
    return "" if can_write_into(folder) else f"The cache folder {folder} cannot be written"


def can_keep() -> bool:
    """Return whether there is a folder to write into; warn the first time there is none."""
    if problem := cache_problem():
        _warn_once(problem)
    return not problem


def needed_cache(what: str) -> Path:
    """Return a folder to write into, or raise `UserError` with `what`, a sentence that says why one is needed."""
    folder, problem = cache_folder(), cache_problem()
    if folder is None or problem:
        raise UserError(f"{problem}. {what} {ADVICE}.")
    return folder


@cache
def _warn_once(problem: str) -> None:
    log.warning("%s, so nothing is kept for next time. %s.", problem, ADVICE)


def _wanted() -> Path | None:
    """None for a user without a home: one unknown to the system, or whose home is `/`."""
    if own := os.environ.get("ALEXNET_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "alexnet"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return None if home == Path("/") else home / ".cache/alexnet"
