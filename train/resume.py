"""Where a run writes and what it continues from: its folder, its checkpoint, its configuration.

Between the command line, which knows paths and flags, and `trainer.py`, which gets what is found here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..pipeline.errors import CheckpointError, UserError
from ..pipeline.files import can_write_into
from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .config import Config
from .parallel.ranks import ALONE, RankInfo

NEWEST = "newest"  # --resume without a path


def choose_run_dir(given: Path | None, resume: str | None, preset: str | None, info: RankInfo = ALONE) -> Path:
    """The run folder: as given, else the one that is resumed, else a new one named by the time.

    UserError where it cannot be written, and where ranks that torchrun or SLURM started give none: all must find it,
    and again after a restart.
    """
    run_dir = given or _usual_run_dir(resume, preset, info)
    if info.rank == 0 and not can_write_into(run_dir):
        raise UserError(f"The run folder {run_dir} cannot be written. Choose another by --run DIR.")
    return run_dir


def _usual_run_dir(resume: str | None, preset: str | None, info: RankInfo) -> Path:
    if resume == NEWEST:
        raise CheckpointError("--resume alone takes the newest checkpoint in --run: add --run DIR, or give it a path.")
    if resume is not None and (path := Path(resume)).is_dir():
        return path
    if resume is not None and path.parent.name == "checkpoints":
        return path.parent.parent
    if info.size > 1:
        raise UserError("Ranks started by torchrun or SLURM need a run folder that all can see: add --run DIR.")
    return Path("runs") / f"{preset or 'paper'}-{time.strftime('%Y%m%d-%H%M%S')}"


def find_checkpoint(resume: str | None, run_dir: Path, info: RankInfo = ALONE) -> Checkpoint | None:
    """The checkpoint that `--resume` means: a file, or the newest whole one of a run folder. The first rank looks.

    None means a fresh start. It is an error to start afresh where there is a run already, and to resume what is not
    there. After a restart by a launcher the newest checkpoint is taken, whatever the command said at first.
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
    path = run_dir if resume == NEWEST else Path(resume)
    if not path.exists():
        raise CheckpointError(f"--resume: there is no {path}. Nothing was started.")
    if not path.is_dir():
        return path
    if newest := checkpoints.latest(path):
        return newest
    raise CheckpointError(f"--resume: {path} holds no complete checkpoint. Nothing was started.")


def resolve_config(preset: str | None, overrides: Mapping[str, Any], saved: Checkpoint | None) -> Config:
    """The preset with some values changed; on resuming the checkpoint's, and CheckpointError where these differ from
    it."""
    if saved is None:
        return Config.from_preset(preset or "paper", **overrides)
    found = asdict(saved.config)
    asked = dict(overrides) | ({"preset": preset} if preset else {})
    differing = [
        f"--{name.replace('_', '-')} is {found[name]!r} there, {value!r} was asked for"
        for name, value in asked.items()
        if found[name] != value
    ]
    if differing:
        raise CheckpointError(
            f"The checkpoint is of another run: {'; '.join(differing)}. Leave these options out to continue it."
        )
    return saved.config
