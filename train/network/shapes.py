"""The shape of every layer that has parameters, from the configuration alone.

`model.py` builds its layers from it, and `checkpoint.py` knows by it what the file of a network must hold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..config import CONVS, Config

FINAL_MAP = 6  # pool5 is 6x6 with either pooling
CONV_GEOMETRY = {  # kernel size, stride, padding: paper s3.5; conv1's padding is config.conv1_padding
    "conv1": (11, 4, 0),
    "conv2": (5, 1, 2),
    "conv3": (3, 1, 1),
    "conv4": (3, 1, 1),
    "conv5": (3, 1, 1),
    "conv6": (3, 1, 1),
}


class LayerShape(NamedTuple):
    """Channels or units, both towers together; each of the groups sees only its own part of the inputs."""

    inputs: int
    outputs: int
    groups: int


def layer_shapes(config: Config, num_classes: int) -> dict[str, LayerShape]:
    """Return the shape of each of `config.layers`, in order."""
    convs = [name for name in CONVS if name not in config.without]
    outputs = {name: config.scaled(config.channels[CONVS.index(name)]) for name in convs}
    outputs[convs[-1]] = outputs["conv6"] = config.scaled(config.channels[-1])
    groups = dict(zip(CONVS, config.groups, strict=True)) | {"conv6": 1}
    private = 1 if config.cross_talk else config.towers  # groups of the layers that usually see both towers
    shapes, channels = dict[str, LayerShape](), 3
    for name in (*convs, "conv6") if config.conv6 else convs:
        own = 1 if name == "conv1" else max(groups[name], private)
        shapes[name] = LayerShape(channels, outputs[name], own)
        channels = outputs[name]
    units = config.scaled(config.fc)
    shapes["fc6"] = LayerShape(channels * FINAL_MAP**2, units, private)
    shapes["fc7"] = LayerShape(units, units, private)
    shapes["fc8"] = LayerShape(units, num_classes, 1)
    return shapes


def empty_parameters(config: Config, num_classes: int) -> dict[str, Tensor]:
    """Return the parameters of a whole network by name, in order, on the meta device: shapes without contents."""
    found = {}
    for name, (inputs, outputs, groups) in layer_shapes(config, num_classes).items():
        kernel = (CONV_GEOMETRY[name][0],) * 2 if name in CONV_GEOMETRY else ()
        found[f"{name}.weight"] = torch.empty(outputs, inputs // groups, *kernel, device="meta")
        found[f"{name}.bias"] = torch.empty(outputs, device="meta")
    return found
