"""CIFAR-10 in the binary version of its authors: records of a label and 32x32 pixels, plane after plane.

`images.py` reads the data set through it, if it finds these files. The Python version holds the same images in pickles,
which can run any code when they are read, so they are refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...pipeline.errors import DatasetError

SIZE = 32  # pixels, both ways
NUM_CLASSES = 10
RECORD = 1 + 3 * SIZE * SIZE  # bytes
TRAIN_FILES, TEST_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)
NAMES_FILE = "batches.meta.txt"
ADVICE = "Download the binary version, cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"


def is_binary(folder: Path) -> bool:
    """Return whether any file of the binary version is there; DatasetError if the folder holds the Python version."""
    if any((folder / name).exists() for name in (*TRAIN_FILES, *TEST_FILES)):
        return True
    if pickled := [name for name in ("data_batch_1", "test_batch", "batches.meta") if (folder / name).exists()]:
        problem = f"{folder / pickled[0]} is of CIFAR-10's Python version, a pickle, which could run any code."
        raise DatasetError(f"{problem} {ADVICE}, and unpack it.")
    return False


def read_binary(folder: Path, files: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images, uint8 (N, 3, 32, 32), RGB, and the labels (N,) of these files, one after another."""
    records = np.concatenate([_records(folder / name) for name in files])
    return records[:, 1:].reshape(-1, 3, SIZE, SIZE), records[:, 0].astype(np.int64)


def _records(path: Path) -> NDArray[np.uint8]:
    """(n, 3073), checked: a file cut short, and CIFAR-100, whose records have two labels, do not pass."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing. {ADVICE}, and unpack it whole.")
    data = np.fromfile(path, np.uint8)
    if not len(data) or len(data) % RECORD:
        problem = f"{path} has {len(data):,} bytes, which are not whole records of {RECORD:,}"
        raise DatasetError(f"{problem}: cut short, or not CIFAR-10. {ADVICE}.")
    records = data.reshape(-1, RECORD)
    if (largest := int(records[:, 0].max())) >= NUM_CLASSES:
        raise DatasetError(f"{path} has a label {largest} where CIFAR-10 has 0 to 9: not CIFAR-10. {ADVICE}.")
    return records


def class_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the ten classes, or their numbers if the file of names is missing."""
    path = folder / NAMES_FILE
    names = path.read_text(errors="backslashreplace").split() if path.is_file() else []
    return tuple(names) if len(names) == NUM_CLASSES else tuple(map(str, range(NUM_CLASSES)))
