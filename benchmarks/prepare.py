"""Data prepared once, in the cache folder, before anything is measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from alexnet.pipeline.cache import needed_cache
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.machine.hardware import num_cores
from alexnet.pipeline.pack import PackOptions, pack


def packed(dataset: Dataset, kind: str) -> Dataset:
    """Return what `alexnet pack` makes of the data set: `pack` (JPEGs), `dct`, `dct-420` or `raw`."""
    name, _, chroma = kind.partition("-")
    options = PackOptions(raw=name == "raw", dct=name == "dct", chroma="420" if chroma else None)
    settings = Settings(threads=num_cores())
    root = cached(
        f"{dataset.fingerprint}-pack{'' if kind == 'pack' else f'-{kind}'}",
        lambda draft: pack(dataset, draft, options, settings),
    )
    return open_dataset(root, "train")


def cached(name: str, write: Callable[[Path], object]) -> Path:
    """Return the file or folder `name` in the cache. If it is missing, `write` makes it, whole or not at all."""
    path = needed_cache("Benchmarks prepare their data there, once.") / "benchmarks" / name
    if path.exists():
        return path
    print(f"Making {path}, once.", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{name}.{os.getpid()}.tmp")
    try:
        write(draft)
        os.sync()
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True) if draft.is_file() else shutil.rmtree(draft, ignore_errors=True)
    return path
