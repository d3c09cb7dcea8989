"""Top-1 and top-5 error, exactly: every image once, hits counted as integers, divided once.

`classifier.py` gives the probabilities of each image, `parallel/tower_loader.py` the images. `trainer.py` validates
with it after every epoch, `alexnet evaluate` measures checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..pipeline.dataset.classes import CLASS_FILE, is_imagenet, is_numbered, relabelled
from ..pipeline.dataset.images import Dataset
from ..pipeline.decode.bad_images import describe_bad
from ..pipeline.decode.settings import Settings
from ..pipeline.errors import TooManyBadFiles
from .classifier import Classifier, common_classes, probabilities
from .parallel.mesh import Mesh
from .parallel.tower_loader import tower_squares


@dataclass(frozen=True)
class Evaluation:
    """Errors are shares of `num_images`, the images that could be used; `bad` are the others, with reasons."""

    num_images: int
    top1_error: float
    top5_error: float
    loss: float  # mean negative log of the true class's averaged probability
    views: int
    bad: dict[str, str] = field(default_factory=dict)


def evaluate(
    classifiers: Sequence[Classifier],
    dataset: Dataset,
    *,
    views: int = 1,
    batch_size: int = 128,
    mesh: Mesh | None = None,
    settings: Settings | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Measure the errors of one classifier, or of several averaged, on every image of a data set.

    The classifiers lie on `mesh`, by default the CPU; by default, all cores decode. Data-parallel ranks share the
    images, and all return the whole result. `progress` gets the number of images done, roughly. Labels are matched by
    the names of classes; the data set may have fewer than the classifiers. TooManyBadFiles if more than
    `settings.max_bad` of the images cannot be used; UserError if the data set has other classes.
    """
    mesh, settings = mesh or Mesh(), settings or Settings()
    dataset = in_classes_of(classifiers, dataset)
    correct = torch.zeros(2, dtype=torch.int64, device=mesh.device)  # top-1, top-5
    loss = torch.zeros((), dtype=torch.float64, device=mesh.device)
    bad: dict[int, str] = {}
    seen = 0
    progress(0)
    with _evaluation_mode(classifiers):
        for batch in tower_squares(dataset, mesh, batch_size=batch_size, settings=settings, bad=bad):
            if len(batch.indices):
                probability = probabilities(classifiers, batch.pixels.to(mesh.device), views)
                labels = torch.from_numpy(dataset.labels[batch.indices].astype(np.int64)).to(mesh.device)
                correct += topk_correct(probability, labels)
                loss -= probability.gather(1, labels[:, None]).clamp_min(1e-300).log().sum()
            seen += len(batch.indices)
            progress(min(len(dataset), (seen + len(bad)) * mesh.dp.size))
    for total in (correct, loss):
        mesh.dp.sum(total)
    seen = sum(mesh.dp.gather_objects(seen))
    for theirs in mesh.world.gather_objects(list(bad.items())):
        bad |= dict(theirs)
    assert seen + len(bad) == len(dataset), "every image must be counted once"
    progress(len(dataset))
    if seen == 0 or len(bad) > settings.max_bad * len(dataset):
        raise TooManyBadFiles(describe_bad(dataset, bad, settings.max_bad))
    top1, top5 = (1 - correct.double() / seen).tolist()
    reasons = {dataset.name(i): reason for i, reason in sorted(bad.items())}
    return Evaluation(seen, top1, top5, loss.item() / seen, views, reasons)


def in_classes_of(classifiers: Sequence[Classifier], dataset: Dataset) -> Dataset:
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
def _evaluation_mode(classifiers: Sequence[Classifier]) -> Iterator[None]:
    """Switch dropout off, and afterwards back to what it was, as training may go on."""
    were_training = [classifier.model.training for classifier in classifiers]
    for classifier in classifiers:
        classifier.model.eval()
    try:
        yield
    finally:
        for classifier, was in zip(classifiers, were_training, strict=True):
            classifier.model.train(was)


def topk_correct(probability: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """Count the true classes among the k most probable, int64 (len(ks),)."""
    best = probability.topk(min(max(ks), probability.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].any(dim=1).sum() for k in ks])
