"""The size of the network, layer by layer: shapes, parameters and multiply-accumulates, without computing anything.

`alexnet train --describe` prints it, `memory.py` adds it up, and `bench.py` derives the bytes to send from it.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch

from ..config import LAYERS, Config
from .model import AlexNet


class LayerRow(NamedTuple):
    """The size of one activation, for one image; anything but a layer with parameters has zeros."""

    layer: str
    output_shape: tuple[int, ...]
    parameters: int  # weights and biases
    macs: int  # multiply-accumulates of convolutions and linear layers
    neurons: int  # outputs of layers that have parameters


def describe(config: Config, num_classes: int) -> list[LayerRow]:
    """Return a row for each activation of the network, from a run without data on the meta device."""
    with torch.device("meta"):
        model = AlexNet(config, num_classes).eval()
        features = model.forward_features(torch.empty(1, *config.image_shape))
    rows = []
    for name, feature in features.items():
        shape = tuple(feature.shape[1:])
        layer = getattr(model, name) if name in LAYERS else None
        parameters = sum(p.numel() for p in layer.parameters()) if layer else 0
        macs = layer.weight.numel() * prod(shape[1:]) if layer else 0
        rows.append(LayerRow(name, shape, parameters, macs, prod(shape) if layer else 0))
    return rows
