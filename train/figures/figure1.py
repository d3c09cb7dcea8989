"""Figure 1 of the paper: training error by epoch, ReLU solid, tanh dashed, down to the line at 25%.

`cifar/figure1.py` has the runs; a thin line is drawn for each seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..cifar.networks import Neuron
from .drawing import FAINT, INK, MUTED, PALETTE, bare, new_figure

STYLES: dict[Neuron, tuple[str, str, str]] = {"relu": ("ReLU", "-", PALETTE[0]), "tanh": ("tanh", "--", PALETTE[1])}
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # epochs, training error 0..1


@dataclass(frozen=True)
class Lines:
    """The lines of one neuron."""

    rate: float | None
    curves: Sequence[Curve]
    epochs_to_target: float | None  # the mean


def draw_figure1(neurons: Mapping[Neuron, Lines], target: float, note: str) -> Figure:
    """Draw the curves of each neuron, and mark where they come down to `target`."""
    figure = new_figure(4.4, "Training error on CIFAR-10 with ReLU and with tanh", note)
    axes = figure.subplots()
    for name, lines in neurons.items():
        text, style, colour = STYLES[name]
        label = f"{text}, rate {lines.rate:g}" if lines.rate is not None else f"{text}: no rate reached {target:.0%}"
        width = 1.8 if len(lines.curves) == 1 else 1.1
        for i, (at, error) in enumerate(lines.curves):
            axes.plot(at, 100 * error, style, color=colour, linewidth=width, label=label if i == 0 else None)
        if not lines.curves:
            axes.plot([], [], style, color=colour, label=label)
        if lines.epochs_to_target is not None:
            _mark(axes, lines.epochs_to_target, 100 * target, colour)
    axes.axhline(100 * target, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_xlabel("epoch", fontsize=9, color=MUTED)
    axes.set_ylabel("training error, %", fontsize=9, color=MUTED)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 80)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    bare(axes, "bottom", "left")
    axes.legend(loc="upper right", fontsize=8.5, labelcolor=INK, edgecolor="none")
    return figure


def _mark(axes: Axes, epochs: float, percent: float, colour: str) -> None:
    axes.plot([epochs], [percent], "o", color=colour, markersize=5)
    axes.annotate(
        f"{epochs:.1f}", (epochs, percent), (0, -6), textcoords="offset points", ha="center", va="top", fontsize=8.5
    )
