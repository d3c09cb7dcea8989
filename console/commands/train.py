"""`alexnet train`, from the options to the end of the run.

Everything that can be wrong is checked before ranks start and before statistics are computed; what takes a GPU to
check, by the ranks.
"""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from ...pca.stats import RgbStats
from ...pipeline.dataset.images import Dataset, Split
from ...pipeline.decode.bad_images import name_bad
from ...pipeline.decode.resident import Resident
from ...pipeline.decode.settings import Settings
from ...pipeline.window import describe_fetching, window_of
from ...train.checkpoint import check_trained_on
from ...train.classifier import find_networks, load_classifier
from ...train.config import Config
from ...train.health import rate_note
from ...train.memory import check_memory, room_for_images
from ...train.parallel.dims import CPU
from ...train.parallel.ranks import RankInfo, join_ranks
from ...train.parallel.split import check_split
from ...train.pretrained import Pretrained, take_layers
from ...train.resume import choose_run_dir, choose_stats, find_checkpoint, resolve_config, resolve_selection
from ...train.tensorboard import FOLDER, require_tensorboard
from ...train.trainer import Interrupted, RunOptions, Trainer
from ...train.treatment import stats_for_training
from ..data_options import DataOptions
from ..on_mesh import Ranks
from ..options import LoadingOptions, MeshOptions
from ..progress import TrainingDisplay
from ..residency import check_resident, hold
from ..signals import stop_on_signals
from ..terminal import say
from ..train_options import Room, TrainOptions
from .stats import compute_statistics


def run_train(
    data: Path | None,
    *,
    which: DataOptions,
    preset: str | None,
    overrides: dict[str, Any],
    options: TrainOptions,
    mesh_options: MeshOptions,
    loading: LoadingOptions,
) -> int:
    """Train; return the exit code."""
    if options.tensorboard:
        require_tensorboard()
    info = join_ranks()
    run_dir = choose_run_dir(options.run_dir, options.resume, preset, info)
    saved = find_checkpoint(options.resume, run_dir, info)
    config = resolve_config(preset, overrides, saved)
    remembered = resolve_selection(which.asked(), saved)
    ranks = Ranks.plan(info, mesh_options, loading.device, config.separable)
    with info.main_first("data"):
        is_main = info.rank == 0
        train_set, val_set = (which.open(data, s, is_main=is_main, remembered=remembered) for s in get_args(Split))
    if saved:
        check_trained_on(saved, train_set)  # early: statistics of a large set take long
    elif config.window is None:
        config = replace(config, window=window_of(train_set, val_set))
    check_split(config, train_set.num_classes, ranks.dims)
    if ranks.may_use_device:
        check_memory(config, train_set.num_classes, ranks.device, ranks.dims, ranks.num_on_device)
    settings = config.pin_decoding(loading.settings(ranks.device, info.local_size))
    if options.resident is not None:
        check_resident(train_set, torch.device(settings.device))
    pretrained = find_pretrained(options.init_from, config, train_set, info, resumed=saved is not None)

    def compute() -> RgbStats | None:
        return compute_statistics(train_set, "centre", settings, info)

    stats = None
    if ranks.may_use_device:
        stats_file = choose_stats(options.stats_file, options.resume, run_dir, saved)
        stats = stats_for_training(config, train_set, stats_file, compute, info, ranks.dims.num_ranks)
    with ranks.mesh("--run", str(run_dir)) as mesh:
        how = RunOptions(
            run_dir=run_dir,
            settings=settings,
            mesh=mesh,
            checkpoint_every=options.checkpoint_every,
            keep=options.keep,
            log_every=options.log_every,
            execution=options.execution,
            tensorboard=options.tensorboard,
            resident=_hold(options.resident, config, train_set, ranks, settings),
        )
        with TrainingDisplay() if mesh.is_main else nullcontext(lambda record: None) as display:
            trainer = Trainer(config, train_set, val_set, stats, how, display, saved, pretrained)
            if mesh.is_main:
                _announce(trainer, resumed=saved is not None)
                if saved and options.init_from:
                    say("--init-from has no effect: the run goes on from its own weights.")
            return _fit(trainer)


def _hold(wanted: Room | None, config: Config, train_set: Dataset, ranks: Ranks, settings: Settings) -> Resident | None:
    """Put the images that `--resident` asks for on this rank's device."""
    if wanted is None:
        return None
    limit = wanted
    if limit == "auto":
        limit = room_for_images(config, train_set.num_classes, ranks.device, ranks.dims, ranks.num_on_device)
    return hold(train_set, ranks.device, limit, settings, announce=ranks.info.rank == 0)


def find_pretrained(
    path: Path | None, config: Config, train_set: Dataset, info: RankInfo, *, resumed: bool
) -> Pretrained | None:
    """Return the layers that `--init-from` means; None without it, and for a run that goes on from its own weights."""
    if path is None or resumed:
        return None
    (found,) = find_networks([path], info)
    return take_layers(load_classifier(found, CPU), str(found), config, train_set.classes)


def _announce(trainer: Trainer, resumed: bool) -> None:
    train_set, steps = trainer.train_set, trainer.epoch * len(trainer.loader) + trainer.step
    chosen = f"; {trainer.train_set.selection}" if str(trainer.train_set.selection) else ""
    say(
        f"Training {trainer.config.preset} on {train_set.where} ({len(train_set):,} images, {train_set.num_classes} "
        f"classes; {len(trainer.val_set):,} to validate{chosen}) into {trainer.options.run_dir}"
        + (f", from step {steps} on" if resumed else "")
    )
    if fetching := describe_fetching(train_set, trainer.config.window):
        say(fetching)
    if trainer.pretrained:
        say(trainer.pretrained.report())
    if trainer.options.tensorboard:
        say(f"To watch it: tensorboard --logdir {shlex.quote(str(trainer.options.run_dir / FOLDER))}")
    if not resumed and (note := rate_note(trainer.config)):
        say(note)


def _fit(trainer: Trainer) -> int:
    """Train to the end or to a signal, and say how it ended; return the exit code."""
    mesh, config = trainer.mesh, trainer.config
    code = 0
    with stop_on_signals(trainer.request_stop, announce=mesh.is_main):
        try:
            last = trainer.fit()
            text = (
                f"Done: top-1 error {last['top1_error']:.2%}, top-5 error {last['top5_error']:.2%} (1 view). Next: "
                f"alexnet evaluate {trainer.options.run_dir} {trainer.train_set.where} --views {config.views}"
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
