"""From pixels to what the network sees: subtract the mean, add lighting, divide.

`loader.py` applies it to training batches as it makes them; evaluation applies it to views of decoded squares.
Training makes a `Treatment` from statistics, and a checkpoint keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from .geometry import CROP


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """How pixels become what the network sees: (x - mean + lighting) / divisor, in grey levels 0..255, of a crop."""

    mean: NDArray[np.float32]  # the mean image's centre (crop, crop, 3), or a colour (3,)
    crop: int = CROP  # the side of what the network sees
    divisor: NDArray[np.float32] = field(default_factory=lambda: np.ones(3, np.float32))  # (3,)
    basis: NDArray[np.float32] | None = None  # (3, 3): lighting = basis @ three standard normal draws
    lit_divisor: float = 1.0  # a further divisor while lighting is on: the authors' 1 + sigma

    @classmethod
    def imagenet(cls, crop: int = CROP) -> Treatment:
        """Return the treatment of torchvision's and timm's networks: 0..1 less ImageNet's mean, divided by its std."""
        return cls(mean=IMAGENET_MEAN, divisor=IMAGENET_STD, crop=crop)

    def divisor_when(self, lit: bool) -> NDArray[np.float32]:
        return self.divisor * np.float32(self.lit_divisor if lit else 1.0)

    def apply(self, squares: torch.Tensor, top: int, left: int, mirror: bool) -> torch.Tensor:
        """Treat one view for evaluation: uint8 (b, 256, 256, 3) to float32 (b, 3, crop, crop)."""
        crop = squares[:, top : top + self.crop, left : left + self.crop]
        images = (crop.flip(2) if mirror else crop).to(torch.float32)
        mean, divisor = (_rows(array, self.crop).to(squares.device) for array in (self.mean, self.divisor))
        return images.sub_(mean).div_(divisor).permute(0, 3, 1, 2)


def _rows(values: NDArray[np.float32], width: int) -> torch.Tensor:
    """An image, or a colour repeated over one row (width, 3): torch is slow where a dimension of 3 stands alone."""
    shape = values.shape if values.ndim == 3 else (width, 3)
    return torch.from_numpy(np.array(np.broadcast_to(values, shape)))


# torchvision's recipe for its published weights, in grey levels: references/classification/presets.py
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255
