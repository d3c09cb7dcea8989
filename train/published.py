"""torchvision's published weights of AlexNet (`.pth`), read as a checkpoint of preset `owt`.

Beside `checkpoint.py`, which reads our own files; `classifier.py` chooses between them. A `.pth` file is a pickle, of
which torch's restricted reader takes tensors only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..pipeline.dataset.classes import CLASS_FILE, read_classes
from ..pipeline.errors import CheckpointError, UserError
from .checkpoint import Checkpoint
from .config import Config

ENDINGS = (".pth", ".pt")
LAYERS = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}  # theirs, and ours


def load_published(path: Path) -> Checkpoint:
    """The weights, which name no classes: a `classes.txt` beside them does, or they are numbers.

    Raises CheckpointError, which says what is wrong with the file.
    """
    try:
        model = from_torchvision(_read_tensors(path))
    except UserError as error:
        raise CheckpointError(f"{path}: {error}") from error
    num_classes, names = model["fc8.bias"].numel(), path.with_name(CLASS_FILE)
    classes = read_classes(names) if names.is_file() else [str(label) for label in range(num_classes)]
    if len(classes) != num_classes:
        raise CheckpointError(
            f"{names} has {len(classes)} names for the {num_classes} classes of {path.name}: "
            "correct it, or keep the weights elsewhere"
        )
    return Checkpoint(config=Config.from_preset("owt"), classes=classes, epoch=0, step=0, model=model)


def from_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of torchvision's `alexnet` under our names; UserError where they are another network's."""
    expected = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in LAYERS.items() for kind in ("weight", "bias")}
    if odd := sorted(expected.keys() ^ state_dict.keys()):
        problem = "missing" if odd[0] in expected else "unknown"
        raise UserError(f"not torchvision's alexnet: {odd[0]} is {problem}")
    return {ours: state_dict[theirs] for theirs, ours in expected.items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """What torch's restricted reader takes; one line of error where it would give a page of advice."""
    objects = "it holds more than tensors, and nothing else is ever loaded: save the model's state_dict() alone"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what it is about to refuse
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        refused = any(what in str(error) for what in ("Unsupported global", "Unsupported class", "TorchScript"))
        raise UserError(objects if refused else "cut short, or no file of torch's: copy it again") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UserError(objects)
    return {str(name): tensor for name, tensor in found.items()}
