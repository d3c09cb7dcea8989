"""Where a run writes and what it continues from: its folder, its checkpoint, its configuration.

The command line passes paths and flags; `trainer.py` gets what is found here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..pipeline.dataset.selection import EVERYTHING, Selection
from ..pipeline.errors import CheckpointError, UserError
from ..pipeline.files import can_write_into
from ..pipeline.remote.urls import url_of
from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .config import Config
from .history import STATS
from .parallel.ranks import ALONE, RankInfo
from .saved import EXPORTED

NEWEST = "newest"  # --resume without a path


def choose_run_dir(given: Path | None, resume: str | None, preset: str | None, info: RankInfo = ALONE) -> Path:
    """Return the run folder: as given, else the one resumed, else a new one named after the time.

    UserError if it is not writable, or if ranks that torchrun or SLURM started give none: all must find it, even after
    a restart.
    """
    run_dir = given or _usual_run_dir(resume, preset, info)
    if info.rank == 0 and not can_write_into(run_dir):
        raise UserError(f"The run folder {run_dir} is not writable. Choose another with --run DIR.")
    return run_dir


def _usual_run_dir(resume: str | None, preset: str | None, info: RankInfo) -> Path:
    if resume == NEWEST:
        raise CheckpointError("--resume alone takes the newest checkpoint in --run: add --run DIR, or give it a path.")
    if resume is not None and (found := _run_of(Path(resume))):
        return found
    if info.size > 1:
        raise UserError("Ranks started by torchrun or SLURM need a run folder that all can see: add --run DIR.")
    return Path("runs") / f"{preset or 'paper'}-{time.strftime('%Y%m%d-%H%M%S')}"


def _run_of(path: Path) -> Path | None:
    """Return the run folder that `--resume` names, or that its checkpoint lies in; None for a lone file."""
    if path.is_dir():
        return path
    folder = path.parent if path.parent.name else path.absolute().parent
    return folder.parent if folder.name == "checkpoints" else None


def find_checkpoint(resume: str | None, run_dir: Path, info: RankInfo = ALONE) -> Checkpoint | None:
    """Load the checkpoint that `--resume` means: a file, or the newest whole one of a run folder. The first rank looks.

    None means a fresh start. Starting afresh in a folder that holds a run is an error, and so is resuming from nothing.
    After a launcher's restart the newest checkpoint is taken, even if the command names another.
    """
    path = info.from_main("checkpoint", lambda: str(_checkpoint_path(resume, run_dir, info.restarts) or ""))
    return checkpoints.load(Path(path)) if path else None


def _checkpoint_path(resume: str | None, run_dir: Path, restarts: int) -> Path | None:
    if restarts and (newest := checkpoints.latest(run_dir)):
        return newest
    if resume is None:
        if checkpoints.saved_checkpoints(run_dir):
            raise UserError(f"{run_dir} holds a run already. Add --resume to continue it, or choose another --run.")
        return None
    if resume != NEWEST and (url := url_of(resume)):
        raise CheckpointError(f"--resume: {url} is a URL, which only DATA may be. Nothing was started.")
    path = run_dir if resume == NEWEST else Path(resume)
    if not path.exists():
        raise CheckpointError(f"--resume: there is no {path}. Nothing was started.")
    if path.suffix in EXPORTED:
        raise CheckpointError(
            f"--resume: {path} holds a network, not its run. Begin a new run with --init-from {path}."
        )
    if not path.is_dir():
        return path
    if newest := checkpoints.latest(path):
        return newest
    raise CheckpointError(f"--resume: {path} holds no complete checkpoint. Nothing was started.")


def resolve_config(preset: str | None, overrides: Mapping[str, Any], saved: Checkpoint | None) -> Config:
    """Return the preset with some values changed or, when resuming, the checkpoint's configuration.

    CheckpointError if the preset or a value asked for differs from the checkpoint's.
    """
    if saved is None:
        return Config.from_preset(preset or "paper", **overrides)
    asked = dict(overrides) | ({"preset": preset} if preset else {})
    _refuse_others(asked, asdict(saved.config) | saved.config.seeds._asdict())
    return saved.config


def resolve_selection(asked: Mapping[str, Any], saved: Checkpoint | None) -> Selection:
    """Return which images a run continues on; everything if it begins.

    CheckpointError if another choice is asked for. Lists of classes are compared later, by the images they come to.
    """
    if saved is None:
        return EVERYTHING
    _refuse_others({name: value for name, value in asked.items() if name != "classes"}, asdict(saved.selection))
    return saved.selection


def choose_stats(given: Path | None, resume: str | None, run_dir: Path, saved: Checkpoint | None) -> Path | None:
    """Return the file of statistics that a run takes: the one given or, if it goes on, the one that it began with.

    None if there is none: then it takes those that are cached for the data set, or computes them. They may be others,
    as those of a run that began with `--stats`, and would change the images that it sees.
    """
    if given or saved is None:
        return given
    folder = run_dir if resume in (None, NEWEST) else _run_of(Path(resume)) or run_dir
    return folder / STATS if (folder / STATS).exists() else None


def _refuse_others(asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """CheckpointError if a value asked for is not the one found in the checkpoint."""
    differing = [
        f"--{name.replace('_', '-')} is {found[name]!r} there, {value!r} was asked for"
        for name, value in asked.items()
        if found[name] != value
    ]
    if differing:
        raise CheckpointError(
            f"The checkpoint is from another run: {'; '.join(differing)}. Leave these options out to continue it."
        )
