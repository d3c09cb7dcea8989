"""What is made of a data set once, in the cache folder, before anything is measured."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet.pipeline.dataset import Dataset, cache_folder, open_dataset
from alexnet.pipeline.hardware import num_cores
from alexnet.pipeline.loader import squares
from alexnet.pipeline.stream import Settings

QUALITY = 90


def packed(dataset: Dataset) -> Dataset:
    """The central 256-squares of all images, as JPEGs of quality 90 and halved colour resolution."""
    return open_dataset(cached(f"{dataset.fingerprint}-256-q{QUALITY}", partial(_write_squares, dataset)), "train")


def cached(name: str, write: Callable[[Path], None]) -> Path:
    """The file or folder `name` in the cache, which `write` makes where it is not there; whole, or absent."""
    path = cache_folder() / "benchmarks" / name
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


def _write_squares(dataset: Dataset, root: Path) -> None:
    everything, settings = np.arange(len(dataset)), Settings(threads=num_cores())
    for batch in squares(dataset, everything, batch_size=64, settings=settings):
        for index, pixels in zip(batch.indices.tolist(), batch.pixels, strict=True):
            path = root / "train" / f"{dataset.labels[index]:04d}" / f"{index:08d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(path, quality=QUALITY, subsampling="4:2:0")
