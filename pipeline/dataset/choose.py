"""The images that a `Selection` means, out of a whole split.

An image belongs to the validation set if its number (`numbers.py`) is below that share of 2^64: it never changes sides
while others come and go, and the share of each class is nearly what was asked for. The few of each class are those with
the highest numbers, so that five are among any ten, whatever the share.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from .class_list import names_in
from .classes import first_few, how_to_name, is_numbered
from .images import Dataset, Split
from .numbers import image_numbers
from .selection import Selection

log = logging.getLogger("alexnet")


def choose_images(dataset: Dataset, selection: Selection, split: Split) -> Dataset:
    """Return the selected images of a split, out of all there are: of the training split, if it shares some.

    Classes keep their order. Raise `DatasetError` for a class that is not there, or one left without images.
    """
    if selection.classes is not None:
        dataset = _of_classes(dataset, selection.classes)
    few = selection.per_class if split == "train" else None
    if selection.val_fraction is not None or few is not None:
        numbers, chosen = image_numbers(dataset, selection.split_seed), np.ones(len(dataset), np.bool_)
        if selection.val_fraction is not None:
            held_out = numbers < np.uint64(int(selection.val_fraction * 2**64))
            _check_sides(dataset, numbers, held_out, selection.val_fraction)
            chosen = held_out if split == "val" else ~held_out
        if few is not None:
            chosen = _highest(dataset, numbers, chosen, few)
        dataset = dataset.subset(np.flatnonzero(chosen))
    return replace(dataset, split=split, selection=selection, _descriptors={})


def _of_classes(dataset: Dataset, lines: Sequence[str]) -> Dataset:
    """Return the images of the listed classes, labelled with positions among these."""
    place = {name: i for i, name in enumerate(dataset.classes)}
    found = [names_in(line, place) for line in lines]
    if unknown := [line for line, names in zip(lines, found, strict=True) if not names]:
        raise DatasetError(_not_there(dataset, lines, unknown))
    wanted = np.zeros(dataset.num_classes, np.bool_)
    wanted[[place[name] for names in found for name in names]] = True
    if not (chosen := np.flatnonzero(wanted[dataset.labels])).size:
        where = f"the {dataset.split} split of {dataset.where}"
        raise DatasetError(f"--classes-file: {where} has no images of these classes. List others, or add some.")
    part = dataset.subset(chosen)
    labels = (np.cumsum(wanted, dtype=np.int32) - 1)[part.labels]
    classes = tuple(name for name, taken in zip(dataset.classes, wanted, strict=True) if taken)
    return replace(part, classes=classes, labels=labels, _descriptors={})


def _not_there(dataset: Dataset, lines: Sequence[str], unknown: Sequence[str]) -> str:
    which = first_few([line[:40] for line in unknown])
    if len(unknown) < len(lines):
        count = f"{len(unknown)} of the {len(lines)} classes in --classes-file are not in {dataset.where}: {which}"
        return f"{count}. Remove them from the list, or add their images."
    hint = "Write them as the class folders are called, one a line."
    if is_numbered(dataset.classes):
        hint = how_to_name(dataset.where)
    return f"--classes-file names no class of {dataset.where}: it has {which}, not {first_few(dataset.classes)}. {hint}"


def _check_sides(dataset: Dataset, numbers: NDArray[np.uint64], held_out: NDArray[np.bool_], fraction: float) -> None:
    """Raise `DatasetError` if a class has images but none to train on, or none to validate on."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    val = np.bincount(dataset.labels[held_out], minlength=dataset.num_classes)
    for side, count in (("validation", val), ("training", counts - val)):
        if (empty := np.flatnonzero((count == 0) & (counts > 0))).size:
            first = empty[0]
            which = f"{dataset.classes[first]!r}, which has {counts[first]} in all"
            left = (
                f"--val-fraction {fraction:g} leaves {empty.size} of {dataset.num_classes} classes of {dataset.where}"
            )
            hint = _fractions_that_do(dataset, numbers)
            raise DatasetError(f"{left} without {side} images, such as {which}. {hint}")


def _fractions_that_do(dataset: Dataset, numbers: NDArray[np.uint64]) -> str:
    """Say which fractions leave no class empty."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    if (counts == 1).any():
        return "Each class needs two images or more: leave smaller ones out with --classes-file."
    lowest = np.full(dataset.num_classes, 2**64 - 1, np.uint64)
    highest = np.zeros(dataset.num_classes, np.uint64)
    np.minimum.at(lowest, dataset.labels, numbers)
    np.maximum.at(highest, dataset.labels, numbers)
    low, high = (float(share) / 2**64 for share in (lowest[counts > 0].max(), highest[counts > 0].min()))
    low, high = ceil(low * 100 + 0.01) / 100, floor(high * 100 - 0.01) / 100
    if low <= high:
        return f"From {low:g} to {high:g} it leaves none empty; or try another --split-seed."
    return "Try another --split-seed, or leave small classes out with --classes-file."


def _highest(dataset: Dataset, numbers: NDArray[np.uint64], chosen: NDArray[np.bool_], few: int) -> NDArray[np.bool_]:
    """Keep, of each class, the `few` chosen images with the highest numbers; say if a class has fewer."""
    images = np.flatnonzero(chosen)
    images = images[np.lexsort((~numbers[images], dataset.labels[images]))]
    counts = np.bincount(dataset.labels[images], minlength=dataset.num_classes)
    rank = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
    if (fewer := np.flatnonzero(counts < few)).size:
        which = f"{fewer.size} of {dataset.num_classes} classes have fewer training images than --per-class {few}"
        log.info("%s: %r has %d. All of them are taken.", which, dataset.classes[fewer[0]], counts[fewer[0]])
    kept = np.zeros(len(dataset), np.bool_)
    kept[images[rank < few]] = True
    return kept
