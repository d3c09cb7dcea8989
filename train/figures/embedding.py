"""Images laid out by t-SNE of a layer's activations: near each other where the network finds them alike.

`kept_features.py` opens the activations. The paper has no such figure; it is what became of its figure 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ...pipeline.dataset.images import Dataset
from ...pipeline.decode.settings import Settings
from ...pipeline.errors import UserError
from ..feature_folder import Features
from ..kept_features import images_of
from .drawing import MUTED, PALETTE, WIDTH, new_figure, shorten
from .pictures import pictures

FEWEST, MOST = 5, 5000  # images
THUMBNAIL = 56  # pixels; divides 224
COMPONENTS = 50  # that PCA leaves, as the authors of t-SNE advise
PERPLEXITY = 30.0  # their usual number of neighbours
PIXELS = 1360  # of the sheet that pictures are pasted on
LARGEST, SMALLEST = 0.065, 0.022  # sides of a picture, as shares of the sheet's
COVERED = 0.35  # the share of the sheet that pictures would cover if none overlapped
MARKS = [(colour, marker) for marker, colour in product("osD^", PALETTE)]  # one a class; with more classes, grey dots


@dataclass(frozen=True, eq=False)
class Embedding:
    """n images at their places."""

    layer: str
    places: NDArray[np.float64]  # (n, 2), 0..1 from the bottom left
    labels: NDArray[np.int64]  # (n,)
    classes: Sequence[str]  # to be read by people
    pictures: NDArray[np.uint8]  # (n, s, s, 3)


def find_embedding(
    val: Dataset, features: Features, num: int, seed: int, classes: Sequence[str], settings: Settings
) -> Embedding:
    """Lay out up to `num` images of `val`, drawn from `seed`; `classes` is what to call the classes."""
    rows = np.random.default_rng(seed).permutation(len(features.names))[:num]
    return Embedding(
        layer=features.about.layer,
        places=embed(features.array[rows].reshape(len(rows), -1), seed),
        labels=features.labels[rows],
        classes=classes,
        pictures=pictures(val, images_of(features, val)[rows], settings, THUMBNAIL),
    )


def embed(features: NDArray[np.floating], seed: int) -> NDArray[np.float64]:
    """Return places (n, 2) in 0..1 for features (n, d): PCA, then t-SNE, both scikit-learn's and drawn from `seed`.

    UserError where there are fewer than `FEWEST`.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(features) < FEWEST:
        raise UserError(f"An embedding needs at least {FEWEST} images; there are {len(features)}.")
    values = features.astype(np.float32)
    most = min(COMPONENTS, *values.shape)
    reduced = PCA(most, svd_solver="randomized", random_state=seed).fit_transform(values)
    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced).astype(np.float64)
    low, high = found.min(0), found.max(0)
    return (found - low) / np.maximum(high - low, 1e-12)


def side(num_images: int) -> float:
    """The side of a picture, as a share of the sheet's: the more images, the smaller."""
    return float(np.clip(np.sqrt(COVERED / num_images), SMALLEST, LARGEST))


def shown(places: NDArray[np.float64], size: float) -> NDArray[np.bool_]:
    """Which of the squares of side `size` around places (n, 2) are drawn: in order, those that cover no earlier one."""
    chosen = np.zeros(len(places), bool)
    for i, place in enumerate(places):
        apart = np.abs(places[:i][chosen[:i]] - place).max(axis=1, initial=0.0)
        chosen[i] = not (apart < size).any()
    return chosen


def paste(pictures: NDArray[np.uint8], places: NDArray[np.float64], size: float) -> NDArray[np.uint8]:
    """Return a sheet (PIXELS, PIXELS, 4), transparent but for pictures (n, s, s, 3) with centres at (n, 2).

    The outermost lie wholly on it: 0..1 is what is left of its side.
    """
    sheet, pixels = np.zeros((PIXELS, PIXELS, 4), np.uint8), round(size * PIXELS)
    sources = ((np.arange(pixels) + 0.5) * pictures.shape[1] / pixels).astype(int)
    corners = np.rint(places * [1, -1] * (PIXELS - pixels) + [0, PIXELS - pixels]).astype(int)
    for picture, (left, top) in zip(pictures, corners.tolist(), strict=True):
        where = sheet[top : top + pixels, left : left + pixels]
        where[..., :3], where[..., 3] = picture[np.ix_(sources, sources)], 255
    return sheet


def draw_embedding(found: Embedding, *, name: str = "") -> Figure:
    """Draw pictures where there is room, and a mark of its class for every other image."""
    num, size = len(found.places), side(len(found.places))
    chosen = shown(found.places * (1 - size), size)
    classes = np.unique(found.labels)
    marked = len(classes) <= len(MARKS)
    note = f"{num:,} validation images, {chosen.sum():,} of them as pictures"
    note = f"{shorten(name, 45, keep_end=True)}; {note}" if name else note
    rows = -(-len(classes) // 5) if marked else 0
    figure = new_figure(WIDTH + 0.55 + 0.19 * rows, f"t-SNE of {found.layer}", note)
    axes = figure.subplots()
    margin = size / 2
    inside = margin + found.places * (1 - size)
    for place, label in enumerate(classes):
        colour, marker = MARKS[place] if marked else (MUTED, "o")
        x, y = inside[(found.labels == label) & ~chosen].T
        axes.plot(x, y, marker, color=colour, markersize=3.2, markeredgewidth=0, alpha=0.85, linestyle="none")
    axes.imshow(paste(found.pictures[chosen], found.places[chosen], size), extent=(0, 1, 0, 1), zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if marked and len(classes):
        _add_legend(axes, [found.classes[label] for label in classes])
    return figure


def _add_legend(axes: Axes, names: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=5, label=shorten(name, 24))
        for name, (colour, marker) in zip(names, MARKS, strict=False)
    ]
    legend = axes.figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=7.5, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
