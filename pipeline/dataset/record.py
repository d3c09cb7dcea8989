"""`pack.json`, which a pack keeps beside its shards: what it was made from and how, and the digest of each shard.

`pack.py` writes it; here it is read, to name images as they were before and to see whether all shards are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .images import Split

RECORD = "pack.json"


def read_record(folder: Path, where: str = "") -> dict[str, Any] | None:
    """Return the record in a folder, or None; DatasetError, which names the folder or `where`, if it is damaged."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        hint = "Upload the pack again" if where else "Write the pack again"
        raise DatasetError(f"{where or folder}/{RECORD} is damaged ({error}). {hint}.") from error


def shard_digests(record: dict[str, Any] | None) -> dict[str, str]:
    """Return the shards that a record names, each with its digest; records of older packs name none."""
    found = record and record.get("shards")
    named = found.items() if isinstance(found, dict) else ()
    return {str(name): str(digest) for name, digest in named if "/" not in name}


def check_all_there(named: Iterable[str], split: Split, shards: Iterable[str], where: str | Path) -> None:
    """Raise DatasetError if some of the shards that a record names for a split are there, and others are not."""
    of_split = {name for name in named if name.startswith(f"{split}-")}
    missing = sorted(of_split - {*shards})
    if missing and len(missing) < len(of_split):
        lacks = f"{where} lacks {len(missing)} of the {len(of_split)} {split} shards that its {RECORD} names"
        hint = f"Finish the copy, or the pack; to use the shards as they are, remove {RECORD}"
        raise DatasetError(f"{lacks}, such as {missing[0]}. {hint}.")
