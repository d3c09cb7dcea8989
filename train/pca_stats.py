"""What `alexnet pca-stats` is asked for: a pass over a data set, a part of one, or the sum of parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..pca.compute import merge_stats
from ..pca.stats import Region, RgbStats
from ..pipeline.cache import needed_cache
from ..pipeline.dataset import open_dataset
from .launch import Place
from .loading import Options, compute_statistics, example_square, settings_of
from .session import stats_path


def run_pca_stats(
    data: Path | None,
    loading: Options,
    *,
    rescan: bool,
    out: Path | None,
    region: Region,
    parts: Sequence[Path],
    part: tuple[int, int] | None,
    plot: Path | None,
) -> tuple[RgbStats, Path] | None:
    """The statistics and the file they are saved in, drawn into `plot`; None on a rank that does not have the whole."""
    place = Place.join()
    _check_usage(data, out, parts, part, place)
    example = None
    if parts:
        stats: RgbStats | None = merge_stats(parts)
    else:
        if out is None:
            needed_cache("Without --out FILE the statistics go there.")
        with place.main_first("data"):
            dataset = open_dataset(data, "train", rescan=rescan and place.rank == 0)
        out = out or stats_path(dataset, region)
        stats = compute_statistics(dataset, region, settings_of(loading), loading["decode"], place, part or (0, 1))
        example = example_square(dataset, loading) if plot else None
    if stats is None:
        return None
    assert out is not None
    stats.save(out)
    if plot:
        from ..pca.figures import plot_stats

        plot_stats(stats, plot, example)
    return stats, out


def _check_usage(
    data: Path | None, out: Path | None, parts: Sequence[Path], part: tuple[int, int] | None, place: Place
) -> None:
    if (parts or part) and out is None:
        raise click.UsageError(f"{'--merge' if parts else '--part'} needs --out FILE.")
    if parts and (data or part):
        raise click.UsageError("--merge adds up files: leave DATA and --part out.")
    if part and not 0 <= part[0] < part[1]:
        raise click.UsageError(f"--part {part[0]} {part[1]}: the parts of {part[1]} are 0 to {part[1] - 1}.")
    if part and place.size > 1:
        raise click.UsageError("Ranks share the images out by themselves: leave --part out.")
