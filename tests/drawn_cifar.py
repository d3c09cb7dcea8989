"""CIFAR-10 for tests: a few drawn images of ten classes that a network can tell apart, as a tree or as binary files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = tuple(f"class{label}" for label in range(10))


COLOURS = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)] + [[128] * 3, [255, 128, 0]])


def draw(num_images: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 32, 32, 3) and labels (N,): each class is a colour, under noise, and is learnt in a few epochs."""
    labels = np.arange(num_images, dtype=np.uint8) % 10
    noise = np.random.default_rng(seed).integers(-20, 21, (num_images, 32, 32, 3))
    return np.clip(COLOURS[labels][:, None, None] + noise, 0, 255).astype(np.uint8), labels


def write_tree(root: Path, num_train: int = 50, num_test: int = 20) -> Path:
    """PNGs, so that pixels are exact."""
    for seed, (split, count) in enumerate((("train", num_train), ("test", num_test))):
        for i, (image, label) in enumerate(zip(*draw(count, seed), strict=True)):
            folder = root / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:04}.png")
    return root


def write_binary(root: Path, num_train: int = 50, num_test: int = 20) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    images, labels = draw(num_train, 0)
    for i in range(5):
        rows = slice(i * num_train // 5, (i + 1) * num_train // 5)
        (root / f"data_batch_{i + 1}.bin").write_bytes(records(images[rows], labels[rows]))
    (root / "test_batch.bin").write_bytes(records(*draw(num_test, 1)))
    (root / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    return root


def records(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    """A label, then all red, all green, all blue."""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, c].tobytes() for c in range(3))
        for image, label in zip(images, labels, strict=True)
    )
