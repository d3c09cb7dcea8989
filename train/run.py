"""`alexnet train`, `evaluate` and `bench-train`, from what was asked to the end.

One process may be all there is, or one rank of many; or it is the one that starts the ranks, which then run the same
command. What can be wrong is found before they start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..pipeline.dataset import Split, open_dataset
from ..pipeline.stream import name_bad
from . import evaluate as evaluation
from .bench_train import TrainBench, bench_train
from .checkpoint import check_trained_on
from .config import Config
from .console import TrainingDisplay, bar, stop_on_signals
from .devices import choose_devices
from .evaluate import Evaluation
from .health import rate_note
from .launch import Place, hand_on, launch
from .loading import Options, compute_statistics, open_or_generate, settings_of
from .mesh import Axis, Mesh, ParallelDims, build_mesh, leave_mesh
from .parallel import check_split, parallelize
from .session import (
    check_memory,
    choose_run_dir,
    find_checkpoint,
    find_networks,
    load_classifier,
    resolve_config,
    stats_for_training,
)
from .terminal import say
from .trainer import Interrupted, RunOptions, Trainer


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """What the user says of meshes: `options.mesh_options`."""

    mesh: str | None
    devices: str | None
    timeout: float  # seconds
    max_restarts: int

    def launch(self, arguments: Sequence[str], num_ranks: int) -> int:
        with stop_on_signals(hand_on, announce=False):
            return launch(arguments, num_ranks, self.max_restarts, self.timeout)

    @contextmanager
    def joined(self, dims: ParallelDims, place: Place, devices: Sequence[torch.device]) -> Iterator[Mesh]:
        """The mesh of these ranks; what they lose before their work is watched was lost in the start."""
        start = Mesh(dims, world=Axis(place.size, place.rank), place=place)
        with start.watched(lambda: "the start"):
            yield build_mesh(dims, place, devices, self.timeout)
        leave_mesh()


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What the user asked of `alexnet train`; its options, unresolved."""

    data: Path | None
    rescan: bool
    preset: str | None
    overrides: dict[str, Any]
    run_dir: Path | None
    resume: str | None
    stats_file: Path | None
    checkpoint_every: int | None
    keep: int
    log_every: int
    execution: str | None
    loading: Options
    ranks: Ranks


def train(job: TrainingJob, arguments: Sequence[str]) -> int:
    """Train, or start ranks that do by `arguments`; returns the exit code."""
    place = Place.join()
    run_dir = choose_run_dir(job.run_dir, job.resume, job.preset, place)
    saved = find_checkpoint(job.resume, run_dir, place)
    config = resolve_config(job.preset, job.overrides, saved)
    dims, devices = choose_devices(
        place, config.towers, mesh=job.ranks.mesh, devices=job.ranks.devices, device=job.loading["device"]
    )
    with place.main_first("data"):
        train_set, val_set = (
            open_dataset(job.data, split, rescan=job.rescan and place.rank == 0) for split in get_args(Split)
        )
    if saved:
        check_trained_on(saved, train_set)  # before the statistics of a large set
    check_split(config, train_set.num_classes, dims)
    device = devices[place.local_rank]
    check_memory(config, train_set.num_classes, device, dims, devices.count(device))
    settings = settings_of(job.loading, device, place.local_size)
    stats = stats_for_training(
        config,
        train_set,
        job.stats_file,
        lambda: compute_statistics(train_set, "centre", settings, job.loading["decode"], place),
        place,
        dims.num_ranks,
    )
    if dims.num_ranks > 1 and place.size == 1:
        say(f"Starting {dims.num_ranks} ranks, {dims.dp} data x {dims.mp} model, on {', '.join(map(str, devices))}")
        arguments = [*_without_rescan(arguments), "--run", str(run_dir), "--mesh", str(dims)]
        return job.ranks.launch(arguments, dims.num_ranks)
    with job.ranks.joined(dims, place, devices) as mesh:
        how = RunOptions(
            run_dir=run_dir,
            settings=settings,
            mesh=mesh,
            decode=job.loading["decode"],
            checkpoint_every=job.checkpoint_every,
            keep=job.keep,
            log_every=job.log_every,
            execution=job.execution,
        )
        with TrainingDisplay() if mesh.is_main else nullcontext(lambda record: None) as display:
            if mesh.is_main:
                say(
                    f"Training {config.preset} on {train_set.root} ({len(train_set):,} images, {train_set.num_classes} "
                    f"classes; {len(val_set):,} to validate) into {run_dir}"
                    + (f", from step {saved.step} on" if saved else "")
                )
                if not saved and (note := rate_note(config)):
                    say(note)
            return _fit(Trainer(config, train_set, val_set, stats, how, display, saved))


def _without_rescan(arguments: Sequence[str]) -> list[str]:
    """What the first rank lists anew it need not list again."""
    return [argument for argument in arguments if argument != "--rescan"]


def _fit(trainer: Trainer) -> int:
    """Train to the end, or to a signal; say how it ended."""
    mesh, config = trainer.mesh, trainer.config
    code = 0
    with stop_on_signals(lambda number: setattr(trainer, "stop_signal", number), announce=mesh.is_main):
        try:
            last = trainer.fit()
            text = (
                f"Done: top-1 error {last['top1_error']:.2%}, top-5 error {last['top5_error']:.2%} (1 view). Next: "
                f"alexnet evaluate {trainer.options.run_dir} {trainer.train_set.root} --views {config.views}"
            )
        except Interrupted as stopped:
            text, code = str(stopped), 128 + stopped.signal_number
    if mesh.is_main:
        if trainer.bad:
            say(
                f"{len(trainer.bad)} training images could not be used, and others took their places: "
                f"{name_bad(trainer.train_set, trainer.bad)}. metrics.jsonl names them all."
            )
        say(text)
    return code


def evaluate(
    checkpoints: Sequence[Path],
    data: Path | None,
    *,
    views: Literal[1, 10],
    batch_size: int,
    rescan: bool,
    loading: Options,
    ranks: Ranks,
    arguments: Sequence[str],
) -> Evaluation | int:
    """The errors, on the first rank; on the others, and where ranks were started by `arguments`, an exit code."""
    place = Place.join()
    dims, devices = choose_devices(place, None, mesh=ranks.mesh, devices=ranks.devices, device=loading["device"])
    if dims.num_ranks > 1 and place.size == 1:
        return ranks.launch([*arguments, "--mesh", str(dims)], dims.num_ranks)
    with place.main_first("data"):
        dataset = open_dataset(data, "val", rescan=rescan and place.rank == 0)
    files = find_networks(checkpoints, place)
    with ranks.joined(dims, place, devices) as mesh:
        classifiers = [load_classifier(path, mesh.device) for path in files]
        for classifier in classifiers:
            parallelize(classifier.model, mesh)
        with (
            bar("evaluation", len(dataset), "images", silent=not mesh.is_main) as update,
            mesh.watched(lambda: "the evaluation"),
        ):
            result = evaluation.evaluate(
                classifiers,
                dataset,
                views=views,
                batch_size=batch_size,
                mesh=mesh,
                settings=settings_of(loading, mesh.device, place.local_size),
                decode=loading["decode"],
                progress=update,
            )
    return result if mesh.is_main else 0


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
    """Speeds, on the first rank; on the others, and where ranks were started by `arguments`, an exit code.

    No statistics are needed: images are standardised by ImageNet's colours, at the same cost.
    """
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
    with ranks.joined(dims, place, devices) as mesh:
        how = RunOptions(
            run_dir=Path(),
            settings=settings_of(loading, mesh.device, place.local_size),
            mesh=mesh,
            decode=loading["decode"],
            execution=execution,
        )
        trainer = Trainer(replace(config, scaling="imagenet", lighting="off"), dataset, dataset, None, how)
        with bar("bench-train", rounds, "windows", silent=not mesh.is_main) as update, mesh.watched(lambda: "a step"):
            result = bench_train(trainer, seconds=seconds, rounds=rounds, progress=update)
    return result if mesh.is_main else 0
