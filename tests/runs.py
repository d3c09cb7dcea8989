"""Shared by the tests of training and the command line: small runs, what they leave behind, commands."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import warm
from click.testing import CliRunner, Result

from alexnet.cli import main
from alexnet.pca.compute import compute_stats
from alexnet.pipeline.cache import needed_cache
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.train.checkpoint import Checkpoint, saved_checkpoints
from alexnet.train.config import Config
from alexnet.train.history import Record
from alexnet.train.pretrained import Pretrained
from alexnet.train.trainer import Interrupted, RunOptions, Trainer

ALEXNET = [sys.executable, "-m", "alexnet.cli"]
SMALL = {"width": 0.02, "batch_size": 4, "epochs": 2}  # of the colour tree: 4 steps an epoch
CPU = torch.device("cpu")
ONE_THREAD = Settings(threads=1, readers=1)


def options(run_dir: Path, **changes: Any) -> RunOptions:
    usual: dict[str, Any] = {"settings": ONE_THREAD, "log_every": 1}
    return RunOptions(run_dir=run_dir, **(usual | changes))


def trainer(
    tree: Path,
    run_dir: Path,
    numbers: dict[str, Any],
    *,
    preset: str = "paper",
    resume: Checkpoint | None = None,
    pretrained: Pretrained | None = None,
    listener: Callable[[Record], None] = lambda record: None,
    **how: Any,
) -> Trainer:
    """Build a trainer of a small network on a tree of images, in float32 on the CPU."""
    train_set, val_set = open_dataset(tree, "train"), open_dataset(tree, "val")
    config = Config.from_preset(preset, **{**SMALL, **numbers})
    stats = compute_stats(
        train_set, work_dir=needed_cache("") / "passes", settings=Settings(threads=1, readers=1, max_bad=0.5)
    )
    return Trainer(config, train_set, val_set, stats, options(run_dir, **how), listener, resume, pretrained)


def interrupted_at(position: tuple[int, int], *args: Any, **kwargs: Any) -> Path:
    """Run a trainer until a signal arrives in the middle of a step; return the checkpoint."""

    def listen(record: Record) -> None:
        if (record["epoch"], record["step"]) == position and record["kind"] == "train":
            running.request_stop(15)

    running = trainer(*args, **kwargs, listener=listen)
    try:
        running.fit()
    except Interrupted as stopped:
        return saved_checkpoints(running.options.run_dir)[-1] if stopped.signal_number == 15 else Path()
    raise AssertionError(f"the run never came to {position}")


def outcome(run_dir: Path) -> tuple[dict[str, bytes], list[tuple[Any, ...]]]:
    """Return the newest checkpoint's arrays by name, as bytes, and every record's place, loss and error."""
    with np.load(saved_checkpoints(run_dir)[-1]) as archive:
        arrays = {name: archive[name].tobytes() for name in archive.files}
    kept = ("kind", "epoch", "step", "loss", "top1_error", "lr", "num_images")
    return arrays, [tuple(record.get(key) for key in kept) for record in records(run_dir)]


def records(run_dir: Path) -> list[Record]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def alexnet(*arguments: Any, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command in its own process."""
    return warm.run([*ALEXNET, *arguments], timeout=timeout)


def alexnet_from_cold(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would: by a new interpreter."""
    command = [*ALEXNET, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def invoke(*arguments: Any, code: int = 0) -> Result:
    """Run a command in this process and check its exit code."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def paths_of(dataset: Dataset) -> list[Path]:
    return [dataset.root / dataset.name(i) for i in range(len(dataset))]
