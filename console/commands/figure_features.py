"""The figures that start from a layer's activations: `alexnet figure neighbours` and `embedding`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...pipeline.dataset.images import Dataset, Split
from ...pipeline.dataset.labels import class_words
from ...pipeline.decode.settings import Settings
from ...train.classifier import Classifier, find_networks, load_classifier
from ...train.feature_folder import Features
from ...train.figures.drawing import class_labels, save_figure
from ...train.figures.embedding import draw_embedding, find_embedding
from ...train.figures.neighbours import NEAREST, QUERIES, check_enough, draw_neighbours, find_neighbourhoods
from ...train.figures.predictions import choose_images, find_images
from ...train.kept_features import kept_features, rows_of
from ...train.nearest import Neighbours
from ...train.saved import read_selection
from ..data_options import DataOptions
from ..options import LoadingOptions
from ..progress import bar
from ..terminal import say

LAYER = "fc7"


@dataclass(frozen=True)
class _Source:
    """Where images and activations come from."""

    classifier: Classifier
    file: Path
    data: Path | None
    kept: Path | None
    which: DataOptions
    device: torch.device
    settings: Settings

    @classmethod
    def open(
        cls, checkpoint: Path, data: Path | None, kept: Path | None, which: DataOptions, loading: LoadingOptions
    ) -> _Source:
        (file,), device = find_networks([checkpoint]), loading.chosen_device()
        return cls(load_classifier(file, device), file, data, kept, which, device, loading.settings())

    def split(self, split: Split) -> Dataset:
        return self.which.open(self.data, split, remembered=read_selection(self.file))

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
    which: DataOptions,
    loading: LoadingOptions,
) -> dict[str, Any]:
    """Draw the nearest training images to a few validation images; return what was found, for JSON."""
    source = _Source.open(checkpoint, data, features, which, loading)
    train, val = source.split("train"), source.split("val")
    named = find_images(val, images)
    check_enough(train, val)
    asked, searched = source.features(val), source.features(train)
    rows = rows_of(asked, val, named) if images else choose_images(asked.labels, QUERIES, seed)
    with bar("pixels of train images", len(train), "images") as update:
        found, ranked = find_neighbourhoods(
            train, val, searched, asked, rows, source.names(train), source.settings, update
        )
    save_figure(draw_neighbours(found, name=str(checkpoint)), out)
    listed = [
        {
            "query": asked.names[row],
            "class": val.classes[asked.labels[row]],
            **{kind: _listed(searched, those, place) for kind, those in ranked.items()},
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
    which: DataOptions,
    loading: LoadingOptions,
) -> int:
    """Draw the layout of up to `num` validation images, drawn from `seed`; return how many there are."""
    source = _Source.open(checkpoint, data, features, which, loading)
    val = source.split("val")
    found = source.features(val)
    embedding = find_embedding(val, found, num, seed, source.names(val), source.settings)
    save_figure(draw_embedding(embedding, name=str(checkpoint)), out)
    return len(embedding.labels)
