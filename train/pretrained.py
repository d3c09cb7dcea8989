"""What a new run takes from a trained network: every layer that fits, by name and shape.

`classifier.py` reads the network, whatever its file. `step.py` puts the layers into the new one before a mesh splits
it, and `starts.py` writes down where they came from. A run takes them once: resumed, it goes on from its own weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..pipeline.dataset.classes import is_imagenet
from ..pipeline.errors import CheckpointError
from .classifier import Classifier
from .config import Config
from .features import fingerprint
from .network.shapes import empty_parameters
from .settings.setting import differing

FUNCTION = (  # settings that change what a layer computes, or what it sees, but not its shape
    "activation",
    "lrn",
    "lrn_size",
    "lrn_alpha",
    "lrn_beta",
    "lrn_k",
    "lrn_alpha_over_n",
    "lrn_before_activation",
    "lrn_across_towers",
    "spatial_norm",
    "overlapping_pooling",
    "dropout",
    "dropout_style",
    "conv1_padding",
    "crop",
    "scaling",
)


@dataclass(frozen=True)
class Pretrained:
    """The layers that a run begins with, and why it begins anew with the others."""

    source: str  # of the network, for people
    fingerprint: str
    parameters: dict[str, Tensor] = field(repr=False)  # of whole layers, by name
    taken: tuple[str, ...]  # layers
    fresh: dict[str, str]  # layers, with reasons
    unused: tuple[str, ...]  # layers of that network that this one lacks
    unlike: tuple[str, ...]  # settings that change what the same layers compute, as "--option theirs, not ours"

    def report(self) -> str:
        """Say what was taken and what was not."""
        text = f"Weights of {', '.join(self.taken)} come from {self.source}. "
        fresh = ", ".join(f"{layer} ({why})" for layer, why in self.fresh.items())
        text += f"New: {fresh}." if fresh else "No layer is new."
        if self.unused:
            text += f" Left out, for this network lacks it: {', '.join(self.unused)}."
        if self.unlike:
            text += f" Note: that network had {'; '.join(self.unlike)}."
        return text

    def record(self) -> dict[str, Any]:
        """Return what `starts.jsonl` keeps."""
        kept = {"source": self.source, "fingerprint": self.fingerprint}
        return {**kept, "taken": list(self.taken), "fresh": list(self.fresh)}


def take_layers(source: Classifier, name: str, config: Config, classes: Sequence[str]) -> Pretrained:
    """Choose the layers of `source` that fit a network of this configuration for these classes.

    fc8 fits if it knows the same classes; its rows then follow the new order. CheckpointError if nothing fits.
    """
    wanted = empty_parameters(config, len(classes))
    found = {key: tensor.detach() for key, tensor in source.model.state_dict().items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in found.items()}
    parameters, taken, fresh = dict[str, Tensor](), [], {}
    for layer in config.layers:
        keys = [f"{layer}.weight", f"{layer}.bias"]
        theirs, ours = (shapes.get(keys[0]), tuple(wanted[keys[0]].shape))
        if theirs is None:
            fresh[layer] = "not there"
        elif layer == "fc8" and (rows := _rows(source, classes)) is None:
            fresh[layer] = "other classes"
        elif theirs != ours:
            fresh[layer] = f"{_shape(theirs)} there, {_shape(ours)} here"
        else:
            taken.append(layer)
            parameters |= {key: found[key][rows] if layer == "fc8" else found[key] for key in keys}
    if not taken:
        layer, why = next(iter(fresh.items()))
        raise CheckpointError(
            f"--init-from: no layer of {name} fits this network ({layer}: {why}, and so on). Give the --preset and "
            "--width that it was trained with, or leave --init-from out."
        )
    unused = tuple(layer for layer in source.model.config.layers if layer not in config.layers)
    unlike = _unlike(source.model.config, config)
    return Pretrained(name, fingerprint(source), parameters, tuple(taken), fresh, unused, unlike)


def _rows(source: Classifier, classes: Sequence[str]) -> list[int] | None:
    """Return where in the source's fc8 each class is, or None if it has other classes."""
    theirs = classes if source.published and is_imagenet(classes) else source.classes
    place = {name: row for row, name in enumerate(theirs)}
    return [place[name] for name in classes] if place.keys() == set(classes) else None


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _unlike(theirs: Config, ours: Config) -> tuple[str, ...]:
    names = [name for name in FUNCTION if name != "conv1_padding" or theirs.crop == ours.crop]  # a crop has its own
    return differing(theirs, ours, names)
