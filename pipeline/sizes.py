"""Amounts of memory and of disk space as people write them: 40GB, 500 MiB."""

from __future__ import annotations

import re

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int | None:
    """Return the bytes, or None if this is no size."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMG]?B|TB|[KMG]IB)", text.strip().upper())
    return int(float(found[1]) * UNITS[found[2]]) if found else None


def as_size(num_bytes: float) -> str:
    """Write a size in the largest unit that leaves a number of at least 1."""
    for unit in ("TB", "GB", "MB"):
        if num_bytes >= UNITS[unit]:
            return f"{num_bytes / UNITS[unit]:.3g} {unit}"
    return f"{num_bytes / UNITS['KB']:.3g} KB"
