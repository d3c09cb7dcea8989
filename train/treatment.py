"""From a configuration and the colour statistics to what is done to every image.

Between `config.py` (which treatment) and `pipeline/loader.py` (which carries it out).
"""

from __future__ import annotations

import numpy as np

from ..pca.stats import RgbStats
from ..pipeline.geometry import CROP, SHORT_SIDE
from ..pipeline.loader import Treatment
from .config import Config

# torchvision's recipe for its published weights, in grey levels: references/classification/presets.py
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


def needs_stats(config: Config) -> bool:
    """Whether training with this configuration takes anything from the training set's statistics."""
    return config.scaling == "raw" or config.lighting != "off"


def build_treatment(config: Config, stats: RgbStats | None) -> Treatment:
    """Mean, divisor and lighting basis in grey levels; `stats` may be None where `needs_stats` is false."""
    basis, lit_divisor = None, 1.0
    if config.lighting != "off":
        assert stats is not None
        strengths = config.lighting_sigma * stats.strengths(config.lighting)
        basis, lit_divisor = (stats.eigenvectors * strengths).astype(np.float32), config.lighting_divisor
    if config.scaling == "imagenet":
        return Treatment(mean=IMAGENET_MEAN, divisor=IMAGENET_STD, basis=basis, lit_divisor=lit_divisor)
    assert stats is not None
    mean = stats.mean.astype(np.float32)
    if config.mean == "image":
        if stats.mean_image is None:
            raise ValueError("These statistics have no mean image (region full). Use region centre, or --mean channel.")
        edge = (SHORT_SIDE - CROP) // 2
        mean = stats.mean_image[edge : edge + CROP, edge : edge + CROP].astype(np.float32)
    return Treatment(mean=mean, basis=basis, lit_divisor=lit_divisor)
