"""`alexnet train`, `evaluate` and `bench-train`, from what was asked to the end.

One process may be all there is, or one rank of many; or it is the one that starts the ranks, which then run the same
command. What can be wrong is found before they start.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ...pipeline.dataset.images import Split
from ...pipeline.dataset.open import open_dataset
from ...pipeline.decode.bad_images import name_bad
from ...train.checkpoint import check_trained_on
from ...train.health import rate_note
from ...train.memory import check_memory
from ...train.parallel.devices import choose_devices
from ...train.parallel.ranks import Place
from ...train.parallel.split import check_split
from ...train.resume import choose_run_dir, find_checkpoint, resolve_config
from ...train.trainer import Interrupted, RunOptions, Trainer
from ...train.treatment import stats_for_training
from ..on_mesh import Ranks, _without_rescan
from ..options import Options, settings_of
from ..progress import TrainingDisplay
from ..signals import stop_on_signals
from ..terminal import say
from .stats import compute_statistics


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
    settings = config.pin_decoding(settings_of(job.loading, device, place.local_size))
    stats = stats_for_training(
        config,
        train_set,
        job.stats_file,
        lambda: compute_statistics(train_set, "centre", settings, config.decode, place),
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


def _fit(trainer: Trainer) -> int:
    """Train to the end, or to a signal; say how it ended."""
    mesh, config = trainer.mesh, trainer.config
    code = 0
    with stop_on_signals(trainer.request_stop, announce=mesh.is_main):
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
