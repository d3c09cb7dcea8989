"""The commands that repeat the paper's experiments: arguments in, calls out, as in `cli.py`, which adds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .imports import quick_imports
from .options import ANY_PATH, FOLDER, json_option, together
from .terminal import show_json
from .types import Commas

figure1_options = together(
    click.option("--out", type=FOLDER, required=True, help="The folder for the runs, the figure and the tables."),
    click.option(
        "--experiment",
        type=click.Choice(["figure1", "normalisation"]),
        default="figure1",
        show_default=True,
        help="figure1: epochs to 25% training error; normalisation: section 3.3, test errors without and with it.",
    ),
    click.option(
        "--network",
        type=click.Choice(["small", "local"]),
        show_default="small",
        help="Of figure1. small: three convolutions; local: two and two locally connected layers, a third as fast.",
    ),
    click.option(
        "--rates",
        type=Commas(float),
        default=(),
        metavar="A,B,...",
        help="The learning rates that race in figure1.  [default: 0.00025 to 0.016, doubling]",
    ),
    click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each network."),
    click.option(
        "--epochs", type=click.IntRange(1), show_default="100", help="The most that a run of figure1 may take."
    ),
    click.option(
        "--scale",
        type=click.FloatRange(0, min_open=True),
        show_default="1",
        help="Shortens the schedules of normalisation, of 140 and 450 epochs.",
    ),
    click.option(
        "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at once, each in one thread."
    ),
)


@click.command()
@click.argument("cifar", type=ANY_PATH, metavar="CIFAR")
@figure1_options
@json_option
def figure1(cifar: Path, out: Path, as_json: bool, **asked: Any) -> None:
    """Repeat the paper's experiments on CIFAR-10: ReLU against tanh (Figure 1), and normalisation (section 3.3).

    CIFAR is CIFAR-10 in its binary version, or a folder with train/ and test/ and in each a folder of images a class.
    For each neuron the learning rates race for 25% training error; then the fastest is run from the other seeds. OUT
    gets a figure, a table and JSON. Killed at any time, the same command goes on, to the same bits; more --seeds
    or --jobs continue what is there.

    Example: alexnet figure1 /data/cifar10 --seeds 3 --out figure1
    """
    with quick_imports():
        from .commands.figure1 import run_experiment
        from .tables import print_experiment

    result = run_experiment(cifar, out=out, **asked)
    show_json(json.dumps(result.record())) if as_json else print_experiment(result, out)
