"""Small networks with weights that let signals reach the end, images for them, and torchvision's network said again."""

from typing import Any

import torch
from torch import Tensor, nn

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


class TheirAlexNet(nn.Module):
    """torchvision.models.alexnet, from its definition."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(9216, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
