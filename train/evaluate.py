"""Top-1 and top-5 error, exactly: every image once, hits counted as integers, divided once.

A view is a 224x224 crop of the central 256-square, mirrored or not; class probabilities, not logits, are averaged
over views and over models (section 4.1 and `LogregCostLayer` in the authors' layer.cu).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def topk_correct(probability: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> Tensor:
    """How many of the true classes are among the k most probable, int64 (len(ks),)."""
    best = probability.topk(min(max(ks), probability.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    return torch.stack([hits[:, :k].any(dim=1).sum() for k in ks])


def evaluate(
    classifiers: Sequence[Classifier],
    dataset: Dataset,
    *,
    views: int,
    batch_size: int,
    mesh: Mesh,
    settings: Settings,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Evaluate the average of one or more classifiers, which lie on `mesh`, on every image of a data set.

    The data-parallel ranks share the images; all get the whole result. `progress` is told about how many are done.

    Labels are matched to what the classifiers know by the names of classes; the data set may have fewer of them.
    Raises `TooManyBadFiles` when more than `settings.max_bad` of the images cannot be used, UserError when it has
    others.
    """
    dataset = in_classes_of(classifiers, dataset)
    training = [c.model.training for c in classifiers]
    for classifier in classifiers:
        classifier.model.eval()
    correct = torch.zeros(2, dtype=torch.int64, device=mesh.device)
    loss = torch.zeros((), dtype=torch.float64, device=mesh.device)
    bad: dict[int, str] = {}
    seen = 0
    progress(0)
    for batch in tower_squares(dataset, mesh, batch_size=batch_size, settings=settings, bad=bad):
        if len(batch.indices):
            probability = probabilities(classifiers, batch.pixels.to(mesh.device), views)
            labels = torch.from_numpy(dataset.labels[batch.indices].astype(np.int64)).to(mesh.device)
            correct += topk_correct(probability, labels)
            loss -= probability.gather(1, labels[:, None]).clamp_min(1e-300).log().sum()
        seen += len(batch.indices)
        progress(min(len(dataset), (seen + len(bad)) * mesh.dp.size))
    for classifier, was in zip(classifiers, training, strict=True):
        classifier.model.train(was)
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
    names = {dataset.name(i): why for i, why in sorted(bad.items())}
    return Evaluation(seen, top1, top5, loss.item() / seen, views, names)


def in_classes_of(classifiers: Sequence[Classifier], dataset: Dataset) -> Dataset:
    """The data set, its labels counted in the classes that the classifiers know, which may be more than it has."""
    lists = (dataset.classes, *(c.classes for c in classifiers))
    synsets = next((names for names in lists if is_imagenet(names)), None)
    classes = common_classes([synsets if synsets and c.published else c.classes for c in classifiers])
    remedy = "Give a data set of these classes."
    if is_numbered(classes):
        remedy = (
            "Weights without names fit data sets whose classes are their numbers, torchvision's also ImageNet's "
            f"1000 synsets; a {CLASS_FILE} beside a .pth names its classes, one a line."
        )
    return relabelled(dataset, classes, "the checkpoint", remedy)
