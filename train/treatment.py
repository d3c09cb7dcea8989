"""What is done to every image, from a configuration and the training set's colour statistics.

`config.py` chooses the treatment, `pipeline/loader.py` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..pca.stats import RgbStats, stats_path
from ..pipeline.cache import can_keep, needed_cache
from ..pipeline.dataset.images import Dataset
from ..pipeline.errors import UserError
from ..pipeline.geometry import centred
from ..pipeline.treatment import IMAGENET_MEAN, IMAGENET_STD, Treatment
from .config import Config
from .parallel.ranks import ALONE, RankInfo


def stats_for_training(
    config: Config,
    train_set: Dataset,
    given: Path | None,
    compute: Callable[[], RgbStats | None],
    info: RankInfo = ALONE,
    num_ranks: int = 1,
) -> RgbStats | None:
    """Return the training set's statistics: from the file given, from the cache, or computed now and cached.

    None if the configuration needs none. Ranks compute them together: `compute` returns them on the first rank and
    None on the others, which then wait for the first to save them. If some of the mesh's `num_ranks` have not started
    yet, they will find them in the cache. UserError if the file is of other images, or of a part of them.
    """
    if not needs_stats(config):
        return None
    if given is not None:
        return _load_given(given, train_set)
    path = stats_path(train_set)
    if info.from_main("statistics found", lambda: "yes" if path and path.exists() else ""):  # another run may save them
        assert path is not None
        return RgbStats.load(path)
    if num_ranks > 1:
        needed_cache("Ranks find the statistics there, unless --stats FILE names those of `pca-stats --out`.")
    if (computed := compute()) is None:
        info.wait_for_main("statistics")
        assert path is not None
        return RgbStats.load(path)
    if path and can_keep():
        computed.save(path)
    info.tell_others("statistics")
    return computed


def _load_given(path: Path, train_set: Dataset) -> RgbStats:
    stats = RgbStats.load(path)
    if stats.fingerprint != train_set.fingerprint:
        raise UserError(
            f"{path} holds the statistics of another data set than {train_set.where}. Run `alexnet pca-stats "
            f"{' '.join([train_set.where, *str(train_set.selection).split()])} --out {path}`, or leave --stats out."
        )
    if not stats.complete:
        raise UserError(
            f"{path} holds the statistics of a part of {train_set.where}. Add the other parts with `alexnet "
            "pca-stats --merge PART --merge PART --out FILE`, or leave --stats out."
        )
    return stats


def needs_stats(config: Config) -> bool:
    """Whether training with this configuration uses the training set's statistics."""
    return config.scaling == "raw" or config.lighting != "off"


def build_treatment(config: Config, stats: RgbStats | None) -> Treatment:
    """Return mean, divisor and lighting basis in grey levels; `stats` may be None if `needs_stats` is false."""
    basis, lit_divisor = None, 1.0
    if config.lighting != "off":
        assert stats is not None
        basis = stats.lighting_basis(config.lighting, config.lighting_sigma)
        lit_divisor = config.lighting_divisor
    if config.scaling == "imagenet":
        colours = {"mean": IMAGENET_MEAN, "divisor": IMAGENET_STD}
        return Treatment(**colours, crop=config.crop, basis=basis, lit_divisor=lit_divisor)
    assert stats is not None
    mean = stats.mean.astype(np.float32)
    if config.mean == "image":
        if stats.mean_image is None:
            raise UserError("These statistics have no mean image (region full). Use region centre, or --mean channel.")
        middle = slice(centred(config.crop), centred(config.crop) + config.crop)
        mean = stats.mean_image[middle, middle].astype(np.float32)
    return Treatment(mean=mean, crop=config.crop, basis=basis, lit_divisor=lit_divisor)
