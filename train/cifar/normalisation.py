"""Section 3.3 of the paper on CIFAR-10: a four-layer network without and with response normalisation.

The paper has 13% test error without and 11% with it, and leaves the rest to the layer and parameter files of
cuda-convnet. These files differ in more than normalisation: the 11% network has twice the maps in local3, decays fc10
more, and trains three and a half times as long. So a third run adds normalisation to the 13% network and changes
nothing else.

The authors held out a batch of the five for most of the time, to see when to stop. All are used here from the start,
for as many images: 120 epochs for 100 on four batches and 40 on five, 430 for 350 and 150. Then come ten epochs at a
tenth of the rate, and ten at a hundredth.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from ..checkpoint import tool_versions
from .run import Outcome
from .settings import Settings
from .tables import Table
from .workers import Task, Workers

TAIL = 10  # epochs at a tenth of the rate, and as many at a hundredth
DECAY = {"local3": 0.004, "local4": 0.004, "fc10": 0.004}


@dataclass(frozen=True)
class Variant:
    """One network of the comparison."""

    describes: str
    epochs: int  # at the full rate
    paper: float | None  # test error, 9 views
    settings: Mapping[str, Any]


VARIANTS = {
    "13pct": Variant("without, as in the 13% files", 120, 0.13, {"decay": DECAY}),
    "11pct": Variant(
        "with, as in the 11% files",
        430,
        0.11,
        {"decay": DECAY | {"fc10": 0.01}, "normalisation": True, "local3": 64},
    ),
    "13pct-normalised": Variant("with, nothing else changed", 120, None, {"decay": DECAY, "normalisation": True}),
}


@dataclass(frozen=True)
class Normalisation:
    """The result: for each variant, a run a seed."""

    scale: float
    num_test: int  # images
    data: str  # its fingerprint
    runs: dict[str, list[Outcome]]

    def errors(self, variant: str, views: str = "9 views") -> list[float]:
        """Test errors by seed, 0..1."""
        return [run.test_wrong[views] / self.num_test for run in self.runs[variant]]

    def gain(self, plain: str, normalised: str) -> tuple[float, float | None]:
        """How much lower the error is with normalisation, and the standard error of that with several seeds."""
        gains = [a - b for a, b in zip(self.errors(plain), self.errors(normalised), strict=True)]
        several = len(gains) > 1
        return statistics.fmean(gains), statistics.stdev(gains) / sqrt(len(gains)) if several else None

    def summary(self) -> str:
        """The result in two sentences."""
        pairs = ("The published pair", "11pct"), ("Normalisation alone", "13pct-normalised")
        sentences = []
        for what, normalised in pairs:
            gain, error = self.gain("13pct", normalised)
            sentences.append(f"{what}: {100 * gain:+.2f}{f' +- {100 * error:.2f}' if error else ''} points")
        return f"{'; '.join(sentences)} lower test error with normalisation; in the paper 2 points by the first."

    def remark(self) -> str:
        """What keeps the errors from being the paper's; empty if nothing does."""
        remarks = []
        if self.scale != 1:
            remarks.append(f"Schedules were scaled by {self.scale:g}: errors are higher than in full ones.")
        ended = [(name, seed) for name, runs in self.runs.items() for seed, run in enumerate(runs) if run.diverged]
        if ended:
            which = ", ".join(f"{name} with seed {seed}" for name, seed in ended)
            remarks.append(f"Diverged, and no better than guessing: {which}.")
        return " ".join(remarks)

    def record(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        return {
            "experiment": "normalisation",
            "scale": self.scale,
            "variants": {
                name: {
                    "what": VARIANTS[name].describes,
                    "epochs": runs[0].epochs,
                    "training_error": [run.last_error() for run in runs],
                    "diverged": [run.diverged for run in runs],
                    "test_error_1_view": self.errors(name, "1 view"),
                    "test_error_9_views": self.errors(name),
                    "paper": VARIANTS[name].paper,
                }
                for name, runs in self.runs.items()
            },
            "data": self.data,
            "versions": tool_versions(),
        }

    def tables(self) -> list[Table]:
        header = ("normalisation", "epochs", "training error", "test error, 1 view", "9 views", "in the paper")
        rows = []
        for name, runs in self.runs.items():
            means = (
                statistics.fmean(values)
                for values in ([run.last_error() for run in runs], self.errors(name, "1 view"), self.errors(name))
            )
            paper = VARIANTS[name].paper
            printed = "" if paper is None else f"{paper:.0%}"
            rows.append((VARIANTS[name].describes, f"{runs[0].epochs:g}", *(f"{mean:.2%}" for mean in means), printed))
        seeds = len(self.runs["13pct"])
        return [Table(f"Means over {seeds} seed{'s' * (seeds > 1)}", header, rows)]


def run_normalisation(out: Path, workers: Workers, num_seeds: int, scale: float) -> Normalisation:
    """Run the comparison, or what is left of it in `out`; `scale` shortens all schedules."""
    tasks = {}
    for name, variant in VARIANTS.items():
        first, tail = (max(1, round(epochs * scale)) for epochs in (variant.epochs, TAIL))
        for seed in range(num_seeds):
            settings = Settings(
                network="local",
                rate=0.001,
                seed=seed,
                cropped=True,
                drops=(first, first + tail),
                **variant.settings,
            )
            path = out / "runs" / f"{name}-x{scale:g}-seed{seed}.npz"
            tasks[name, seed] = Task(path=path, settings=settings, epochs=first + 2 * tail, test=True)
    found = workers.carry_out(tasks)
    runs = {name: [found[name, seed] for seed in range(num_seeds)] for name in VARIANTS}
    return Normalisation(scale, len(workers.cifar.test), workers.cifar.fingerprint, runs)
