"""Top-1 and top-5 error, exactly: every image once, hits counted as integers, divided once.

A view is a 224x224 crop of the central 256-square, mirrored or not; class probabilities, not logits, are averaged
over views and over models (section 4.1 and `LogregCostLayer` in the authors' layer.cu).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..pipeline.classes import CLASS_FILE, first_difference, is_imagenet, is_numbered, relabelled
from ..pipeline.dataset import Dataset
from ..pipeline.geometry import CROP, SHORT_SIDE
from ..pipeline.graph import Decode
from ..pipeline.loader import Treatment, squares
from ..pipeline.stream import Settings, TooManyBadFiles, describe_bad
from .mesh import Mesh
from .model import AlexNet
from .pairs import pair_squares

EDGE = SHORT_SIDE - CROP
VIEWS = [(EDGE // 2, EDGE // 2), (0, 0), (0, EDGE), (EDGE, 0), (EDGE, EDGE)]  # centre, then the corners


@dataclass(frozen=True)
class Classifier:
    """A trained network with the treatment of images that it was trained on, and the names of its classes."""

    model: AlexNet
    treatment: Treatment
    classes: tuple[str, ...]
    words: Mapping[str, str] = field(default_factory=dict)  # what people call them, as far as known
    published: bool = False  # torchvision's: its numbers are those of ImageNet's synsets in their order

    def name_of(self, label: int) -> str:
        """A class for people: its words, and its name."""
        name = self.classes[label]
        return f"{self.words[name]} ({name})" if name in self.words else name


@dataclass(frozen=True)
class Evaluation:
    """Errors are shares of `num_images`, the images that could be used; `bad` are the others, with reasons."""

    num_images: int
    top1_error: float
    top5_error: float
    loss: float  # mean negative log of the true class's averaged probability
    views: int
    bad: dict[str, str] = field(default_factory=dict)


def views_of(num_views: int) -> list[tuple[int, int, bool]]:
    """(top, left, mirrored) of 1 view, the centre, or of the paper's 10: centre and corners, and their mirrors."""
    if num_views == 1:
        return [(*VIEWS[0], False)]
    if num_views == 10:
        return [(top, left, mirror) for mirror in (False, True) for top, left in VIEWS]
    raise ValueError(f"There is 1 view, the centre, or the paper's 10; not {num_views}.")


@torch.inference_mode()
def probabilities(classifiers: Sequence[Classifier], pixels: Tensor, num_views: int) -> Tensor:
    """Class probabilities (b, classes), float64, of uint8 (b, 256, 256, 3), averaged over models and views."""
    total = torch.zeros((), dtype=torch.float64, device=pixels.device)
    for classifier in classifiers:
        for top, left, mirror in views_of(num_views):
            images = classifier.treatment.apply(pixels, top, left, mirror)
            with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
                logits = classifier.model(images)
            total = total + F.softmax(logits.double(), dim=1)
    return total / (len(classifiers) * num_views)


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
    decode: Decode = "exact",
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Evaluate the average of one or more classifiers, which lie on `mesh`, on every image of a data set.

    The data-parallel ranks share the images; all get the whole result. `progress` is told about how many are done.

    Labels are matched to what the classifiers know by the names of classes; the data set may have fewer of them.
    Raises `TooManyBadFiles` when more than `settings.max_bad` of the images cannot be used, ValueError when it has
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
    for batch in pair_squares(dataset, mesh, batch_size=batch_size, settings=settings, decode=decode, bad=bad):
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


def common_classes(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The classes of networks that are to be averaged; ValueError where they differ."""
    for other in lists:
        if other != lists[0]:
            difference = first_difference(lists[0], other)
            raise ValueError(f"These checkpoints know different classes ({difference}): they cannot be averaged.")
    return lists[0]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first."""

    index: int
    classes: list[tuple[str, float]]


def predict(
    classifiers: Sequence[Classifier],
    dataset: Dataset,
    *,
    views: int,
    device: torch.device,
    settings: Settings,
    bad: dict[int, str],
    decode: Decode = "exact",
    batch_size: int = 64,
    top: int = 5,
) -> Iterator[Prediction]:
    """The `top` classes of each image; those that cannot be used are added to `bad` instead."""
    first, names = classifiers[0], common_classes([c.classes for c in classifiers])
    for classifier in classifiers:
        classifier.model.eval()
    images = np.arange(len(dataset), dtype=np.int64)
    for batch in squares(dataset, images, batch_size=batch_size, settings=settings, decode=decode, bad=bad):
        if len(batch.indices):
            best = probabilities(classifiers, batch.pixels.to(device), views).topk(min(top, len(names)), dim=1)
            for index, values, ids in zip(batch.indices, best.values.tolist(), best.indices.tolist(), strict=True):
                yield Prediction(int(index), [(first.name_of(i), p) for i, p in zip(ids, values, strict=True)])
