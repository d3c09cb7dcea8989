"""`alexnet pca-stats`: a pass over a data set, a pass over a part of one, or the sum of parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from ...pca.compute import compute_stats, compute_stats_sharded, merge_stats
from ...pca.stats import Region, RgbStats, stats_path
from ...pipeline.cache import cache_folder, can_keep, needed_cache
from ...pipeline.dataset.images import Dataset
from ...pipeline.decode.settings import Settings
from ...pipeline.squares import squares
from ...train.parallel.ranks import RankInfo, join_ranks
from ..data_options import DataOptions
from ..options import LoadingOptions
from ..progress import bar


def run_pca_stats(
    data: Path | None,
    *,
    which: DataOptions,
    out: Path | None,
    region: Region,
    parts: Sequence[Path],
    part: tuple[int, int] | None,
    plot: Path | None,
    loading: LoadingOptions,
) -> tuple[RgbStats, Path] | None:
    """Return the statistics and the file they were saved in; None on all ranks but the first."""
    info = join_ranks()
    _check_usage(data, out, parts, part, info)
    example = None
    if parts:
        stats: RgbStats | None = merge_stats(parts)
    else:
        if out is None:
            needed_cache("Without --out FILE, the statistics go there.")
        with info.main_first("data"):
            dataset = which.open(data, "train", is_main=info.rank == 0)
        out = out or stats_path(dataset, region)
        stats = compute_statistics(dataset, region, loading.settings(), info, part or (0, 1))
        example = example_square(dataset, loading) if plot else None
    if stats is None:
        return None
    assert out is not None
    stats.save(out)
    if plot:
        from ...pca.figures import plot_stats

        plot_stats(stats, plot, example)
    return stats, out


def _check_usage(
    data: Path | None, out: Path | None, parts: Sequence[Path], part: tuple[int, int] | None, info: RankInfo
) -> None:
    if out and out.suffix == ".npy":  # refused here, not after the pass
        raise click.UsageError(f"--out {out}: choose a name like stats.json; the mean image is the .npy beside it.")
    if (parts or part) and out is None:
        raise click.UsageError(f"{'--merge' if parts else '--part'} needs --out FILE.")
    if parts and (data or part):
        raise click.UsageError("--merge adds up files: leave DATA and --part out.")
    if part and not 0 <= part[0] < part[1]:
        raise click.UsageError(f"--part {part[0]} {part[1]}: the parts of {part[1]} are 0 to {part[1] - 1}.")
    if part and info.size > 1:
        raise click.UsageError("Ranks already share the images: leave --part out.")


def compute_statistics(
    dataset: Dataset, region: Region, settings: Settings, info: RankInfo, part: tuple[int, int] = (0, 1)
) -> RgbStats | None:
    """Pass over the images, with a bar. Ranks share the work; only the first gets the result."""
    if info.size > 1:
        folder: Path | None = needed_cache("Ranks leave their part of the statistics there.")
    else:
        folder = cache_folder() if can_keep() else None
    with bar("pca-stats", len(dataset), "images", silent=info.rank > 0) as update:
        how: dict[str, Any] = {
            "region": region,
            "settings": settings,
            "work_dir": folder and folder / "passes",
            "progress": update,
        }
        if info.size > 1:
            return compute_stats_sharded(dataset, rank=info.rank, world_size=info.size, **how)
        return compute_stats(dataset, shard=part, **how)


def example_square(dataset: Dataset, loading: LoadingOptions) -> NDArray[np.uint8] | None:
    """Return the first usable image, uint8 (256, 256, 3), for plots of the lighting noise."""
    batches = squares(dataset, np.arange(min(8, len(dataset))), batch_size=8, settings=loading.settings())
    return next((batch.pixels[0].cpu().numpy() for batch in batches if len(batch.indices)), None)
