"""Images and their nearest neighbours, by the activations of a layer and in pixels: the right of the paper's figure 4.

`nearest.py` searches the features that `kept_features.py` opens, and the pixels of every training image, both exactly.
The paper shows with it that what lies near in fc7 is often far away in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ...pipeline.dataset.images import Dataset
from ...pipeline.decode.settings import Settings
from ...pipeline.errors import UserError
from ...pipeline.squares import squares
from ..feature_folder import Features
from ..kept_features import images_of
from ..nearest import Neighbours, Search, nearest
from .drawing import INK, MUTED, PALETTE, WIDTH, new_sheet, place_image, shorten, write
from .pictures import BATCH, central_views, pictures

QUERIES, NEAREST = 5, 6  # as in the paper
GREY = 128.0  # the middle of the grey levels; numbers near 0 lose less in float32
SAME, OTHER = PALETTE[1], MUTED
HEAD, MARGIN, KIND, LABEL, GAP = 0.58, 0.08, 0.22, 0.15, 0.06  # inches: title, edges, a row's name, a class's, between


@dataclass(frozen=True, eq=False)
class Pictured:
    """Images and their classes."""

    pictures: NDArray[np.uint8]  # (..., 224, 224, 3)
    labels: NDArray[np.int64]  # (...)


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """q images, and the k nearest to each, nearest first."""

    layer: str
    classes: Sequence[str]  # to be read by people
    queries: Pictured  # (q,)
    by_layer: Pictured  # (q, k)
    by_pixels: Pictured  # (q, k)

    def hits(self, found: Pictured) -> int:
        """How many of the neighbours are of their query's class."""
        return int((found.labels == self.queries.labels[:, None]).sum())


def check_enough(train: Dataset, val: Dataset) -> None:
    """UserError if there are too few images for the figure."""
    for dataset, least in ((train, NEAREST), (val, QUERIES)):
        if len(dataset) < least:
            raise UserError(f"{dataset.where} has {len(dataset)} {dataset.split} images, but the figure needs {least}.")


def find_neighbourhoods(
    train: Dataset,
    val: Dataset,
    searched: Features,
    asked: Features,
    rows: NDArray[np.int64],
    classes: Sequence[str],
    settings: Settings,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Neighbourhoods, dict[str, Neighbours]]:
    """Search all training images for the nearest to the validation images in `rows` of their features `asked`.

    Returns the images, and by kind (the layer's name, "pixels") the rows of `searched` that were found.
    `classes` is what to call the classes; `progress` counts training images whose pixels were compared.
    """
    queries, places = pictures(val, images_of(asked, val)[rows], settings), images_of(searched, train)
    layer = searched.about.layer
    by_layer = nearest(np.asarray(asked.array[rows]), searched.array, NEAREST)
    in_pixels = nearest_in_pixels(queries, train, places, NEAREST, settings, progress)
    by_pixels = Neighbours(np.searchsorted(places, in_pixels.indices), in_pixels.distances)  # rows, like the others
    shown = [
        Pictured(pictures(train, places[those.indices], settings), searched.labels[those.indices])
        for those in (by_layer, by_pixels)
    ]
    found = Neighbourhoods(layer, classes, Pictured(queries, asked.labels[rows]), *shown)
    return found, {layer: by_layer, "pixels": by_pixels}


def nearest_in_pixels(
    queries: NDArray[np.uint8],
    dataset: Dataset,
    images: NDArray[np.int64],
    k: int,
    settings: Settings,
    progress: Callable[[int], None] = lambda done: None,
) -> Neighbours:
    """Search the central views of `images` for the `k` nearest to `queries`, uint8 (q, 224, 224, 3).

    Distances are over all 150,528 grey levels of a view. Only the best and one batch are in memory.
    """
    search, bad, done = Search(_numbers(queries), k), dict[int, str](), 0
    for batch in squares(dataset, images, batch_size=BATCH, settings=settings, bad=bad):
        if len(batch.indices):
            search.add(batch.indices, _numbers(central_views(batch.pixels).cpu()))
        done += len(batch.indices)
        progress(done + len(bad))
    return search.found()


def _numbers(pixels: Any) -> Any:
    """Grey levels (b, 224, 224, 3), of numpy or torch, as float32 (b, 150528) around 0."""
    if isinstance(pixels, np.ndarray):
        return pixels.reshape(len(pixels), -1).astype(np.float32) - np.float32(GREY)
    return pixels.flatten(1).float() - GREY


def draw_neighbours(found: Neighbourhoods, *, name: str = "") -> Figure:
    """Draw two rows for each query, which stands large at their left: the nearest by the layer, and in pixels."""
    num, k = found.by_layer.labels.shape
    title = f"The {k} nearest training images, by {found.layer} and in pixels"
    kinds = {found.layer: found.by_layer, "pixels": found.by_pixels}
    hits = "; ".join(f"{kind} {found.hits(part)} of {num * k}" for kind, part in kinds.items())
    note = f"of the query's class (\N{CHECK MARK}): {hits}"
    note = f"{shorten(name, 45, keep_end=True)}; {note}" if name else note
    cell = (WIDTH - 2 * MARGIN - KIND) / (k + 2)  # inches: a query is as wide as two neighbours
    row = cell + LABEL
    sheet = new_sheet(HEAD + num * (2 * row + MARGIN), title, note)
    for query in range(num):
        top, own = HEAD + query * (2 * row + MARGIN), int(found.queries.labels[query])
        side = 2 * cell
        place_image(sheet, found.queries.pictures[query], MARGIN, top, side, side, interpolation="antialiased")
        middle = {"ha": "center", "va": "top"}
        own_name = shorten(found.classes[own], 26)
        write(sheet, own_name, MARGIN + side / 2, top + side + 0.05, 9, fontweight="bold", **middle)
        for kind, part in kinds.items():
            left = MARGIN + side + KIND
            write(sheet, kind, left - 0.04, top + (cell - GAP) / 2, 9, rotation=90, ha="right", va="center")
            for picture, label in zip(part.pictures[query], part.labels[query].tolist(), strict=True):
                _draw_neighbour(sheet, picture, left, top, cell, found.classes[label], label == own)
                left += cell
            top += row
    return sheet.figure  # type: ignore[return-value]  # not a part of one


def _draw_neighbour(
    sheet: Axes, picture: NDArray[np.uint8], left: float, top: float, cell: float, name: str, same: bool
) -> None:
    """Draw a picture in its cell over the name of its class; tell by frame, sign and weight if it is the query's."""
    side = cell - GAP
    place_image(sheet, picture, left, top, side, side, interpolation="antialiased")
    frame = {"edgecolor": SAME, "linewidth": 2.2} if same else {"edgecolor": OTHER, "linestyle": (0, (2, 2))}
    sheet.add_patch(Rectangle((left, top), side, side, fill=False, **frame))
    text = f"\N{CHECK MARK} {shorten(name, 16)}" if same else f"\N{BALLOT X} {shorten(name, 16)}"
    look = {"fontweight": "bold", "color": INK} if same else {"color": MUTED}
    write(sheet, text, left + side / 2, top + side + 0.03, 7, ha="center", va="top", **look)
