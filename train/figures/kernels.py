"""conv1's kernels as pictures, tower by tower, and how much colour each tower holds: the paper's figure 3.

The weights come from a checkpoint, as numpy arrays. The paper found that one tower's kernels are mostly free of colour
and the other's mostly about it, in every run; `Kernels.colour` and `colour_shares` put a number on that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .drawing import FAINT, INK, MUTED, PALETTE, WIDTH, bare, new_figure, set_title, shorten, show_image

ROW = 16  # kernels, as the authors drew them
GAP = 1  # pixels between kernels


@dataclass(frozen=True, eq=False)
class Kernels:
    """conv1's n kernels; an equal share belongs to each tower, tower 0's first."""

    pictures: NDArray[np.float64]  # (n, k, k, 3) RGB, 0..1
    colour: NDArray[np.float64]  # (n,): mean distance from grey, where the span of all weights is 1
    colour_shares: tuple[float, ...]  # of each tower's squared weights

    @property
    def towers(self) -> int:
        return len(self.colour_shares)

    def colour_of(self, tower: int) -> NDArray[np.float64]:
        """The `colour` of a tower's kernels."""
        return np.split(self.colour, self.towers)[tower]


def conv1_kernels(weight: NDArray[np.floating], towers: int, *, per_kernel: bool = False) -> Kernels:
    """Turn conv1's weights (n, 3, k, k), RGB, of `towers` towers into pictures and their amounts of colour.

    The smallest of all weights becomes 0 and the largest 1, as the authors drew them; `per_kernel` does so within each
    kernel, which shows weak ones but hides that they are weak.

    A weight triple (r, g, b) at one place of a kernel is grey if r = g = b. Its distance from grey is the Euclidean
    distance to the nearest grey, (m, m, m) with m their mean. `colour` is the mean of it over a kernel's places, in
    units of the largest less the smallest of all weights, whatever the pictures' scale. `colour_shares` has for each
    tower the sum of squared distances over the sum of squared weights: 0 if all is grey, 2/3 if the weights are
    independent noise, 1 if every triple adds up to 0. Strong kernels weigh more in it; the scale of weights has none.
    """
    triples = weight.astype(np.float64).transpose(0, 2, 3, 1)  # (n, k, k, 3)
    scale = (1, 2, 3) if per_kernel else None  # the axes that share one
    low, high = triples.min(scale, keepdims=True), triples.max(scale, keepdims=True)
    squares = ((triples - triples.mean(-1, keepdims=True)) ** 2).sum(-1)  # (n, k, k)
    of_tower = squares.reshape(towers, -1).sum(1) / np.maximum((triples**2).reshape(towers, -1).sum(1), 1e-300)
    return Kernels(
        pictures=np.where(high > low, (triples - low) / np.maximum(high - low, 1e-300), 0.5),
        colour=np.sqrt(squares).mean((1, 2)) / max(float(np.ptp(triples)), 1e-300),
        colour_shares=tuple(of_tower.tolist()),
    )


def mosaic(pictures: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    """Set (n, k, k, 3) in rows of `columns`, on white, with a gap between them."""
    count, size, step = len(pictures), pictures.shape[1], pictures.shape[1] + GAP
    sheet = np.ones((-(-count // columns) * step - GAP, columns * step - GAP, 3))
    for i, picture in enumerate(pictures):
        top, left = i // columns * step, i % columns * step
        sheet[top : top + size, left : left + size] = picture
    return sheet


def draw_kernels(kernels: Kernels, *, name: str = "") -> Figure:
    """Draw the towers' kernels above each other, and below them the colour of every kernel."""
    per_tower = len(kernels.colour) // kernels.towers
    columns = min(ROW, max(per_tower, ROW // 2))
    sheets = [mosaic(part, columns) for part in np.split(kernels.pictures, kernels.towers)]
    rows, columns, _ = sheets[0].shape
    heights = kernels.towers * (WIDTH * rows / columns + 0.35), 0.85 + 0.55 * kernels.towers
    size = "x".join(map(str, kernels.pictures.shape[1:3]))
    note = f"{len(kernels.colour)} kernels of {size} pixels" + (f"; {shorten(name, 70, keep_end=True)}" if name else "")
    figure = new_figure(sum(heights) + 0.6, "Kernels of conv1", note)
    (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)
    panels = above.subplots(kernels.towers, 1, squeeze=False)[:, 0]
    for tower, (axes, sheet) in enumerate(zip(panels, sheets, strict=True)):
        show_image(axes, sheet)
        axes.set_anchor("NW")
        if kernels.towers > 1:
            set_title(axes, f"Tower {tower}")
    _draw_colour(below.subplots(), kernels)
    return figure


def _draw_colour(axes: Axes, kernels: Kernels) -> None:
    """Draw a dot for each kernel, and each tower's mean."""
    for tower in range(kernels.towers):
        colour, own = PALETTE[tower % len(PALETTE)], np.sort(kernels.colour_of(tower))
        heights = tower + 0.2 * np.sin(2.4 * np.arange(len(own)))  # so that neighbours do not hide each other
        axes.axhline(tower, color=FAINT, linewidth=0.6, zorder=0)
        axes.plot(own, heights, "os"[tower % 2], color=colour, markersize=4.5, alpha=0.6, markeredgewidth=0)
        axes.plot([own.mean()] * 2, [tower - 0.28, tower + 0.28], color=colour, linewidth=2.5)
        whose = f"tower {tower}: " if kernels.towers > 1 else ""
        text = f"{whose}mean {own.mean():.3f}; colour is {kernels.colour_shares[tower]:.0%} of its squared weights"
        axes.text(0, tower - 0.32, text, fontsize=8.5, color=INK, va="bottom")
    axes.set(yticks=[], ylim=(kernels.towers - 0.65, -0.7), xlim=(0, None))
    bare(axes, "bottom")
    axes.set_xlabel("mean distance from grey; 1 is the span of all weights", fontsize=8.5, color=MUTED)
    set_title(axes, "Colour of each kernel")
