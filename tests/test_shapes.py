"""What a network's layers look like is known without one, for every network that the switches can make."""

from typing import Any

import pytest
import torch

from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet
from alexnet.train.network.shapes import empty_parameters


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("paper", {}),
        ("one-gpu", {}),
        ("owt", {"width": 0.3}),
        ("conv6", {"without": ("conv5",)}),
        ("paper", {"without": ("conv2", "conv4")}),
        ("paper", {"cross_talk": False}),
    ],
)
def test_shapes_are_those_of_the_network(preset: str, changes: dict[str, Any]) -> None:
    config = Config.from_preset(preset, **changes)
    with torch.device("meta"):
        network = AlexNet(config, 7).state_dict()
    found = empty_parameters(config, 7)
    assert [(name, tensor.shape) for name, tensor in found.items()] == [(n, t.shape) for n, t in network.items()]


def test_the_towers_of_the_paper() -> None:
    """Table of layers in section 3.5: each kernel of conv2, conv4 and conv5 sees one tower."""
    shapes = {name: tuple(t.shape) for name, t in empty_parameters(Config(), 1000).items() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (96, 3, 11, 11),
        "conv2.weight": (256, 48, 5, 5),
        "conv3.weight": (384, 256, 3, 3),
        "conv4.weight": (384, 192, 3, 3),
        "conv5.weight": (256, 192, 3, 3),
        "fc6.weight": (4096, 9216),
        "fc7.weight": (4096, 4096),
        "fc8.weight": (1000, 4096),
    }
