"""`alexnet demo`: a small ImageNet is drawn, then the commands run on it that a user would type."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click

from ..pipeline.generate import generate_tree
from .console import bar
from .terminal import say


def run_demo(folder: Path, threads: int) -> None:
    """Images and results go into `folder`. The first command that fails ends it, with that command's exit code."""
    say(f"Drawing ten classes of JPEGs into {folder / 'data'}")
    with bar("drawing", 1200, "images") as update:
        data = generate_tree(folder / "data", train_per_class=100, val_per_class=20, seed=0, processes=threads,
                             progress=lambda done, total: update(done))  # fmt: skip
    run, stats, run_on = folder / "run", folder / "stats.json", f"--threads {threads}"
    for command in (
        f"pca-stats {data} --out {stats} --plot {folder / 'stats.png'} {run_on}",
        f"train {data} --stats {stats} --run {run} --width 0.25 --batch-size 16 --epochs 20 --schedule stages "
        f"--num-stages 2 --stage-factor 10 {run_on}",
        f"evaluate {run} {data} --views 1 {run_on}",
        f"evaluate {run} {data} --views 10 {run_on}",
        f"bench-loader {data} --seconds 1 {run_on}",
    ):
        _run(command)


def _run(command: str) -> None:
    say()
    say(f"$ alexnet {command}")
    code = subprocess.run([sys.executable, "-m", "alexnet.cli", *shlex.split(command)], check=False).returncode
    if code:
        raise click.exceptions.Exit(code)
