"""What `alexnet bench-loader` is asked for, and the training step that it measures loading against."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from ...pipeline.bench.conditions import Bench
from ...pipeline.bench.result import BenchResult, bench_loader
from ...pipeline.dataset.images import Dataset
from ...pipeline.dataset.open import DEFAULT_DATA, open_dataset
from ...pipeline.synthetic.generate import generated_dataset
from ...train.bench import TrainBench, bench_train
from ...train.config import Config
from ...train.memory import check_memory
from ...train.parallel.devices import choose_devices
from ...train.parallel.mesh import Mesh
from ...train.parallel.ranks import Place
from ...train.parallel.split import check_split
from ...train.step import TrainStep
from ..on_mesh import Ranks, _without_rescan
from ..options import LOADING, Options, device_of, settings_of
from ..progress import bar, bars
from ..terminal import say

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
        from ...pipeline.bench.figures import plot_bench

        plot_bench(result, asked["plot"])
    return result


def training_step(bench: Bench, preset: str | None, width: float | None, device: torch.device) -> TrainStep:
    """The step that `alexnet train` takes with this preset; what is done to the pixels is the loader's part."""
    wanted = {"width": width} if width else {}
    config = Config.from_preset(preset or "paper", **wanted, batch_size=bench.batch_size, lighting="off")
    check_memory(config, bench.dataset.num_classes, device)
    return TrainStep(config, bench.dataset.num_classes, Mesh(device=device))


NUM_GENERATED = 2000  # images, where there are none


def open_or_generate(data: Path | None, rescan: bool = False) -> Dataset:
    """The training set of DATA; where there is none, generated JPEGs."""
    if data is not None or "ALEXNET_DATA" in os.environ or DEFAULT_DATA.exists():
        return open_dataset(data, "train", rescan=rescan)
    say("No data set was given: measuring on generated JPEGs of ImageNet's sizes, made once in the cache folder.")
    with bars("images") as progress:
        return generated_dataset(NUM_GENERATED, progress=lambda done, total: progress("drawing", done, total))


def bench(
    data: Path | None,
    config: Config,
    *,
    seconds: float,
    rounds: int,
    execution: str | None,
    rescan: bool,
    loading: Options,
    ranks: Ranks,
    arguments: Sequence[str],
) -> TrainBench | int:
    """Speeds, on the first rank; on the others, and where ranks were started by `arguments`, an exit code."""
    place = Place.join()
    dims, devices = choose_devices(
        place, config.towers, mesh=ranks.mesh, devices=ranks.devices, device=loading["device"]
    )
    with place.main_first("data"):
        dataset = open_or_generate(data, rescan and place.rank == 0)
    check_split(config, dataset.num_classes, dims)
    device = devices[place.local_rank]
    check_memory(config, dataset.num_classes, device, dims, devices.count(device))
    if dims.num_ranks > 1 and place.size == 1:
        return ranks.launch([*_without_rescan(arguments), "--mesh", str(dims)], dims.num_ranks)
    with (
        ranks.joined(dims, place, devices) as mesh,
        bar("bench-train", rounds, "windows", silent=not mesh.is_main) as update,
        mesh.watched(lambda: "a step"),
    ):
        result = bench_train(
            config,
            dataset,
            mesh,
            settings_of(loading, mesh.device, place.local_size),
            seconds=seconds,
            rounds=rounds,
            decode=loading["decode"],
            execution=execution,
            progress=update,
        )
    return result if mesh.is_main else 0
