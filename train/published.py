"""torchvision's weights of AlexNet (`.pth`), read as a checkpoint of preset `owt`, and written.

`saved.py` chooses between this and our own files; `export/` writes. A `.pth` file is a pickle; torch's restricted
reader takes only tensors from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..pipeline.dataset.classes import CLASS_FILE, NUM_SYNSETS, is_numbered, read_classes
from ..pipeline.errors import CheckpointError, UserError
from ..pipeline.treatment import IMAGENET_MEAN, IMAGENET_STD
from .checkpoint import Checkpoint
from .config import Config
from .settings.setting import differing

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
EXPRESSED = (  # the settings that decide what a network of one tower computes at test, but for dropout
    "groups",
    "channels",
    "fc",
    "width",
    "without",
    "conv6",
    "lrn",
    "activation",
    "overlapping_pooling",
    "crop",
    "conv1_padding",
    "scaling",
)


def load_published(path: Path) -> Checkpoint:
    """Load the weights. A `classes.txt` beside them names the classes; without it, they are numbers.

    CheckpointError says what is wrong with the file.
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
            "correct it, or move the weights elsewhere"
        )
    return Checkpoint(
        config=Config.from_preset("owt"),
        classes=classes,
        epoch=0,
        step=0,
        model=model,
        arrays={"mean": IMAGENET_MEAN, "divisor": IMAGENET_STD},
        published=is_numbered(classes) and num_classes == NUM_SYNSETS,
    )


def from_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of torchvision's `alexnet` under our names; UserError if they are another network's."""
    expected = _names()
    if odd := sorted(expected.keys() ^ state_dict.keys()):
        problem = "missing" if odd[0] in expected else "unknown"
        raise UserError(f"not torchvision's alexnet: {odd[0]} is {problem}. No other network is read from a .pth")
    return {ours: state_dict[theirs] for theirs, ours in expected.items()}


def to_torchvision(saved: Checkpoint) -> dict[str, Tensor]:
    """Return the parameters under torchvision's names, for its `alexnet(num_classes=...)`, which computes the same.

    That network sees pixels in 0..1 less ImageNet's mean, divided by its std, as preset `owt` does; zeros around such
    an image are not the zeros around an image minus another mean, so no weights could make up for another treatment.
    UserError names all that differs from `owt`.
    """
    if differences := differing(saved.config, Config.from_preset("owt"), EXPRESSED):
        more = ", and more" if len(differences) > 3 else ""
        raise UserError(
            f"torchvision's alexnet is the network of preset owt, and this one has {'; '.join(differences[:3])}{more}. "
            "Choose --to safetensors or --to onnx, which hold any network."
        )
    model = dict(saved.model)
    if saved.config.dropout_style == "mask":  # all units are there at test, each times the share that was kept
        for name in ("fc7.weight", "fc8.weight"):
            model[name] = model[name] * (1 - saved.config.dropout)
    return {theirs: model[ours] for theirs, ours in _names().items()}


def _names() -> dict[str, str]:
    """Their names of all parameters, and ours."""
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in LAYERS.items() for kind in ("weight", "bias")}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read with torch's restricted reader, with one line of error for its page of advice."""
    objects = "it holds more than tensors, which is never loaded: save only the model's state_dict()"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that it then refuses
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        refused = any(what in str(error) for what in ("Unsupported global", "Unsupported class", "TorchScript"))
        raise UserError(objects if refused else "cut short, or not a torch file: copy it again") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UserError(objects)
    return {str(name): tensor for name, tensor in found.items()}
