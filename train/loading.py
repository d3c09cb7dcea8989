"""What the options that every command shares come to: a device, a stream's settings, a data set, its statistics."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from ..pca.compute import compute_stats, compute_stats_sharded
from ..pca.stats import Region, RgbStats
from ..pipeline.cache import cache_folder, can_keep, needed_cache
from ..pipeline.dataset import DEFAULT_DATA, Dataset, open_dataset
from ..pipeline.generate import generated_dataset
from ..pipeline.graph import HW_DECODER_LOAD, Decode
from ..pipeline.loader import squares
from ..pipeline.stream import Settings
from .console import bar, bars
from .devices import the_device
from .launch import Place
from .terminal import say

NUM_GENERATED = 2000  # images, where there are none
Options = dict[str, Any]  # threads, device, decode and so on: `options.loading_options`


def device_of(loading: Options) -> torch.device:
    return the_device(loading["device"])


def settings_of(loading: Options, device: torch.device | None = None, num_ranks: int = 1) -> Settings:
    """On the device given, or the one asked for; the machine's threads are shared by `num_ranks` of it."""
    threads = max(1, loading["threads"] // num_ranks)
    device_id, hw_decoder_load = (device or device_of(loading)).index, loading["hw_decoder_load"]
    if device_id is None and hw_decoder_load is not None:
        raise click.UsageError("--hw-decoder-load is for a GPU's JPEG engines, and here the CPU decodes: leave it out.")
    return Settings(
        threads=threads,
        readers=loading["readers"] or max(4, threads),
        device_id=device_id,
        prefetch=loading["prefetch"],
        hw_decoder_load=HW_DECODER_LOAD if hw_decoder_load is None else hw_decoder_load,
        max_pixels=loading["max_pixels"],
        max_bad=loading["max_bad"],
    )


def open_or_generate(data: Path | None, rescan: bool = False) -> Dataset:
    """The training set of DATA; where there is none, generated JPEGs."""
    if data is not None or "ALEXNET_DATA" in os.environ or DEFAULT_DATA.exists():
        return open_dataset(data, "train", rescan=rescan)
    say("No data set was given: measuring on generated JPEGs of ImageNet's sizes, made once in the cache folder.")
    with bars("images") as progress:
        return generated_dataset(NUM_GENERATED, progress=lambda done, total: progress("drawing", done, total))


def compute_statistics(
    dataset: Dataset, region: Region, settings: Settings, decode: Decode, place: Place, part: tuple[int, int] = (0, 1)
) -> RgbStats | None:
    """A pass with a bar; shared by the ranks where there are several, and None on all but the first."""
    if place.size > 1:
        folder: Path | None = needed_cache("Ranks leave their part of the statistics there.")
    else:
        folder = cache_folder() if can_keep() else None
    with bar("pca-stats", len(dataset), "images", silent=place.rank > 0) as update:
        how: Options = {
            "region": region,
            "settings": settings,
            "decode": decode,
            "work_dir": folder and folder / "passes",
            "progress": update,
        }
        if place.size > 1:
            return compute_stats_sharded(dataset, rank=place.rank, world_size=place.size, **how)
        return compute_stats(dataset, shard=part, **how)


def example_square(dataset: Dataset, loading: Options) -> NDArray[np.uint8] | None:
    """The first usable image, uint8 (256, 256, 3), to show lighting on."""
    batches = squares(dataset, np.arange(min(8, len(dataset))), batch_size=8, settings=settings_of(loading))
    return next((batch.pixels[0].cpu().numpy() for batch in batches if len(batch.indices)), None)
