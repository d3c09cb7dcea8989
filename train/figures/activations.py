"""What each layer makes of one image: the strongest maps, the units of fc6 and fc7, the most probable classes.

`activations_of` runs a network of `classifier.py` on the central view, `draw_activations` draws what it found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...pipeline.errors import UserError
from ..classifier import Classifier, views_of
from ..config import CONVS
from .drawing import FAINT, INK, MUTED, WIDTH, class_labels, new_sheet, place_image, set_title, shorten, write

NUM_MAPS, TOP = 8, 5
BAR, COLOURS = "#bcd4e6", "magma"  # from black to white, so it can be read in grey, and by the colour-blind
UNITS = ("fc6", "fc7")
ROW_HEIGHT, TOP_HEIGHT, UNITS_HEIGHT = 1.08, 1.75, 0.75  # inches
HEAD, MARGIN, NAME_WIDTH, GAP = 0.55, 0.1, 0.85, 0.08


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

    image: NDArray[np.uint8]  # (crop, crop, 3) RGB
    seen: NDArray[np.float32]  # (crop, crop, 3): less the mean, over the divisor
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
    crop = classifier.treatment.crop
    ((top, left, _),) = views_of(1, crop)
    images = classifier.treatment.apply(pixels[None], top, left, mirror=False)
    found = {name: x[0].float().cpu().numpy() for name, x in classifier.model.forward_features(images).items()}
    with_maps = [name for name, values in found.items() if values.ndim == 3]
    layers = layers or [name for name in with_maps if name in (*CONVS, "pool5", "conv6")]
    for name in layers:
        if name not in with_maps:
            raise UserError(f"This network has no layer {name!r} with maps. It has {', '.join(with_maps)}.")
    chosen = {name: strongest(found[name], num_maps) for name in layers}
    best = F.softmax(torch.from_numpy(found["fc8"]).double(), 0).topk(min(TOP, len(classifier.classes)))
    labels = class_labels(classifier.classes, classifier.words)
    return Activations(
        image=pixels[top : top + crop, left : left + crop].cpu().numpy(),
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
    note = "Of each layer, the maps with the largest means; black is 0 or less, white each map's own maximum"
    height = HEAD + TOP_HEIGHT + ROW_HEIGHT * len(found.maps) + UNITS_HEIGHT * len(found.units) + MARGIN
    sheet = new_sheet(height, f"Activations: {shorten(name, 60)}", note)
    _draw_image(sheet, found)
    top = HEAD + TOP_HEIGHT
    for maps in found.maps:
        _draw_maps(sheet, top, maps)
        top += ROW_HEIGHT
    for layer, values in found.units:
        _draw_units(_panel(sheet, MARGIN, top + 0.22, WIDTH - 2 * MARGIN, UNITS_HEIGHT - 0.3), layer, values)
        top += UNITS_HEIGHT
    return sheet.figure  # type: ignore[return-value]  # not a part of one


def _panel(sheet: Axes, left: float, top: float, width: float, height: float) -> Axes:
    """Axes of their own in a rectangle of the sheet."""
    whole = sheet.figure.get_figheight()  # type: ignore[union-attr]
    return sheet.figure.add_axes((left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))


def _draw_image(sheet: Axes, found: Activations) -> None:
    side, top = TOP_HEIGHT - 0.4, HEAD + 0.22
    pictures: list[NDArray[Any]] = [found.image, grey_centred(found.seen)]
    for place, (picture, text) in enumerate(zip(pictures, ("The image", "The network's input"), strict=True)):
        left = MARGIN + place * (side + 0.45)
        write(sheet, text, left, top - 0.08, 10, fontweight="bold")
        place_image(sheet, picture, left, top, side, side, interpolation="antialiased")
    left = MARGIN + 2 * (side + 0.45)
    classes = _panel(sheet, left, top, WIDTH - MARGIN - left, side)
    set_title(classes, "The most probable classes (fc8)")
    for place, (name, value) in enumerate(found.classes):
        classes.barh(place, value, 0.8, color=BAR)
        classes.text(0.01, place, shorten(name, 34), fontsize=8.5, color=INK, va="center", parse_math=False)
        classes.text(1.1, place, f"{value:.0%}", fontsize=8.5, color=MUTED, ha="right", va="center")
    classes.set(xlim=(0, 1.1), ylim=(TOP - 0.5, -0.5), xticks=[], yticks=[])
    classes.spines[["right", "top", "bottom"]].set_visible(False)
    classes.spines["left"].set_color(MUTED)


def _draw_maps(sheet: Axes, top: float, found: Maps) -> None:
    """Draw a layer's maps beside its name, each under its number."""
    height, width = found.maps.shape[1:]
    write(sheet, found.layer, MARGIN, top + 0.26, 10, fontweight="bold")
    note = f"{found.num_maps} maps\n{height}x{width}"
    write(sheet, note, MARGIN, top + 0.34, 8, color=MUTED, va="top")
    cell = (WIDTH - 2 * MARGIN - NAME_WIDTH) / NUM_MAPS
    for place, (number, values) in enumerate(zip(found.numbers, found.maps, strict=True)):
        left = MARGIN + NAME_WIDTH + place * cell
        write(sheet, f"{number}", left + (cell - GAP) / 2, top + 0.11, 7.5, color=MUTED, ha="center")
        place_image(
            sheet, values, left, top + 0.15, cell - GAP, cell - GAP, cmap=COLOURS, vmin=0, vmax=max(values.max(), 1e-30)
        )


def _draw_units(axes: Axes, layer: str, values: NDArray[np.float32]) -> None:
    """Draw all units of a layer as bars, in their order: tower 0's on the left."""
    axes.fill_between(np.arange(len(values)), values, step="mid", color=INK, linewidth=0)
    axes.axhline(0, color=FAINT, linewidth=0.6)
    active = np.count_nonzero(values > 0) / len(values)
    axes.set(xlim=(-0.5, len(values) - 0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f"{layer}: {len(values):,} units, {active:.0%} above 0", loc="left", fontsize=9, color=INK, pad=3)
