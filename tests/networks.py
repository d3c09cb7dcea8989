"""Small networks with weights that let signals reach the end, and images for them."""

from typing import Any

import torch
from torch import Tensor

from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet, initialise

SMALL = {"width": 1 / 16, "init_std": (0.05,) * 8}  # wide enough weights for signals to reach fc8


def small(preset: str = "paper", num_classes: int = 10, **overrides: Any) -> AlexNet:
    model = AlexNet(Config.from_preset(preset, **{**SMALL, **overrides}), num_classes)
    initialise(model, 0)
    return model.eval()


def images(batch: int = 2, dtype: torch.dtype = torch.float32, crop: int = 224) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 50 * torch.randn(batch, 3, crop, crop, generator=generator, dtype=dtype)
