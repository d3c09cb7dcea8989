"""Figure 1 of the paper: epochs to 25% training error on CIFAR-10, with ReLU and with tanh.

Each neuron gets the rate that is fastest for it, by a race with the first seed; then the winner is trained from the
other seeds. Nothing is regularised: no weight decay, crops, flips, dropout or normalisation. `workers.py` does the
work, `figures/figure1.py` draws the result, and `console/commands/figure1.py` writes it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..checkpoint import tool_versions
from .curve import TARGET
from .networks import Network, Neuron
from .race import fastest, race
from .run import Outcome
from .settings import Settings
from .tables import Table
from .workers import Task, Workers

RATES = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
PAPER_RATIO = 6.0
MOST_EPOCHS = 100


@dataclass(frozen=True)
class NeuronResult:
    """What became of one neuron."""

    swept: dict[float, Outcome]  # by rate, with the first seed
    rate: float | None  # the fastest; None if none reached 25%
    runs: dict[int, Outcome]  # by seed, at that rate

    def epochs(self) -> list[float | None]:
        """Epochs to 25% training error, by seed."""
        return [run.epochs_to_target() for run in self.runs.values()]

    def mean(self) -> float | None:
        """Their mean; None if a seed did not arrive."""
        arrived = [epochs for epochs in self.epochs() if epochs is not None]
        return statistics.fmean(arrived) if arrived and len(arrived) == len(self.runs) else None

    def on_the_edge(self) -> bool:
        """Return whether a rate beyond those that were tried might be faster still."""
        return self.rate in (min(self.swept), max(self.swept)) and len(self.swept) > 1

    def record(self) -> dict[str, Any]:
        sweep = [
            {
                "rate": rate,
                "epochs": outcome.epochs,
                "training_error": outcome.last_error(),
                "diverged": outcome.diverged,
                "epochs_to_25": outcome.epochs_to_target(),
            }
            for rate, outcome in self.swept.items()
        ]
        runs = []
        for seed, run in self.runs.items():
            at, error = run.curve()
            curve = {"epochs": at.round(3).tolist(), "training_error": error.round(6).tolist()}
            runs.append({"seed": seed, "epochs_to_25": run.epochs_to_target(), "curve": curve})
        return {"sweep": sweep, "rate": self.rate, "on_the_edge": self.on_the_edge(), "mean": self.mean(), "runs": runs}


@dataclass(frozen=True)
class Figure1:
    """The result for one network."""

    network: Network
    most_epochs: int
    data: str  # its fingerprint
    neurons: dict[Neuron, NeuronResult]

    def ratio(self) -> float | None:
        """How many times as many epochs tanh takes, by the means over seeds."""
        relu, tanh = self.neurons["relu"].mean(), self.neurons["tanh"].mean()
        return tanh / relu if relu and tanh else None

    def ratios(self) -> list[float]:
        """The same for each seed in which both arrived."""
        pairs = zip(self.neurons["relu"].epochs(), self.neurons["tanh"].epochs(), strict=False)
        return [tanh / relu for relu, tanh in pairs if relu and tanh]

    def summary(self) -> str:
        """The result in a sentence."""
        ratio, ratios = self.ratio(), self.ratios()
        if ratio is None:
            late = " and ".join(name for name, result in self.neurons.items() if result.mean() is None)
            return (
                f"{late} did not always reach 25% training error within {self.most_epochs} epochs: there is no ratio."
            )
        spread = f" ({min(ratios):.2f} to {max(ratios):.2f} by seed)" if len(ratios) > 1 else ""
        return f"tanh takes {ratio:.2f} times as many epochs as ReLU{spread}; in the paper {PAPER_RATIO:.0f} times."

    def remark(self) -> str:
        """What may be wrong with the rates; empty if nothing is."""
        edges = [f"{name}'s {result.rate:g}" for name, result in self.neurons.items() if result.on_the_edge()]
        if not edges:
            return ""
        return f"Fastest at an end of the rates tried: {' and '.join(edges)}. Try further ones with --rates."

    def record(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        return {
            "experiment": "figure1",
            "network": self.network,
            "target": TARGET,
            "most_epochs": self.most_epochs,
            "neurons": {name: result.record() for name, result in self.neurons.items()},
            "ratio": self.ratio(),
            "ratios": self.ratios(),
            "paper_ratio": PAPER_RATIO,
            "data": self.data,
            "versions": tool_versions(),
        }

    def tables(self) -> list[Table]:
        return [self._results(), self._sweeps()]

    def _results(self) -> Table:
        seeds = sorted({seed for result in self.neurons.values() for seed in result.runs})
        rows = []
        for name, result in self.neurons.items():
            numbers = [*(result.epochs() or [None] * len(seeds)), result.mean()]
            rows.append((name, _shown(result.rate, "g"), *(_shown(number, ".2f") for number in numbers)))
        header = ("neuron", "rate", *(f"seed {seed}" for seed in seeds), "mean")
        return Table("Epochs to 25% training error", header, rows)

    def _sweeps(self) -> Table:
        rows = [
            (name, f"{rate:g}", f"{o.epochs:.1f}", f"{o.last_error():.1%}", _shown(o.epochs_to_target(), ".2f"))
            for name, result in self.neurons.items()
            for rate, o in result.swept.items()
        ]
        header = ("neuron", "rate", "epochs run", "training error then", "epochs to 25%")
        return Table("The race of the rates", header, rows)


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def run_figure1(
    out: Path, workers: Workers, network: Network, rates: Sequence[float], num_seeds: int, most_epochs: int
) -> Figure1:
    """Run the experiment, or what is left of it in `out`."""

    def task(neuron: Neuron, rate: float, seed: int, epochs: int) -> Task:
        path = out / "runs" / f"{network}-{neuron}-{rate:g}-seed{seed}.npz"
        settings = Settings(network=network, neuron=neuron, rate=rate, seed=seed)
        return Task(path=path, settings=settings, epochs=epochs, until_target=True)

    def hold(neuron: Neuron) -> dict[float, Outcome]:
        def advance(running: Sequence[float], epoch: int) -> dict[float, Outcome]:
            return workers.carry_out({rate: task(neuron, rate, 0, epoch) for rate in running})

        return race(rates, advance, most_epochs)

    swept: dict[Neuron, dict[float, Outcome]] = {neuron: hold(neuron) for neuron in get_args(Neuron)}
    won = {neuron: rate for neuron, outcomes in swept.items() if (rate := fastest(outcomes)) is not None}
    found = workers.carry_out(
        {
            (neuron, seed): task(neuron, rate, seed, most_epochs)
            for neuron, rate in won.items()
            for seed in range(num_seeds)
        }
    )
    results = {
        neuron: NeuronResult(
            outcomes, won.get(neuron), {seed: run for (of, seed), run in found.items() if of == neuron}
        )
        for neuron, outcomes in swept.items()
    }
    return Figure1(network, most_epochs, workers.cifar.fingerprint, results)
