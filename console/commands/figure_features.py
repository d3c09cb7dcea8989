"""The figures that start from a layer's activations: `alexnet figure neighbours` and `embedding`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...pipeline.dataset.images import Dataset, Split
from ...pipeline.dataset.labels import class_words
from ...pipeline.dataset.open import open_dataset
from ...pipeline.decode.settings import Settings
from ...pipeline.errors import UserError
from ...train.classifier import Classifier, find_networks, load_classifier
from ...train.feature_folder import Features
from ...train.figures.drawing import class_labels, save_figure
from ...train.figures.embedding import Embedding, draw_embedding, embed
from ...train.figures.neighbours import Neighbourhoods, Pictured, draw_neighbours, nearest_in_pixels
from ...train.figures.pictures import pictures
from ...train.figures.predictions import choose_images, find_images
from ...train.kept_features import images_of, kept_features, rows_of
from ...train.nearest import Neighbours, nearest
from ..options import LoadingOptions
from ..progress import bar
from ..terminal import say

LAYER = "fc7"
QUERIES, NEAREST = 5, 6
THUMBNAIL = 56  # pixels; divides 224


@dataclass(frozen=True)
class _Source:
    """Where images and activations come from."""

    classifier: Classifier
    file: Path
    data: Path | None
    kept: Path | None
    rescan: bool
    device: torch.device
    settings: Settings

    @classmethod
    def open(
        cls, checkpoint: Path, data: Path | None, kept: Path | None, rescan: bool, loading: LoadingOptions
    ) -> _Source:
        (file,), device = find_networks([checkpoint]), loading.chosen_device()
        return cls(load_classifier(file, device), file, data, kept, rescan, device, loading.settings())

    def split(self, split: Split) -> Dataset:
        return open_dataset(self.data, split, rescan=self.rescan)

    def features(self, dataset: Dataset) -> Features:
        with bar(f"{LAYER} of {dataset.split} images", len(dataset), "images") as update:
            return kept_features(
                self.classifier,
                dataset,
                self.kept,
                layer=LAYER,
                checkpoint=str(self.file),
                device=self.device,
                settings=self.settings,
                announce=say,
                progress=update,
            )

    def names(self, dataset: Dataset) -> tuple[str, ...]:
        """What to call the classes."""
        return class_labels(dataset.classes, {**class_words(dataset.root, dataset.classes), **self.classifier.words})


def figure_neighbours(
    checkpoint: Path,
    data: Path | None,
    out: Path,
    *,
    features: Path | None,
    images: Sequence[str],
    seed: int,
    rescan: bool,
    loading: LoadingOptions,
) -> dict[str, Any]:
    """Draw the nearest training images to a few validation images; return what was found, for JSON."""
    source = _Source.open(checkpoint, data, features, rescan, loading)
    train, val = source.split("train"), source.split("val")
    named = find_images(val, images)
    for dataset, least in ((train, NEAREST), (val, QUERIES)):
        if len(dataset) < least:
            raise UserError(f"{dataset.root} has {len(dataset)} {dataset.split} images, but the figure needs {least}.")
    asked, searched = source.features(val), source.features(train)
    rows = rows_of(asked, val, named) if images else choose_images(asked.labels, QUERIES, seed)
    queries, places = pictures(val, images_of(asked, val)[rows], source.settings), images_of(searched, train)
    by_layer = nearest(np.asarray(asked.array[rows]), searched.array, NEAREST)
    with bar("pixels of train images", len(places), "images") as update:
        in_pixels = nearest_in_pixels(queries, train, places, NEAREST, source.settings, update)
    by_pixels = Neighbours(np.searchsorted(places, in_pixels.indices), in_pixels.distances)  # rows, like the others
    found = Neighbourhoods(
        layer=LAYER,
        classes=source.names(train),
        queries=Pictured(queries, asked.labels[rows]),
        **{
            kind: Pictured(pictures(train, places[those.indices], source.settings), searched.labels[those.indices])
            for kind, those in (("by_layer", by_layer), ("by_pixels", by_pixels))
        },
    )
    save_figure(draw_neighbours(found, name=str(checkpoint)), out)
    listed = [
        {
            "query": asked.names[row],
            "class": val.classes[asked.labels[row]],
            LAYER: _listed(searched, by_layer, place),
            "pixels": _listed(searched, by_pixels, place),
        }
        for place, row in enumerate(rows.tolist())
    ]
    hits = {LAYER: found.hits(found.by_layer), "pixels": found.hits(found.by_pixels)}
    return {"neighbours": len(rows) * NEAREST, "of_the_same_class": hits, "queries": listed}


def _listed(features: Features, found: Neighbours, query: int) -> list[dict[str, Any]]:
    return [
        {"name": features.names[row], "class": features.about.classes[features.labels[row]], "distance": distance}
        for row, distance in zip(found.indices[query].tolist(), found.distances[query].tolist(), strict=True)
    ]


def figure_embedding(
    checkpoint: Path,
    data: Path | None,
    out: Path,
    *,
    features: Path | None,
    num: int,
    seed: int,
    rescan: bool,
    loading: LoadingOptions,
) -> int:
    """Draw the layout of up to `num` validation images, drawn from `seed`; return how many there are."""
    source = _Source.open(checkpoint, data, features, rescan, loading)
    val = source.split("val")
    found = source.features(val)
    rows = np.random.default_rng(seed).permutation(len(found.names))[:num]
    embedding = Embedding(
        layer=LAYER,
        places=embed(found.array[rows].reshape(len(rows), -1), seed),
        labels=found.labels[rows],
        classes=source.names(val),
        pictures=pictures(val, images_of(found, val)[rows], source.settings, THUMBNAIL),
    )
    save_figure(draw_embedding(embedding, name=str(checkpoint)), out)
    return len(rows)
