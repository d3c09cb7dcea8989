"""`alexnet demo`: draw a small ImageNet, then run on it the commands that a user would type."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click

from ...pipeline.synthetic.generate import generate_tree
from ...train.checkpoint import saved_checkpoints
from ..progress import bar
from ..terminal import say

# An eighth of the width learns as much from these pictures as a quarter, at half the cost. `benchmarks/seeds.py` found
# that this rate works with many seeds and instruction sets; .01, made for batches of 128, does not. As many steps over
# half as many images end higher, some seeds twice as high.
TRAINING = (
    "--preset original --width 0.125 --batch-size 16 --lr 0.005 --augment-run 1 --epochs 12 "
    "--schedule stages --num-stages 3 --stage-factor 10"
)


def run_demo(folder: Path, threads: int) -> None:
    """Put images and results into `folder`. Stop at the first command that fails, with its exit code."""
    say(f"Drawing ten classes of JPEGs into {folder / 'data'}")
    with bar("drawing", 2400, "images") as update:
        generate_tree(
            folder / "data",
            train_per_class=200,
            val_per_class=40,
            seed=0,
            processes=threads,
            progress=lambda done, total: update(done),
        )
    resume = " --resume" if saved_checkpoints(folder / "run") else ""  # of a demo that was interrupted, or is repeated
    names = ("data", "packed", "run", "stats.json", "stats.png", "report.html")
    data, packed, run, stats, plot, page = (shlex.quote(str(folder / name)) for name in names)
    for command in (
        f"pack {data} {packed} --raw",
        f"pca-stats {packed} --out {stats} --plot {plot}",
        f"train {packed} --stats {stats} --run {run}{resume} {TRAINING}",
        f"evaluate {run} {packed} --views 1",
        f"evaluate {run} {packed} --views 10",
        f"bench-loader {data} --seconds 0.5 --rounds 3",
        f"report {run} {packed} --out {page}",
    ):
        _run(f"{command} --threads {threads}")


def _run(command: str) -> None:
    say()
    say(f"$ alexnet {command}")
    code = subprocess.run([sys.executable, "-m", "alexnet.cli", *shlex.split(command)], check=False).returncode
    if code:
        raise click.exceptions.Exit(code)
