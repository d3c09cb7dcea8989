"""Eight images with their true class and the five most probable ones, as in the left half of the paper's figure 4.

`choose_images` draws the images from a validation set, `predict_panel` asks a network, `draw_predictions` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ...pipeline.dataset.images import Dataset
from ...pipeline.dataset.labels import class_words
from ...pipeline.decode.bad_images import name_bad
from ...pipeline.decode.settings import Settings
from ...pipeline.errors import UserError
from ...pipeline.squares import squares
from ..classifier import Classifier, probabilities
from ..evaluate import in_classes_of
from .drawing import INK, MUTED, class_labels, new_figure, set_title, shorten, show_image

NUM_IMAGES, TOP, COLUMNS = 8, 5, 4
RIGHT, WRONG = "#f0a868", "#bcd4e6"  # light, so that names can be read on them


@dataclass(frozen=True, eq=False)
class Panel:
    """n images and what a network makes of them."""

    names: tuple[str, ...]  # of the images
    pixels: NDArray[np.uint8]  # (n, 256, 256, 3) RGB
    labels: NDArray[np.int64]  # (n,): true classes
    top: NDArray[np.int64]  # (n, 5): classes, the most probable first
    probabilities: NDArray[np.float64]  # (n, 5)
    classes: tuple[str, ...]  # what to call each class

    def records(self) -> list[dict[str, Any]]:
        """One for each image, as JSON can hold it."""
        rows = zip(self.names, self.labels.tolist(), self.top.tolist(), self.probabilities.tolist(), strict=True)
        return [
            {
                "image": name,
                "class": self.classes[label],
                "predictions": {self.classes[i]: p for i, p in zip(top, values, strict=True)},
            }
            for name, label, top, values in rows
        ]


def choose_images(labels: NDArray[np.integer], num: int, seed: int) -> NDArray[np.int64]:
    """Draw `num` of n images: from as many different classes as there are, or as `num` allows.

    `labels` (n,) are their classes; returns positions, (num,) or (n,) if there are fewer.
    """
    drawn = np.random.default_rng(seed).permutation(len(labels))
    _, firsts = np.unique(labels[drawn], return_index=True)  # the first drawn of each class
    firsts.sort()
    return np.concatenate([drawn[firsts], np.delete(drawn, firsts)])[:num]


def find_images(dataset: Dataset, names: Sequence[str]) -> NDArray[np.int64]:
    """The positions of images by their names in a data set, or by the ends of them, such as the file's name.

    UserError if there is no such image, or if there are several.
    """
    found: dict[str, list[int]] = {name: [] for name in names}
    for i in range(len(dataset)):
        full = dataset.name(i)
        for name in names:
            if full == name or full.endswith((f"/{name}", f":{name}")):
                found[name].append(i)
    for name, positions in found.items():
        if len(positions) != 1:
            problem = f"has {len(positions)} images" if positions else "has no image"
            hint = f" Name one by its whole path, such as {dataset.name(positions[0])}." if positions else ""
            raise UserError(f"The {dataset.split} split of {dataset.where} {problem} {name}.{hint}")
    return np.array([found[name][0] for name in names], np.int64)


def predict_panel(
    classifier: Classifier,
    dataset: Dataset,
    *,
    names: Sequence[str] = (),
    seed: int = 0,
    views: int = 1,
    device: torch.device,
    settings: Settings,
) -> Panel:
    """Predict the images that are named, or else eight drawn by the seed; bad ones of these give way to others.

    UserError if the network knows fewer than five classes, if fewer than eight images can be used, or if a named one
    cannot be.
    """
    if len(classifier.classes) < TOP:
        raise UserError(f"The network knows {len(classifier.classes)} classes, but the figure shows the best {TOP}.")
    dataset = in_classes_of([classifier], dataset)
    chosen, pixels = _named(dataset, names, settings) if names else _drawn(dataset, seed, settings)
    top, values = top_classes(probabilities([classifier], pixels.to(device), views).cpu().numpy())
    return Panel(
        names=tuple(dataset.name(int(i)) for i in chosen),
        pixels=pixels.cpu().numpy(),
        labels=dataset.labels[chosen].astype(np.int64),
        top=top,
        probabilities=values,
        classes=class_labels(dataset.classes, {**class_words(dataset.root, dataset.classes), **classifier.words}),
    )


def _named(dataset: Dataset, names: Sequence[str], settings: Settings) -> tuple[NDArray[np.int64], torch.Tensor]:
    chosen = find_images(dataset, names)
    pixels, bad = _read(dataset, chosen, settings)
    if bad:
        raise UserError(f"{name_bad(dataset, bad)}. Name other images.")
    return chosen, pixels


def _drawn(dataset: Dataset, seed: int, settings: Settings) -> tuple[NDArray[np.int64], torch.Tensor]:
    bad = dict[int, str]()
    while True:
        usable = np.setdiff1d(np.arange(len(dataset)), np.array([*bad], np.int64))
        if len(usable) < NUM_IMAGES:
            found = f"{dataset.where} has {len(usable)} {dataset.split} images that can be used"
            raise UserError(f"{found}, but the figure shows {NUM_IMAGES}. Name some with --images.")
        chosen = usable[choose_images(dataset.labels[usable], NUM_IMAGES, seed)]
        pixels, met = _read(dataset, chosen, settings)
        if not met:
            return chosen, pixels
        bad |= met


def _read(dataset: Dataset, chosen: NDArray[np.int64], settings: Settings) -> tuple[torch.Tensor, dict[int, str]]:
    """Uint8 (n, 256, 256, 3) of these images, less the bad ones, which are returned with reasons."""
    bad, lenient = dict[int, str](), replace(settings, max_bad=1.0)
    batches = squares(dataset, chosen, batch_size=len(chosen), settings=lenient, bad=bad)
    return torch.cat([batch.pixels for batch in batches if len(batch.indices)] or [torch.empty(0)]), bad


def top_classes(probability: NDArray[np.floating], num: int = TOP) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `num` most probable classes of (n, classes) and their probabilities, both (n, num), best first."""
    top = np.argsort(-probability, axis=1, kind="stable")[:, :num]
    return top, np.take_along_axis(probability, top, 1).astype(np.float64)


def draw_predictions(panel: Panel, *, name: str = "") -> Figure:
    """Draw the images in rows of four, each above its true class and five bars; the right one is marked three ways."""
    rows = -(-len(panel.names) // COLUMNS)
    note = "under each image its true class, marked where it is among the five"
    note = f"{shorten(name, 45, keep_end=True)}; {note}" if name else note.capitalize()
    figure = new_figure(0.6 + 3.45 * rows, "The five most probable classes", note)
    grid = figure.add_gridspec(rows, COLUMNS)
    for i, pixels in enumerate(panel.pixels):
        cell = grid[i // COLUMNS, i % COLUMNS].subgridspec(2, 1, height_ratios=[2, 1.25])
        (picture,), (bars,) = cell.subplots(squeeze=False)
        show_image(picture, pixels, interpolation="antialiased")
        picture.set_anchor("NW")
        _draw_bars(bars, panel, i)
    return figure


def _draw_bars(axes: Axes, panel: Panel, i: int) -> None:
    """Draw the bars of image i, with the names of their classes on them, under the name of the true one."""
    set_title(axes, shorten(panel.classes[panel.labels[i]], 22))
    for place, (label, value) in enumerate(zip(panel.top[i], panel.probabilities[i], strict=True)):
        right = label == panel.labels[i]
        colour, edge = (RIGHT, INK) if right else (WRONG, "none")
        axes.barh(place, value, 0.8, color=colour, edgecolor=edge, linewidth=1)
        name = f"\N{CHECK MARK} {panel.classes[label]}" if right else panel.classes[label]
        weight = "bold" if right else "normal"
        axes.text(0.02, place, shorten(name, 22), fontsize=8, color=INK, weight=weight, va="center", parse_math=False)
        axes.text(1.22, place, f"{value:.0%}", fontsize=8, color=MUTED, ha="right", va="center")
    axes.set(xlim=(0, 1.22), ylim=(TOP - 0.4, -0.6), xticks=[], yticks=[])
    axes.spines[["right", "top", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(MUTED)
