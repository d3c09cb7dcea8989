"""`alexnet figure`: what each of its commands reads, computes and draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...train.classifier import find_networks, load_model
from ...train.figures.drawing import save_figure
from ...train.figures.kernels import conv1_kernels, draw_kernels


@dataclass(frozen=True)
class TowerColour:
    """How much colour a tower's kernels hold; `figures/kernels.py` defines the numbers."""

    tower: int
    num_kernels: int
    mean_distance_from_grey: float
    colour_share: float


def figure_kernels(checkpoint: Path, out: Path, *, per_kernel: bool) -> list[TowerColour]:
    """Draw conv1's kernels."""
    (file,) = find_networks([checkpoint])
    model, _ = load_model(file)
    kernels = conv1_kernels(model.conv1.weight.detach().numpy(), model.config.towers, per_kernel=per_kernel)
    save_figure(draw_kernels(kernels, name=str(checkpoint)), out)
    own = [kernels.colour_of(tower) for tower in range(kernels.towers)]
    return [
        TowerColour(tower, len(colour), float(colour.mean()), share)
        for tower, (colour, share) in enumerate(zip(own, kernels.colour_shares, strict=True))
    ]
