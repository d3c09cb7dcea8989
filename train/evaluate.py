"""Top-1 and top-5 error, exactly: every image once, hits counted as integers, divided once.

`classifier.py` gives the probabilities of each image, or `probabilities.py` those of an earlier evaluation;
`parallel/tower_loader.py` gives the images. `trainer.py` validates with it after every epoch, `alexnet evaluate`
measures checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pipeline.dataset.classes import CLASS_FILE, is_imagenet, is_numbered, relabelled
from ..pipeline.dataset.images import Dataset
from ..pipeline.decode.bad_images import describe_bad
from ..pipeline.decode.settings import Settings
from ..pipeline.errors import TooManyBadFiles
from ..pipeline.plan import share
from ..pipeline.squares import Decoded
from .classifier import Classifier, common_classes, probabilities
from .parallel.axis import Axis
from .parallel.mesh import Mesh
from .parallel.tower_loader import tower_squares
from .probabilities import SavedProbabilities

Network = Classifier | SavedProbabilities


@dataclass(frozen=True)
class Evaluation:
    """Errors are shares of `num_images`, the images that could be used; `bad` are the others, with reasons."""

    num_images: int
    top1_error: float
    top5_error: float
    loss: float  # mean negative log of the true class's averaged probability
    views: int
    bad: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ErrorRates:
    """The errors of one network, or of an average; `loss` as in `Evaluation`."""

    top1_error: float
    top5_error: float
    loss: float


@dataclass(frozen=True)
class Scored:
    """What the networks make of a batch of images, all of them usable."""

    indices: NDArray[np.int64]  # (b,), in the data set
    labels: Tensor  # int64 (b,)
    each: list[Tensor]  # class probabilities of every network, float64 (b, classes)
    average: Tensor  # float64 (b, classes)


class ErrorCounts:
    """Hits and loss so far, on `device`; exact, for hits are integers."""

    def __init__(self, device: torch.device) -> None:
        self._correct = torch.zeros(2, dtype=torch.int64, device=device)  # top-1, top-5
        self._loss = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, probability: Tensor, labels: Tensor) -> None:
        """Count a batch: class probabilities float64 (b, classes) and true classes int64 (b,)."""
        self._correct += topk_correct(probability, labels)
        self._loss -= probability.gather(1, labels[:, None]).clamp_min(1e-300).log().sum()

    def rates(self, num_images: int, dp: Axis) -> ErrorRates:
        """The errors on the `num_images` of all data-parallel ranks, each of which must call this, once."""
        for total in (self._correct, self._loss):
            dp.sum(total)
        top1, top5 = (1 - self._correct.double() / num_images).tolist()
        return ErrorRates(top1, top5, self._loss.item() / num_images)


def evaluate(
    classifiers: Sequence[Network],
    dataset: Dataset,
    *,
    views: int = 1,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    settings: Settings | None = None,
    progress: Callable[[int], None] = lambda done: None,
    observe: Callable[[Scored], None] = lambda scored: None,
) -> Evaluation:
    """Measure the errors of one classifier, or of several averaged, on every image of a data set.

    The classifiers lie on `mesh`, by default the CPU; by default, all cores decode. Saved probabilities count as the
    networks they come from; with nothing else, no image is opened. Data-parallel ranks share the images, and all
    return the whole result. `progress` gets the number of images done, roughly; `observe` gets each batch of this
    rank's share. Labels are matched by the names of classes; the data set may have fewer than the classifiers.
    TooManyBadFiles if more than `settings.max_bad` of the images cannot be used; UserError if the data set has other
    classes.
    """
    mesh, settings = mesh or Mesh(), settings or Settings()
    dataset = in_classes_of(classifiers, dataset)
    errors = ErrorCounts(mesh.device)
    bad = {i: why for c in classifiers if isinstance(c, SavedProbabilities) for i, why in c.bad.items()}
    seen = 0
    progress(0)
    with _evaluation_mode(classifiers):
        for batch in _batches(classifiers, dataset, mesh, batch_size, settings, bad):
            if len(batch.indices):
                scored = _score(classifiers, batch, dataset, views, mesh.device)
                errors.add(scored.average, scored.labels)
                observe(scored)
            seen += len(batch.indices)
            progress(min(len(dataset), (seen + len(bad)) * mesh.dp.size))
    seen = sum(mesh.dp.gather_objects(seen))
    for theirs in mesh.world.gather_objects(list(bad.items())):
        bad |= dict(theirs)
    assert seen + len(bad) == len(dataset), "every image must be counted once"
    progress(len(dataset))
    if seen == 0 or len(bad) > settings.max_bad * len(dataset):
        raise TooManyBadFiles(describe_bad(dataset, bad, settings.max_bad))
    reasons = {dataset.name(i): reason for i, reason in sorted(bad.items())}
    return Evaluation(seen, views=views, bad=reasons, **asdict(errors.rates(seen, mesh.dp)))


def _batches(
    classifiers: Sequence[Network],
    dataset: Dataset,
    mesh: Mesh,
    batch_size: int,
    settings: Settings,
    bad: dict[int, str],
) -> Iterator[Decoded]:
    """This rank's share of the images, without those that are known as bad; with pixels where a network needs them."""
    if any(isinstance(c, Classifier) for c in classifiers):
        known = dict(bad)
        batches = tower_squares(dataset, mesh, batch_size=batch_size, settings=settings, bad=bad)
        return (_without(known, batch) for batch in batches) if known else batches
    rows = share(len(dataset), mesh.dp.index, mesh.dp.size)
    usable = np.array([i for i in range(rows.start, rows.stop) if i not in bad], np.int64)
    return (Decoded(usable[i : i + batch_size], None, []) for i in range(0, len(usable), batch_size))


def _without(known: Mapping[int, str], batch: Decoded) -> Decoded:
    kept = np.array([i not in known for i in batch.indices.tolist()], bool)
    return batch if kept.all() else Decoded(batch.indices[kept], batch.pixels[torch.from_numpy(kept)], batch.bad)


def _score(
    classifiers: Sequence[Network], batch: Decoded, dataset: Dataset, views: int, device: torch.device
) -> Scored:
    pixels: Any = None if batch.pixels is None else batch.pixels.to(device)
    each = [
        probabilities([c], pixels, views) if isinstance(c, Classifier) else c.rows_of(batch.indices).to(device)
        for c in classifiers
    ]
    total = torch.zeros_like(each[0])
    for classifier, probability in zip(classifiers, each, strict=True):
        total += classifier.num_networks * probability
    labels = torch.from_numpy(dataset.labels[batch.indices].astype(np.int64)).to(device)
    return Scored(batch.indices, labels, each, total / sum(c.num_networks for c in classifiers))


def in_classes_of(classifiers: Sequence[Network], dataset: Dataset) -> Dataset:
    """Return the data set with labels that index the classifiers' classes, which may be more than its own."""
    lists = (dataset.classes, *(c.classes for c in classifiers))
    synsets = next((names for names in lists if is_imagenet(names)), None)
    classes = common_classes([synsets if synsets and c.published else c.classes for c in classifiers])
    remedy = "Give a data set of these classes."
    if is_numbered(classes):
        remedy = (
            "Weights without names fit data sets whose classes are numbers; torchvision's also fit ImageNet's 1000 "
            f"synsets. A {CLASS_FILE} beside a .pth names its classes, one per line."
        )
    return relabelled(dataset, classes, "the checkpoint", remedy)


@contextmanager
def _evaluation_mode(classifiers: Sequence[Network]) -> Iterator[None]:
    """Switch dropout off, and afterwards back to what it was, as training may go on."""
    models = [classifier.model for classifier in classifiers if isinstance(classifier, Classifier)]
    were_training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, was in zip(models, were_training, strict=True):
            model.train(was)


def topk_correct(probability: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """Count the true classes among the k most probable, int64 (len(ks),); all are if there are k classes or fewer."""
    best = probability.topk(min(max(ks), probability.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].any(dim=1).sum() for k in ks])
