"""`alexnet figure1`: the paper's experiments on CIFAR-10, and the files that tell how they came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from pathlib import Path

import click
from matplotlib.figure import Figure

from ...pipeline.errors import UserError
from ...pipeline.files import can_write_into, only_writer, write_atomically
from ...train.cifar.curve import TARGET
from ...train.cifar.figure1 import MOST_EPOCHS, RATES, Figure1, run_figure1
from ...train.cifar.images import read_cifar
from ...train.cifar.networks import Network
from ...train.cifar.normalisation import Normalisation, run_normalisation
from ...train.cifar.run import Outcome
from ...train.cifar.tables import markdown
from ...train.cifar.workers import Workers
from ...train.figures.drawing import rendered
from ...train.figures.figure1 import Lines, draw_figure1
from ..progress import bars
from ..terminal import say

HEADINGS = {
    "figure1": "Figure 1: ReLU and tanh on CIFAR-10",
    "normalisation": "Section 3.3: response normalisation on CIFAR-10",
}


def run_experiment(
    cifar: Path,
    *,
    out: Path,
    experiment: str,
    network: Network | None,
    rates: Sequence[float],
    seeds: int,
    epochs: int | None,
    scale: float | None,
    jobs: int,
) -> Figure1 | Normalisation:
    """Run an experiment, or what is left of it, and write its files into `out`."""
    _check_usage(experiment, network, rates, epochs, scale)
    if not can_write_into(out):
        raise UserError(f"The folder {out} cannot be written. Use another --out.")
    busy = UserError(f"Another process works in {out}. Wait for it, or use another --out.")
    with bars("images") as update:
        images = read_cifar(cifar, update)
    with only_writer(out, busy):
        workers = Workers(cifar, images, jobs, _report)
        if experiment == "normalisation":
            result: Figure1 | Normalisation = run_normalisation(out, workers, seeds, scale or 1.0)
            _write(out, experiment, experiment, result)
        else:
            result = run_figure1(out, workers, network or "small", rates or RATES, seeds, epochs or MOST_EPOCHS)
            _write(out, f"figure1-{result.network}", experiment, result)
            write_atomically(out / f"figure1-{result.network}.png", rendered(_draw(result), ".png"))
    return result


def _check_usage(
    experiment: str, network: str | None, rates: Sequence[float], epochs: int | None, scale: float | None
) -> None:
    if experiment == "normalisation":
        given = {"--network": network, "--rates": rates, "--epochs": epochs}
        if unused := [name for name, value in given.items() if value]:
            raise click.UsageError(f"{unused[0]} is for --experiment figure1: leave it out.")
    elif scale is not None:
        raise click.UsageError("--scale is for --experiment normalisation; --epochs limits figure1.")
    if not all(0 < rate < inf for rate in rates) or len({*rates}) < len(rates):
        raise click.UsageError("--rates must be positive, and each given once.")


def _write(out: Path, name: str, experiment: str, result: Figure1 | Normalisation) -> None:
    page = markdown(HEADINGS[experiment], f"{result.summary()} {result.remark()}".strip(), result.tables())
    write_atomically(out / f"{name}.json", (json.dumps(result.record(), indent=2) + "\n").encode())
    write_atomically(out / f"{name}.md", page.encode())


def _draw(result: Figure1) -> Figure:
    lines = {
        name: Lines(found.rate, [run.curve() for run in found.runs.values()], found.mean())
        for name, found in result.neurons.items()
    }
    return draw_figure1(lines, TARGET, f"Network {result.network}: {result.summary()}")


def _report(name: str, outcome: Outcome) -> None:
    say(f"{name}: epoch {outcome.epochs:g}, training error {outcome.last_error():.1%}")
