"""What each layer makes of one image: the strongest maps, the units of fc6 and fc7, the most probable classes.

`activations_of` runs a network of `classifier.py` on the central view, `draw_activations` draws what it found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from ...pipeline.errors import UserError
from ...pipeline.geometry import CROP
from ..classifier import VIEWS, Classifier
from ..config import CONVS
from .drawing import FAINT, INK, MUTED, class_labels, new_figure, set_title, shorten, show_image

NUM_MAPS, TOP = 8, 5
BAR, COLOURS = "#bcd4e6", "magma"  # from black to white, so it can be read in grey, and by the colour-blind
UNITS = ("fc6", "fc7")
ROW_HEIGHT, TOP_HEIGHT, UNITS_HEIGHT = 1.05, 1.75, 0.75  # inches


@dataclass(frozen=True, eq=False)
class Maps:
    """The strongest maps of a layer, by their mean, the strongest first."""

    layer: str
    num_maps: int  # of the whole layer
    numbers: NDArray[np.int64]  # (k,): which they are
    maps: NDArray[np.float32]  # (k, h, w)


@dataclass(frozen=True, eq=False)
class Activations:
    """What a network makes of the central view of one image, layer by layer."""

    image: NDArray[np.uint8]  # (224, 224, 3) RGB
    seen: NDArray[np.float32]  # (224, 224, 3): less the mean, over the divisor
    maps: tuple[Maps, ...]
    units: tuple[tuple[str, NDArray[np.float32]], ...]  # of fc6 and fc7
    classes: tuple[tuple[str, float], ...]  # at most five, with probabilities, the most probable first


def strongest(maps: NDArray[np.floating], num: int) -> NDArray[np.int64]:
    """The positions of the `num` maps of (c, h, w) with the largest means; of equals, the first."""
    return np.argsort(-maps.mean((1, 2), dtype=np.float64), kind="stable")[:num]


@torch.inference_mode()
def activations_of(
    classifier: Classifier, pixels: torch.Tensor, layers: Sequence[str] = (), num_maps: int = NUM_MAPS
) -> Activations:
    """Run the network on uint8 (256, 256, 3), on its device; keep the strongest maps of `layers`.

    Without `layers`, of every convolution and of pool5. UserError for one that the network lacks or that has no maps.
    """
    top, left = VIEWS[0]
    images = classifier.treatment.apply(pixels[None], top, left, mirror=False)
    found = {name: x[0].float().cpu().numpy() for name, x in classifier.model.forward_features(images).items()}
    with_maps = [name for name, values in found.items() if values.ndim == 3]
    layers = layers or [name for name in with_maps if name in (*CONVS, "pool5")]
    for name in layers:
        if name not in with_maps:
            raise UserError(f"This network has no layer {name!r} with maps. It has {', '.join(with_maps)}.")
    chosen = {name: strongest(found[name], num_maps) for name in layers}
    best = F.softmax(torch.from_numpy(found["fc8"]).double(), 0).topk(min(TOP, len(classifier.classes)))
    labels = class_labels(classifier.classes, classifier.words)
    return Activations(
        image=pixels[top : top + CROP, left : left + CROP].cpu().numpy(),
        seen=images[0].permute(1, 2, 0).cpu().numpy(),
        maps=tuple(Maps(name, len(found[name]), own, found[name][own]) for name, own in chosen.items()),
        units=tuple((name, found[name]) for name in UNITS),
        classes=tuple((labels[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)),
    )


def grey_centred(seen: NDArray[np.floating]) -> NDArray[np.float64]:
    """Turn signed numbers of any scale into 0..1, with 0 at mid-grey and the largest size at an end."""
    return 0.5 + seen.astype(np.float64) / max(2 * float(np.abs(seen).max()), 1e-300)


def draw_activations(found: Activations, *, name: str = "") -> Figure:
    """Draw the image and its classes, then a row for each layer."""
    heights = [TOP_HEIGHT, *[ROW_HEIGHT] * len(found.maps), *[UNITS_HEIGHT] * len(found.units)]
    note = "Of each layer, the maps with the largest means; black is 0 or less, white each map's own maximum"
    figure = new_figure(sum(heights) + 0.6, f"Activations: {shorten(name, 60)}", note)
    panels = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_image(panels[0], found)
    for panel, maps in zip(panels[1:], found.maps, strict=False):
        _draw_maps(panel, maps)
    for panel, (layer, values) in zip(panels[1 + len(found.maps) :], found.units, strict=True):
        _draw_units(panel.subplots(), layer, values)
    return figure


def _draw_image(panel: SubFigure, found: Activations) -> None:
    image, seen, classes = panel.subplots(1, 3, width_ratios=[1, 1, 2.4])
    for axes, picture, text in (
        (image, found.image, "The image"),
        (seen, grey_centred(found.seen), "The network's input"),
    ):
        show_image(axes, picture, interpolation="antialiased")
        axes.set_anchor("NW")
        set_title(axes, text)
    set_title(classes, "The most probable classes (fc8)")
    for place, (name, value) in enumerate(found.classes):
        classes.barh(place, value, 0.8, color=BAR)
        classes.text(0.01, place, shorten(name, 34), fontsize=8.5, color=INK, va="center", parse_math=False)
        classes.text(1.1, place, f"{value:.0%}", fontsize=8.5, color=MUTED, ha="right", va="center")
    classes.set(xlim=(0, 1.1), ylim=(TOP - 0.5, -0.5), xticks=[], yticks=[])
    classes.spines[["right", "top", "bottom"]].set_visible(False)
    classes.spines["left"].set_color(MUTED)


def _draw_maps(panel: SubFigure, found: Maps) -> None:
    """Draw a layer's maps beside its name, each under its number."""
    cells = panel.subplots(1, NUM_MAPS + 1, width_ratios=[0.85, *[1] * NUM_MAPS])
    height, width = found.maps.shape[1:]
    _name(cells[0], found.layer, f"{found.num_maps} maps\n{height}x{width}")
    for cell, number, values in zip(cells[1:], found.numbers, found.maps, strict=False):
        show_image(cell, values, cmap=COLOURS, vmin=0, vmax=max(values.max(), 1e-30))
        cell.set_title(f"{number}", fontsize=7.5, color=MUTED, pad=2)
    for cell in cells[1 + len(found.maps) :]:
        cell.set_axis_off()


def _draw_units(axes: Axes, layer: str, values: NDArray[np.float32]) -> None:
    """Draw all units of a layer as bars, in their order: tower 0's on the left."""
    axes.fill_between(np.arange(len(values)), values, step="mid", color=INK, linewidth=0)
    axes.axhline(0, color=FAINT, linewidth=0.6)
    active = np.count_nonzero(values > 0) / len(values)
    axes.set(xlim=(-0.5, len(values) - 0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f"{layer}: {len(values):,} units, {active:.0%} above 0", loc="left", fontsize=9, color=INK, pad=3)


def _name(axes: Axes, layer: str, note: str) -> None:
    axes.set_axis_off()
    axes.text(0, 0.95, layer, fontsize=10, fontweight="bold", color=INK, va="top", transform=axes.transAxes)
    axes.text(0, 0.62, note, fontsize=8, color=MUTED, va="top", transform=axes.transAxes)
