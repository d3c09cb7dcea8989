"""What `alexnet bench-loader` is asked for, and the training step that it measures loading against."""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch

from ..pipeline.bench.bottleneck import TrainStep
from ..pipeline.bench.conditions import Bench
from ..pipeline.bench.result import BenchResult, bench_loader
from .config import Config
from .console import bars
from .loading import Options, device_of, open_or_generate, settings_of
from .mesh import Mesh
from .meter import Meter
from .options import LOADING
from .session import check_memory
from .trainer import RunOptions, Trainer

ROUNDS_TO_CHOOSE = 5  # with fewer, chance would: all of three are one way once in eight times


def run_bench_loader(data: Path | None, asked: Options) -> BenchResult:
    """Measure what the options ask for, with a bar for each part, and draw it into `plot`."""
    if asked["sweep"] and asked["rounds"] < ROUNDS_TO_CHOOSE:
        raise click.UsageError(f"--sweep tells differences from noise by --rounds, of {ROUNDS_TO_CHOOSE} or more.")
    if not asked["step"] and (asked["preset"] or asked["width"]):
        raise click.UsageError("--preset and --width are of the network that --step trains: add --step.")
    loading = {name: asked[name] for name in LOADING}
    settings, device = settings_of(loading), device_of(loading)
    dataset = open_or_generate(data, asked["rescan"])
    bench = Bench(
        dataset=dataset,
        settings=settings,
        batch_size=min(asked["batch_size"], len(dataset)),
        rounds=asked["rounds"],
        seconds=asked["seconds"],
        decode=asked["decode"],
        seed=asked["seed"],
        half=device.type == "cuda",
    )
    step = training_step(bench, asked["preset"], asked["width"], device) if asked["step"] else None
    with bars("windows") as progress:
        result = bench_loader(
            bench, compare=asked["compare"] is not None, train_step=step, sweeps=asked["sweep"], progress=progress
        )
    if asked["plot"]:
        from ..pipeline.bench.figures import plot_bench

        plot_bench(result, asked["plot"])
    return result


def training_step(bench: Bench, preset: str | None, width: float | None, device: torch.device) -> TrainStep:
    """The step that `alexnet train` takes with this preset. What is done to the pixels is the loader's part: without
    lighting and with fixed constants the trainer needs no statistics."""
    wanted = {"width": width} if width else {}
    config = Config.from_preset(
        preset or "paper", **wanted, batch_size=bench.batch_size, lighting="off", scaling="imagenet", mean="channel"
    )
    check_memory(config, bench.dataset.num_classes, device)
    options = RunOptions(
        run_dir=Path(os.devnull), settings=bench.settings, decode=bench.decode, mesh=Mesh(device=device)
    )
    trainer = Trainer(config, bench.dataset, bench.dataset, None, options)
    trainer.meter = Meter(config, len(trainer.loader))
    return trainer.train_step
