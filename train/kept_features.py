"""Features that are computed once and kept, for figures to start from.

`features.py` computes them. They lie where the user says, a folder for each split, or else in the cache folder, under
the fingerprints of what they depend on and, unless it is the usual one, the way of decoding.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..pipeline.cache import needed_cache
from ..pipeline.dataset.images import Dataset
from ..pipeline.decode.settings import MAX_PIXELS, Settings
from ..pipeline.errors import UserError
from .classifier import Classifier
from .feature_folder import ARRAY, RECORD, Description, Dtype, Features
from .features import extract, fingerprint, row_shape
from .parallel.mesh import Mesh


def kept_features(
    classifier: Classifier,
    dataset: Dataset,
    folder: Path | None,
    *,
    layer: str = "fc7",
    checkpoint: str = "",
    device: torch.device,
    settings: Settings,
    announce: Callable[[str], None] = lambda line: None,
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Open the features of `layer` for a split in `folder / split`, by default in the cache; compute what is missing.

    They are float16, unless what is there is float32. `announce` is told how large they are, and where they go, before
    anything is computed. Errors are those of `extract`: a folder that holds something else is refused.
    """
    place = folder / dataset.split if folder else _place_in_cache(classifier, dataset, layer, settings)
    dtype: Dtype = Description.load(place).dtype if (place / RECORD).exists() else "float16"
    shape = row_shape(classifier.model, layer, "none")
    if not (place / ARRAY).exists():
        size = len(dataset) * prod(shape) * np.dtype(dtype).itemsize
        announce(f"{layer} of {len(dataset):,} {dataset.split} images goes into {place} ({size / 1e6:,.1f} MB).")
    return extract(
        classifier,
        dataset,
        place,
        layer=layer,
        dtype=dtype,
        checkpoint=checkpoint,
        mesh=Mesh(device=device),
        settings=settings,
        progress=progress,
    )


def _place_in_cache(classifier: Classifier, dataset: Dataset, layer: str, settings: Settings) -> Path:
    """A folder for each way of decoding, since `extract` refuses one that holds another's numbers."""
    cache = needed_cache("Features are kept there. Give a folder for them with --features, or see to it.")
    name = f"{fingerprint(classifier)}-{dataset.fingerprint}-{layer}"
    name += f"-{settings.decode}" * (settings.decode != "exact") + "-gpu" * settings.on_gpu
    name += f"-{settings.max_pixels}" * (settings.max_pixels != MAX_PIXELS)
    return cache / "features" / name


def images_of(features: Features, dataset: Dataset) -> NDArray[np.int64]:
    """The image in `dataset` that each row belongs to, int64 (n,), ascending."""
    bad = features.about.bad
    everything = np.arange(len(dataset), dtype=np.int64)
    return everything[[dataset.name(i) not in bad for i in range(len(dataset))]] if bad else everything


def rows_of(features: Features, dataset: Dataset, images: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of some images; UserError for an image that could not be used."""
    usable = images_of(features, dataset)
    for name in map(dataset.name, np.setdiff1d(images, usable).tolist()):
        raise UserError(f"{name} cannot be used: {features.about.bad[name]}. Name another image.")
    return np.searchsorted(usable, images)
