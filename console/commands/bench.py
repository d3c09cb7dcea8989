"""`alexnet bench-loader` and `alexnet bench-train`, on a data set or on generated images."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click
import torch

from ...pipeline.bench.conditions import SAMPLE_BYTES, Bench
from ...pipeline.bench.result import BenchResult, bench_loader
from ...pipeline.dataset.images import Dataset
from ...pipeline.dataset.open import DEFAULT_DATA
from ...pipeline.synthetic.generate import generated_dataset
from ...pipeline.window import first_shards, window_of
from ...train.bench import TrainBench, bench_train
from ...train.config import Config
from ...train.memory import RESERVE, available_bytes, check_memory
from ...train.parallel.mesh import Mesh
from ...train.parallel.ranks import join_ranks
from ...train.parallel.split import check_split
from ...train.step import TrainStep
from ..data_options import DataOptions
from ..on_mesh import Ranks
from ..options import LoadingOptions, MeshOptions
from ..progress import bar, bars
from ..residency import check_resident, say_resident
from ..terminal import say
from ..train_options import Room

NUM_GENERATED = 2000  # images
REMOTE_BYTES = 2 * SAMPLE_BYTES  # of shards to fetch for a measurement, which reads as much at a time as half of that
ROUNDS_TO_CHOOSE = 5  # fewer leave it to chance: three rounds all favour one setting one time in eight


def run_bench_loader(
    data: Path | None,
    *,
    which: DataOptions,
    batch_size: int,
    seconds: float,
    rounds: int,
    seed: int,
    compare: str | None,
    step: bool,
    preset: str | None,
    width: float | None,
    sweep: bool,
    plot: Path | None,
    resident: Room | None,
    loading: LoadingOptions,
) -> BenchResult:
    """Measure what the options ask for, with a bar for each part; draw the results into `plot`."""
    if sweep and rounds < ROUNDS_TO_CHOOSE:
        raise click.UsageError(f"--sweep needs {ROUNDS_TO_CHOOSE} or more --rounds to tell differences from noise.")
    if not step and (preset or width):
        raise click.UsageError("--preset and --width describe the network that --step trains: add --step.")
    settings, device = loading.settings(), loading.chosen_device()
    dataset = open_or_generate(data, which)
    if dataset.remote:
        dataset = first_shards(dataset, REMOTE_BYTES)
        say(f"Measuring on {len(dataset):,} of the images at {dataset.where}: those of its first shards.")
    if resident is not None:
        check_resident(dataset, torch.device(settings.device))
        resident = max(available_bytes(device) - RESERVE, 0) if resident == "auto" else resident
    bench = Bench(
        dataset=dataset,
        settings=settings,
        batch_size=min(batch_size, len(dataset)),
        rounds=rounds,
        seconds=seconds,
        seed=seed,
        half=device.type == "cuda",
        crop=Config.from_preset(preset or "paper").crop,
        resident=resident,
    )
    if bench.held:
        say_resident(bench.held, bench.warm_sample)
    train_step = training_step(bench, preset, width, device) if step else None
    with bars("windows") as progress:
        result = bench_loader(
            bench, compare=compare is not None, train_step=train_step, sweeps=sweep, progress=progress
        )
    if plot:
        from ...pipeline.bench.figures import plot_bench

        plot_bench(result, plot)
    return result


def training_step(bench: Bench, preset: str | None, width: float | None, device: torch.device) -> TrainStep:
    """Return the step that `alexnet train` takes with this preset; the loader treats the pixels."""
    wanted = {"width": width} if width else {}
    config = Config.from_preset(preset or "paper", **wanted, batch_size=bench.batch_size, lighting="off")
    check_memory(config, bench.dataset.num_classes, device)
    return TrainStep(config, bench.dataset.num_classes, Mesh(device=device))


def open_or_generate(data: Path | None, which: DataOptions, *, is_main: bool = True) -> Dataset:
    """Open the training set of DATA, or generate JPEGs if there is none."""
    if data is not None or "ALEXNET_DATA" in os.environ or DEFAULT_DATA.exists():
        return which.open(data, "train", is_main=is_main)
    if which.asked():
        raise click.UsageError("Options that choose images need a data set to choose from: give DATA.")
    say("No data set was given: measuring on generated JPEGs of ImageNet's sizes, made once in the cache folder.")
    with bars("images") as progress:
        return generated_dataset(NUM_GENERATED, progress=lambda done, total: progress("drawing", done, total))


def run_bench_train(
    data: Path | None,
    *,
    which: DataOptions,
    preset: str,
    width: float,
    batch_size: int,
    seconds: float,
    rounds: int,
    execution: str | None,
    mesh_options: MeshOptions,
    loading: LoadingOptions,
) -> TrainBench | None:
    """Measure training speed; None on all ranks but the first."""
    config = Config.from_preset(preset, width=width, batch_size=batch_size)
    info = join_ranks()
    ranks = Ranks.plan(info, mesh_options, loading.device, config.separable)
    with info.main_first("data"):
        dataset = open_or_generate(data, which, is_main=info.rank == 0)
    config = replace(config, window=window_of(dataset))
    check_split(config, dataset.num_classes, ranks.dims)
    if ranks.may_use_device:
        check_memory(config, dataset.num_classes, ranks.device, ranks.dims, ranks.num_on_device)
    with (
        ranks.mesh() as mesh,
        bar("bench-train", rounds, "windows", silent=not mesh.is_main) as update,
        mesh.watched(lambda: "a step"),
    ):
        result = bench_train(
            config,
            dataset,
            mesh,
            loading.settings(mesh.device, info.local_size),
            seconds=seconds,
            rounds=rounds,
            execution=execution,
            progress=update,
        )
    return result if mesh.is_main else None
