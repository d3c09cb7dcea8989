"""What `alexnet predict` is asked for: the most probable classes of image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...pipeline.dataset.open import from_files
from ...train.classifier import load_classifier, predict
from ..options import LoadingOptions


def run_predict(
    checkpoint: Path, images: Sequence[Path], *, views: Literal[1, 10], loading: LoadingOptions
) -> tuple[list[tuple[str, dict[str, float]]], dict[str, str]]:
    """(name, probability of each of its five most probable classes) of every image, and why the others are unusable."""
    files, device, bad = from_files(images), loading.chosen_device(), dict[int, str]()
    settings = replace(loading, max_bad=1.0).settings()
    found = predict(
        [load_classifier(checkpoint, device)], files, views=views, device=device, settings=settings, bad=bad
    )
    predictions = [(files.name(p.index), dict(p.classes)) for p in found]
    return predictions, {files.name(i): reason for i, reason in bad.items()}
