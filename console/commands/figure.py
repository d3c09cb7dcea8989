"""`alexnet figure`: what each of its commands reads, computes and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ...pipeline.dataset.open import from_files
from ...pipeline.errors import UserError
from ...pipeline.squares import squares
from ...train.classifier import find_networks, load_classifier
from ...train.figures.activations import activations_of, draw_activations
from ...train.figures.curves import Curves, draw_curves, read_curves
from ...train.figures.drawing import save_figure
from ...train.figures.kernels import conv1_kernels, draw_kernels
from ...train.figures.predictions import Panel, draw_predictions, predict_panel
from ...train.network.model import AlexNet
from ...train.saved import read_selection
from ..data_options import DataOptions
from ..options import LoadingOptions


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
    model = AlexNet.from_checkpoint(file)
    kernels = conv1_kernels(model.conv1.weight.detach().numpy(), model.config.towers, per_kernel=per_kernel)
    save_figure(draw_kernels(kernels, name=str(checkpoint)), out)
    own = [kernels.colour_of(tower) for tower in range(kernels.towers)]
    return [
        TowerColour(tower, len(colour), float(colour.mean()), share)
        for tower, (colour, share) in enumerate(zip(own, kernels.colour_shares, strict=True))
    ]


def figure_activations(
    checkpoint: Path, image: Path, out: Path, *, layers: Sequence[str], loading: LoadingOptions
) -> None:
    """Draw what each layer makes of an image file."""
    files, device, bad = from_files([image]), loading.chosen_device(), dict[int, str]()
    settings = replace(loading, max_bad=1.0).settings()
    classifier = load_classifier(checkpoint, device)
    (batch,) = squares(files, np.arange(1), batch_size=1, settings=settings, bad=bad)
    if bad:
        raise UserError(f"{image} cannot be used: {bad[0]}.")
    found = activations_of(classifier, batch.pixels[0].to(device), layers)
    save_figure(draw_activations(found, name=f"{image.name}, by {checkpoint}"), out)


def figure_predictions(
    checkpoint: Path,
    data: Path | None,
    out: Path,
    *,
    which: DataOptions,
    images: Sequence[str],
    seed: int,
    views: Literal[1, 10],
    loading: LoadingOptions,
) -> Panel:
    """Draw validation images with their most probable classes."""
    (file,), device = find_networks([checkpoint]), loading.chosen_device()
    panel = predict_panel(
        load_classifier(file, device),
        which.open(data, "val", remembered=read_selection(file)),
        names=images,
        seed=seed,
        views=views,
        device=device,
        settings=loading.settings(),
    )
    save_figure(
        draw_predictions(panel, name=str(checkpoint)),
        out,
    )
    return panel


def figure_curves(runs: Sequence[Path], out: Path) -> list[Curves]:
    """Draw how runs went."""
    curves = [read_curves(run) for run in runs]
    save_figure(draw_curves(curves), out)
    return curves
