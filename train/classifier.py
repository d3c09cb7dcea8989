"""A trained network and its predictions.

`saved.py` reads the weights; `alexnet predict` prints predictions, and `evaluate.py` compares probabilities with the
true classes. A view is a crop of the central 256-square, 224x224 or 227x227, mirrored or not; class probabilities, not
logits, are averaged over views and over networks (paper s4.1, and `LogregCostLayer` in the authors' layer.cu).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..pipeline.dataset.classes import first_difference
from ..pipeline.dataset.images import Dataset
from ..pipeline.decode.settings import Settings
from ..pipeline.errors import CheckpointError, UserError
from ..pipeline.geometry import CROP, SHORT_SIDE, centred
from ..pipeline.squares import squares
from ..pipeline.treatment import Treatment
from .checkpoint import Checkpoint
from .network.fast_layers import use_fast_layers
from .network.model import AlexNet
from .network.precision import autocast, suited
from .parallel.dims import CPU
from .parallel.ranks import ALONE, RankInfo
from .saved import load_saved, network_file


@dataclass(frozen=True)
class Classifier:
    """A trained network, the treatment of images that it was trained on, and the names of its classes."""

    model: AlexNet
    treatment: Treatment
    classes: tuple[str, ...]
    words: Mapping[str, str] = field(default_factory=dict)  # what people call them, as far as known
    published: bool = False  # torchvision's: its numbers are those of ImageNet's synsets in their order
    num_networks: ClassVar[int] = 1  # in an average

    def name_of(self, label: int) -> str:
        """Return a class's words, as far as known, and its name."""
        name = self.classes[label]
        return f"{self.words[name]} ({name})" if name in self.words else name


def find_networks(paths: Sequence[Path], info: RankInfo = ALONE) -> list[Path]:
    """Return checkpoint files; for a run folder, the newest. The first rank chooses, as a run may still be writing."""
    found = info.from_main("networks", lambda: json.dumps([str(network_file(path)) for path in paths]))
    return [Path(path) for path in json.loads(found)]


def load_classifier(path: Path | str, device: torch.device = CPU) -> Classifier:
    """Load a trained network from a checkpoint, a run folder, safetensors or torchvision's weights (.pth)."""
    saved = load_saved(path)
    model, treatment = AlexNet.restored(saved), treatment_of(saved)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cpu":
        use_fast_layers(model, conv1=False)
    return Classifier(model, treatment, tuple(saved.classes), saved.words, saved.published)


def treatment_of(saved: Checkpoint) -> Treatment:
    """Return the treatment of images that a network was trained on; CheckpointError if it does not say."""
    if missing := {"mean", "divisor"} - saved.arrays.keys():
        raise CheckpointError(f"The checkpoint lacks the {min(missing)} of its training images: take another one.")
    return Treatment(mean=saved.arrays["mean"], divisor=saved.arrays["divisor"], crop=saved.config.crop)


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first, each with its probability."""

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
    batch_size: int = 64,
    top: int = 5,
) -> Iterator[Prediction]:
    """Yield the `top` classes of each image; add images that cannot be used to `bad` instead."""
    first, names = classifiers[0], common_classes([c.classes for c in classifiers])
    for classifier in classifiers:
        classifier.model.eval()
    images = np.arange(len(dataset), dtype=np.int64)
    for batch in squares(dataset, images, batch_size=batch_size, settings=settings, bad=bad):
        if len(batch.indices):
            best = probabilities(classifiers, batch.pixels.to(device), views).topk(min(top, len(names)), dim=1)
            for index, values, labels in zip(batch.indices, best.values.tolist(), best.indices.tolist(), strict=True):
                ranked = zip(map(first.name_of, labels), values, strict=True)
                yield Prediction(int(index), list(ranked))


def common_classes(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the classes of networks that are to be averaged; UserError if they differ."""
    for other in lists:
        if other != lists[0]:
            difference = first_difference(lists[0], other)
            raise UserError(f"These checkpoints know different classes ({difference}): they cannot be averaged.")
    return lists[0]


@torch.inference_mode()
def probabilities(classifiers: Sequence[Classifier], pixels: Tensor, num_views: int) -> Tensor:
    """Return class probabilities (b, classes), float64, of uint8 (b, 256, 256, 3), averaged over networks and views."""
    total = torch.zeros((), dtype=torch.float64, device=pixels.device)
    for classifier in classifiers:
        for top, left, mirror in views_of(num_views, classifier.treatment.crop):
            images = classifier.treatment.apply(pixels, top, left, mirror)
            with autocast(images.device):
                logits = classifier.model(suited(images))
            total = total + F.softmax(logits.double(), dim=1)
    return total / (len(classifiers) * num_views)


def views_of(num_views: int, crop: int = CROP) -> list[tuple[int, int, bool]]:
    """Return (top, left, mirrored) of 1 view, the centre, or of the paper's 10: centre, corners and their mirrors."""
    middle, end = centred(crop), SHORT_SIDE - crop
    if num_views == 1:
        return [(middle, middle, False)]
    if num_views == 10:
        places = [(middle, middle), (0, 0), (0, end), (end, 0), (end, end)]
        return [(top, left, mirror) for mirror in (False, True) for top, left in places]
    raise UserError(f"views = {num_views}: choose 1, the centre, or the paper's 10.")
