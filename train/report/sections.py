"""The sections of a report that are pictures: each draws with `train/figures/` or `pca/figures.py`, and says in words
what is to be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from ...pca.figures import draw_stats
from ...pipeline.dataset.images import Dataset
from ...pipeline.dataset.labels import class_words
from ...pipeline.decode.settings import Settings
from ...pipeline.errors import UserError
from ...pipeline.squares import squares
from ..classifier import Classifier
from ..feature_folder import Features
from ..figures.activations import activations_of, draw_activations
from ..figures.curves import draw_curves, read_curves
from ..figures.drawing import class_labels
from ..figures.embedding import MOST, draw_embedding, find_embedding
from ..figures.kernels import conv1_kernels, draw_kernels
from ..figures.neighbours import NEAREST, QUERIES, check_enough, draw_neighbours, find_neighbourhoods
from ..figures.predictions import choose_images, draw_predictions, predict_panel
from ..kept_features import kept_features
from ..parallel.mesh import Mesh
from .facts import Facts
from .page import Shown
from .pictures import embed

Bar = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]  # what, how many, of what


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a report is made of. The data sets are None where they could not be had, for the reason `no_data`."""

    facts: Facts
    classifier: Classifier
    train_set: Dataset | None
    val_set: Dataset | None
    no_data: str
    mesh: Mesh
    settings: Settings
    checkpoint: str  # a name for people
    bar: Bar
    tell: Callable[[str], None]

    def validation(self) -> Dataset:
        if self.val_set is None:
            raise UserError(self.no_data)
        return self.val_set

    def features(self, dataset: Dataset) -> Features:
        """fc7 of a split, from the cache or computed now."""
        with self.bar(f"fc7 of {dataset.split} images", len(dataset), "images") as update:
            return kept_features(
                self.classifier,
                dataset,
                None,
                checkpoint=self.checkpoint,
                device=self.mesh.device,
                settings=self.settings,
                announce=self.tell,
                progress=update,
            )

    def names(self, dataset: Dataset) -> tuple[str, ...]:
        """What to call the classes."""
        words = class_words(dataset.root, dataset.classes) | dict(self.classifier.words)
        return class_labels(dataset.classes, words)

    def training(self) -> Dataset:
        if self.train_set is None:
            raise UserError(self.no_data)
        return self.train_set


def curves(sources: Sources) -> Shown:
    facts = sources.facts
    rates = sorted({window["lr"] for window in facts.windows}, reverse=True)
    text = (
        f"{facts.epochs_done} of {facts.config.epochs} epochs, schedule {facts.config.schedule}, rates "
        f"{', '.join(f'{rate:g}' for rate in rates)}. Training errors are of augmented images with dropout on, so they "
        "may lie above those of validation."
    )
    alt = "Training loss, errors in training and validation, and the learning rate, over epochs."
    if facts.validations:
        first, last = facts.validations[0], facts.validations[-1]
        alt += f" The top-1 error in validation went from {first['top1_error']:.1%} to {last['top1_error']:.1%}."
    caption = "Loss, errors and learning rate by epoch; validation is of one view."
    return Shown([text], [embed(draw_curves([read_curves(facts.folder)]), alt, caption)])


def kernels(sources: Sources) -> Shown:
    model = sources.classifier.model
    found = conv1_kernels(model.conv1.weight.detach().cpu().numpy(), model.config.towers)
    shares = [f"{share:.0%}" for share in found.colour_shares]
    text = f"Colour makes up {shares[0]} of the squared weights."
    if found.towers > 1:
        text = (
            "In the paper one tower became mostly blind to colour and the other mostly specific to it. Here colour "
            f"makes up {shares[0]} of the squared weights of tower 0, and {shares[1]} of those of tower 1."
        )
    alt = f"The {len(found.colour)} kernels of conv1 as small pictures, and how far each is from grey."
    caption = "All kernels share one scale of brightness, as the authors drew theirs."
    return Shown([text], [embed(draw_kernels(found), alt, caption)])


def activations(sources: Sources) -> Shown:
    dataset, pixels = sources.validation(), None
    for batch in squares(dataset, np.arange(len(dataset), dtype=np.int64), batch_size=8, settings=sources.settings):
        if len(batch.indices):
            name, pixels = dataset.name(int(batch.indices[0])), batch.pixels[0]
            break
    if pixels is None:
        raise UserError(f"no validation image of {dataset.where} can be used")
    found = activations_of(sources.classifier, pixels.to(sources.mesh.device))
    best = ", ".join(f"{label} {share:.0%}" for label, share in found.classes)
    alt = f"The strongest maps of each layer for one image, the units of fc6 and fc7, and the best classes: {best}."
    caption = f"{name}: the maps with the largest means, the units of fc6 and fc7, and the most probable classes."
    return Shown([], [embed(draw_activations(found, name=name), alt, caption, "webp")])


def predictions(sources: Sources) -> Shown:
    panel = predict_panel(
        sources.classifier, sources.validation(), device=sources.mesh.device, settings=sources.settings
    )
    right = sum(int(top[0] == label) for top, label in zip(panel.top, panel.labels, strict=True))
    alt = "; ".join(
        f"{record['class']}: " + ", ".join(f"{name} {share:.0%}" for name, share in record["predictions"].items())
        for record in panel.records()
    )
    caption = f"Drawn at random. The first guess is right for {right} of {len(panel.names)}."
    text = "The left half of the paper's figure 4: each image over its true class and the five most probable ones."
    return Shown([text], [embed(draw_predictions(panel), alt, caption, "webp")])


def neighbours(sources: Sources) -> Shown:
    train, val = sources.training(), sources.validation()
    check_enough(train, val)
    asked, searched = sources.features(val), sources.features(train)
    rows = choose_images(asked.labels, QUERIES, seed=0)
    with sources.bar("pixels of training images", len(train), "images") as update:
        found, _ = find_neighbourhoods(
            train, val, searched, asked, rows, sources.names(train), sources.settings, update
        )
    hits, of = (found.hits(found.by_layer), found.hits(found.by_pixels)), QUERIES * NEAREST
    text = (
        f"Five validation images, and the {NEAREST} nearest to each of all {len(searched.names):,} training images: "
        "above by the activations of fc7, as in the right half of the paper's figure 4, and below in pixels."
    )
    said = f"Of the query's class are {hits[0]} of {of} by fc7, and {hits[1]} of {of} in pixels."
    alt = f"Five validation images and their nearest training images. {said}"
    caption = f"Euclidean distance, exact. {said} A tick and a coloured frame mark them."
    picture = embed(draw_neighbours(found), alt, caption, "webp")
    return Shown([text], [picture])


def embedding(sources: Sources) -> Shown:
    val = sources.validation()
    found = find_embedding(val, sources.features(val), MOST, 0, sources.names(val), sources.settings)
    text = (
        "Images near each other are alike to fc7, as far as a plane can show it. Distances between far groups, and the "
        "sizes of groups, mean little in such a picture."
    )
    alt = f"{len(found.labels):,} validation images laid out by t-SNE of fc7."
    picture = embed(draw_embedding(found), alt, "t-SNE of fc7 after PCA to 50 dimensions, both scikit-learn's.", "webp")
    return Shown([text], [picture])


def colours(sources: Sources) -> Shown:
    stats = sources.facts.stats
    if stats is None:
        raise UserError("the run folder has no statistics: its preset uses none, or an earlier version began it")
    example = None
    if sources.train_set is not None:
        first = np.arange(min(8, len(sources.train_set)), dtype=np.int64)
        batches = squares(sources.train_set, first, batch_size=8, settings=sources.settings)
        example = next((batch.pixels[0].cpu().numpy() for batch in batches if len(batch.indices)), None)
    eigenvalues = ", ".join(f"{v / 255**2:.4f}" for v in stats.eigenvalues)
    text = (
        f"From all {stats.num_pixels:,} pixels of {stats.num_images:,} training images: eigenvalues {eigenvalues} of "
        "pixels in 0..1. ImageNet's, as published, are .2175, .0188, .0045."
    )
    alt = "The mean image, the spectrum and the eigenvectors of colour, and an image lit along each of them."
    picture = embed(draw_stats(stats, example), alt, "What the paper's lighting noise is drawn from.", "webp")
    return Shown([text], [picture])
