"""CIFAR-10 in memory, from the binary version of its authors or from a tree of images.

`views.py` makes batches of it. 60,000 images are 184 MB. Those of a tree are decoded once, in about twenty seconds, and
kept in the cache folder under the fingerprint of the tree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...pipeline.cache import cache_folder, can_keep
from ...pipeline.dataset.images import Dataset
from ...pipeline.dataset.open import open_dataset
from ...pipeline.errors import DatasetError
from ...pipeline.files import whole_file
from .binary import ADVICE, NUM_CLASSES, SIZE, TEST_FILES, TRAIN_FILES, class_names, is_binary, read_binary

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Progress = Callable[[str, int, int], None]  # split, images done, images in all
BINARY_FOLDER = "cifar-10-batches-bin"  # in the archive


@dataclass(frozen=True, eq=False)
class Cifar:
    """Both splits. Pixels are RGB, 0..255, plane after plane."""

    train: Pixels  # (N, 3, 32, 32)
    train_labels: Labels  # (N,)
    test: Pixels  # (M, 3, 32, 32)
    test_labels: Labels  # (M,)
    classes: tuple[str, ...]

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """The mean image of the training set (3, 32, 32), 0..255."""
        return (self.train.sum(axis=0, dtype=np.int64) / len(self.train)).astype(np.float32)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over all pixels and labels, in their order."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.train_labels, self.test, self.test_labels):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def read_cifar(folder: Path, progress: Progress = lambda split, done, total: None) -> Cifar:
    """Read the folder, in either form; DatasetError if it holds something else."""
    if folder.is_file():
        raise DatasetError(f"{folder} is a file. Unpack it, and give the folder.")
    for place in (folder, folder / BINARY_FOLDER, folder / "cifar-10-batches-py"):
        if is_binary(place):
            return Cifar(*read_binary(place, TRAIN_FILES), *read_binary(place, TEST_FILES), class_names(place))
    if not folder.is_dir() or not (folder / "train").is_dir():
        wanted = f"neither {TRAIN_FILES[0]} to {TEST_FILES[0]} nor folders train/ and test/ with a folder a class"
        raise DatasetError(f"No CIFAR-10 in {folder}: there are {wanted}. {ADVICE}.")
    return _read_tree(folder, progress)


def _read_tree(folder: Path, progress: Progress) -> Cifar:
    train, test = open_dataset(folder, "train"), open_dataset(folder, "val")
    if train.num_classes != NUM_CLASSES:
        raise DatasetError(f"{folder} has {train.num_classes} classes where CIFAR-10 has {NUM_CLASSES}. {ADVICE}.")
    kept = cache_folder() if can_keep() else None
    path = kept and kept / f"cifar-{train.fingerprint}-{test.fingerprint}.npy"
    if path and path.is_file():
        pixels = np.load(path, allow_pickle=False)
    else:
        pixels = np.concatenate([_decode(train, progress), _decode(test, progress)])
        if path:
            with whole_file(path, pixels.nbytes) as file:
                np.save(file, pixels, allow_pickle=False)
    labels = (dataset.labels.astype(np.int64) for dataset in (train, test))
    return Cifar(pixels[: len(train)], next(labels), pixels[len(train) :], next(labels), train.classes)


def _decode(dataset: Dataset, progress: Progress) -> Pixels:
    """(N, 3, 32, 32). One bad image is an error: every experiment counts on the same images."""
    pixels = np.empty((len(dataset), 3, SIZE, SIZE), np.uint8)
    for i in range(len(dataset)):
        try:
            with Image.open(BytesIO(dataset.read(i).tobytes())) as image:
                size, rgb = image.size, np.asarray(image.convert("RGB"))
        except (OSError, DatasetError, Image.DecompressionBombError) as error:
            raise DatasetError(f"{dataset.root / dataset.name(i)} cannot be read: {error}") from error
        if size != (SIZE, SIZE):
            where, found = dataset.root / dataset.name(i), "x".join(map(str, size))
            raise DatasetError(f"{where} is {found} where CIFAR-10 has {SIZE}x{SIZE}: another data set? {ADVICE}.")
        pixels[i] = rgb.transpose(2, 0, 1)
        if (i + 1) % 500 == 0 or i + 1 == len(dataset):
            progress(dataset.split, i + 1, len(dataset))
    return pixels
