"""Files planted below a folder, and what a data set lists of them."""

from __future__ import annotations

from pathlib import Path

from alexnet.pipeline.dataset.images import Dataset

Tree = dict[str, bytes]

TREE: Tree = {
    "train/b/2.JPEG": b"two",
    "train/b/10.jpg": b"ten!",
    "train/a/x.png": b"x",
    "train/a/notes.txt": b"not an image",
    "train/a/.hidden.JPEG": b"hidden",
    "val/a/v.JPEG": b"va",
    "val/b/w.JPEG": b"wb",
}


def plant(root: Path, tree: Tree) -> Path:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def plant_named(root: Path, *names: str) -> Path:
    """Plant files that hold their own names."""
    return plant(root, {name: name.encode() for name in names})


def listed(dataset: Dataset) -> dict[str, tuple[str, bytes]]:
    """Return name -> (class, bytes)."""
    images = {
        dataset.name(i): (dataset.classes[dataset.labels[i]], dataset.read(i).tobytes()) for i in range(len(dataset))
    }
    assert len(images) == len(dataset)
    return images
