"""Which classes a network takes for which others: errors by class, and the confusion matrix.

`alexnet evaluate` hands each batch of `evaluate.py` to an `Outcomes`. It keeps two small numbers for each image, never
a square of classes, of which there may be twenty thousand.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pipeline.files import naming, whole_file
from .parallel.mesh import Mesh

CORNER = "true/predicted"  # the first cell of a confusion matrix


@dataclass(frozen=True)
class ClassErrors:
    """Errors are shares of `num_images`, the usable images of the class."""

    name: str
    num_images: int
    top1_error: float
    top5_error: float


@dataclass(frozen=True)
class Confusion:
    """`num_images` of the `of` usable images of class `true` were taken for class `predicted`."""

    true: str
    predicted: str
    num_images: int
    of: int


class Outcomes:
    """What became of each image: the most probable class, and whether the true one is among the five most probable.

    `labels`, int32 (n,), are the true classes of all images, as positions in `classes`.
    """

    def __init__(self, labels: NDArray[np.int32], classes: Sequence[str]) -> None:
        self.labels, self.classes = labels, classes
        self._seen, self._predicted, self._in_top5 = self._rows = torch.zeros((3, len(labels)), dtype=torch.int32)

    def add(self, indices: NDArray[np.int64], probability: Tensor) -> None:
        """Images by their places in the data set (b,), and their class probabilities (b, classes), on any device."""
        places = torch.from_numpy(indices)
        best = probability.topk(min(5, probability.shape[1]), dim=1).indices.int().cpu()
        labels = torch.from_numpy(self.labels[indices])
        self._seen[places] = 1
        self._predicted[places] = best[:, 0]
        self._in_top5[places] = (best == labels[:, None]).any(dim=1).int()

    def combine(self, mesh: Mesh) -> None:
        """Add what the other data-parallel ranks have seen; every rank must call this, once."""
        self._rows.copy_(mesh.dp.sum(self._rows.to(mesh.device)))

    def class_errors(self) -> list[ClassErrors]:
        """Of every class that has usable images, the worst first."""
        hits = self._predicted.numpy() == self.labels
        images, top1, top5 = (self._count(which) for which in (True, hits, self._in_top5.numpy() > 0))
        found = [
            ClassErrors(name, n, (n - first) / n, (n - five) / n)
            for name, n, first, five in zip(self.classes, images, top1, top5, strict=True)
            if n
        ]
        return sorted(found, key=lambda c: (-c.top1_error, -c.top5_error))  # equal ones in the order of the classes

    def _count(self, which: NDArray[np.bool_] | bool) -> list[int]:
        """Usable images of each class."""
        return np.bincount(self.labels[(self._seen.numpy() > 0) & which], minlength=len(self.classes)).tolist()

    def most_confused(self, num: int) -> list[Confusion]:
        """The pairs of classes that are most often confused, by the share of the true class's images, at most `num`."""
        images = self._count(True)
        predicted = self._predicted.numpy().astype(np.int64)
        wrong = (self._seen.numpy() > 0) & (predicted != self.labels)
        pairs = np.stack([self.labels[wrong].astype(np.int64), predicted[wrong]], axis=1)  # (images, 2)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        confused = [
            Confusion(self.classes[true], self.classes[taken], count, images[true])
            for (true, taken), count in zip(found.tolist(), counts.tolist(), strict=True)
        ]
        return sorted(confused, key=lambda c: (-c.num_images / c.of, -c.num_images))[:num]

    def confusion(self) -> Iterator[NDArray[np.int64]]:
        """For each true class how many of its usable images were taken for each class, int64 (classes,)."""
        usable = np.flatnonzero(self._seen.numpy())
        by_class = usable[np.argsort(self.labels[usable], kind="stable")]
        ends = np.searchsorted(self.labels[by_class], np.arange(1, len(self.classes)))
        for images in np.split(self._predicted.numpy()[by_class], ends):
            yield np.bincount(images, minlength=len(self.classes))

    def write_confusion(self, path: Path) -> None:
        """A CSV file in UTF-8: a header of predicted classes, then a row for each true class."""
        with naming(path), whole_file(path) as file:
            text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")  # names may be any bytes
            rows = csv.writer(text)
            rows.writerow([CORNER, *self.classes])
            rows.writerows([name, *row.tolist()] for name, row in zip(self.classes, self.confusion(), strict=True))
            text.detach()
