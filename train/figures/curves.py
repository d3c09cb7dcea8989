"""How runs went: loss, errors and learning rate by epoch, with when colour noise ended and conv1 froze.

Reads what `history.py` wrote, `metrics.jsonl` and `config.json`; several runs go into one figure, for comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from ...pipeline.errors import UserError
from ..config import Config
from ..history import read_records
from ..optimizer import build_schedule
from .drawing import FAINT, INK, MUTED, PALETTE, bare, new_figure, set_title, shorten

POINTS = 400  # of a curve at most; a run of the paper's length has a hundred times as many windows
MARKERS = "os^Dv*P"  # tell runs apart without colour
MOST_RATES_NAMED = 5
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curves:
    """One run. Positions are in epochs since the start of training; errors are shares, 0..1."""

    name: str
    train_at: FloatArray  # (n,): the ends of windows of steps
    train_loss: FloatArray  # (n,): its mean over each window
    train_error: FloatArray  # (n,): top-1, of augmented images, with dropout
    val_at: FloatArray  # (m,): the ends of epochs; none before the first
    top1_error: FloatArray  # (m,)
    top5_error: FloatArray  # (m,)
    rate_at: FloatArray  # (r,): where the learning rate of weights begins, and where it changes
    rates: FloatArray  # (r,)
    noise_ended: float | None = None  # None: not yet, never, or there was none
    conv1_frozen: float | None = None

    def events(self) -> list[tuple[float, str]]:
        """What changed beside the rate, and where."""
        found = (self.noise_ended, "colour noise ends"), (self.conv1_frozen, "conv1 freezes")
        return [(at, what) for at, what in found if at is not None]

    def summary(self) -> dict[str, Any]:
        """How far the run came, as JSON can hold it; epochs count from 0."""
        validated = len(self.val_at) > 0
        return {
            "run": self.name,
            "epochs": float(self.train_at[-1]),
            "loss": float(self.train_loss[-1]),
            "top1_error": float(self.top1_error[-1]) if validated else None,
            "top5_error": float(self.top5_error[-1]) if validated else None,
            "lowest_top1_error": float(self.top1_error.min()) if validated else None,
            "rates": [{"epoch": int(at), "lr": float(lr)} for at, lr in zip(self.rate_at, self.rates, strict=True)],
            "noise_ended": self.noise_ended,
            "conv1_frozen": self.conv1_frozen,
        }


def read_curves(path: Path) -> Curves:
    """Read the curves of a run folder, or of a copy of its `metrics.jsonl`; a half-written last line is left out.

    UserError where there is no record, or it is not one of `alexnet train`.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There is no record of a run at {file}. Give the folder of `alexnet train --run`.")
    config = file.with_name("config.json")
    try:
        return curves_of(
            str(path), read_records(file), Config.from_json(config.read_text()) if config.exists() else None
        )
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"a line has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file} is not a record of `alexnet train`: {problem}.") from error


def curves_of(name: str, records: Iterable[Mapping[str, Any]], config: Config | None = None) -> Curves:
    """Turn the records of a run into curves; its configuration tells when colour noise ends and conv1 freezes.

    UserError if no window of steps is complete.
    """
    records = list(records)
    train = [record for record in records if record["kind"] == "train"]
    if not train:
        raise UserError(f"{name} has no record yet: its first window of steps is not complete.")
    val = [record for record in records if record["kind"] == "val"]
    epochs, rates = _column(train, "epoch"), _column(train, "lr")
    begins = np.flatnonzero(np.diff(rates, prepend=np.nan) != 0)
    at = epochs + _column(train, "step") / _column(train, "steps_per_epoch")
    noise_ended, conv1_frozen = _switches(config, at[-1]) if config else (None, None)
    return Curves(
        name=name,
        train_at=at,
        train_loss=_column(train, "loss"),
        train_error=_column(train, "top1_error"),
        val_at=_column(val, "epoch") + 1,
        top1_error=_column(val, "top1_error"),
        top5_error=_column(val, "top5_error"),
        rate_at=epochs[begins],
        rates=rates[begins],
        noise_ended=noise_ended,
        conv1_frozen=conv1_frozen,
    )


def _column(records: Sequence[Mapping[str, Any]], key: str) -> FloatArray:
    return np.array([record[key] for record in records], np.float64)


def _switches(config: Config, reached: float) -> tuple[float | None, float | None]:
    """The epochs in which colour noise went off and conv1 froze, if the run has `reached` them.

    A schedule that waits for the validation error does neither.
    """
    schedule = build_schedule(config)
    rates = [schedule.rates(epoch) for epoch in range(int(np.ceil(reached)))]
    noise_off = [float(epoch) for epoch, rate in enumerate(rates) if not rate.lighting and rates[0].lighting]
    frozen = [float(epoch) for epoch, rate in enumerate(rates) if rate.groups["conv1_weights"] == 0]
    return next(iter(noise_off), None), next(iter(frozen), None)


def thinned(at: FloatArray, values: FloatArray, most: int = POINTS) -> tuple[FloatArray, FloatArray]:
    """Average runs of neighbouring windows, so that at most `most` points are left, each at the end of its run."""
    size = -(-len(at) // most)
    starts = np.arange(0, len(at), size)
    counts = np.diff(starts, append=len(at))
    return at[starts + counts - 1], np.add.reduceat(values, starts) / counts


def draw_curves(runs: Sequence[Curves]) -> Figure:
    """Draw loss, errors and rates below each other; a run has a colour and a marker of its own."""
    last = [
        f"top-1 {run.top1_error[-1]:.1%}, top-5 {run.top5_error[-1]:.1%}" if len(run.val_at) else "" for run in runs
    ]
    names = [shorten(run.name, 70, keep_end=True) for run in runs]
    note = f"{names[0]}; last validation: {last[0] or 'none yet'}" if len(runs) == 1 else ""
    figure = new_figure(8 + 0.2 * (len(runs) - 1), "Training curves", note)
    loss, errors, rates = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1.5, 0.6])
    for i, run in enumerate(runs):
        _draw_run(loss, errors, rates, run, PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], alone=len(runs) == 1)
    set_title(loss, "Training loss")
    set_title(errors, "Errors, %")
    set_title(rates, "Learning rate of weights")
    loss.set_ylim(bottom=0)
    errors.set_ylim(0, 100)
    _scale_rates(rates, sorted({rate for run in runs for rate in run.rates.tolist()}))
    rates.set_xlabel("epoch", fontsize=9, color=MUTED)
    rates.set_xlim(min(run.rate_at[0] for run in runs), max(run.train_at[-1] for run in runs))
    for axes in (loss, errors, rates):
        bare(axes, "bottom", "left")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
    _label_events(loss, [event for run in runs for event in run.events()])
    _explain(figure, errors, [f"{name}: {end}" if end else name for name, end in zip(names, last, strict=True)])
    return figure


def _draw_run(loss: Axes, errors: Axes, rates: Axes, run: Curves, colour: str, marker: str, *, alone: bool) -> None:
    """Draw one run into the three panels; its markers stand on a few points only."""
    at, values = thinned(run.train_at, run.train_loss)
    loss.plot(
        at, values, color=colour, linewidth=1.2, marker=None if alone else marker, markevery=_few(at), markersize=4
    )
    at, values = thinned(run.train_at, 100 * run.train_error)
    errors.plot(at, values, color=colour, linewidth=0.8, alpha=0.5)
    style: dict[str, Any] = {"color": colour, "marker": marker, "markevery": _few(run.val_at), "markersize": 4}
    errors.plot(run.val_at, 100 * run.top1_error, linewidth=1.8, **style)
    errors.plot(run.val_at, 100 * run.top5_error, linewidth=1.4, linestyle="--", **style)
    places, levels = np.append(run.rate_at, run.train_at[-1]), np.append(run.rates, run.rates[-1])
    rates.step(places, levels, where="post", color=colour, linewidth=1.6)
    rates.plot(run.rate_at, run.rates, marker, color=colour, markersize=4, clip_on=False)
    for axes in (loss, errors, rates):
        for place in run.rate_at[1:] if alone else ():
            axes.axvline(place, color=FAINT, linewidth=0.8, zorder=0)
        for place, _ in run.events():
            axes.axvline(place, color=MUTED if alone else colour, linewidth=0.9, linestyle=":", zorder=0)


def _scale_rates(axes: Axes, levels: Sequence[float]) -> None:
    """Name the rates themselves if they are few, as none of them need be a power of ten."""
    axes.set_yscale("log")
    axes.set_ylim(levels[0] / 1.5, levels[-1] * 1.5)
    if len(levels) <= MOST_RATES_NAMED:
        axes.set_yticks(levels)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _few(at: FloatArray) -> int:
    return max(1, len(at) // 12)


def _label_events(axes: Axes, events: Sequence[tuple[float, str]]) -> None:
    """Name each place once, whatever number of runs and events it has."""
    for place in sorted({place for place, _ in events}):
        text = ", ".join(dict.fromkeys(what for at, what in events if at == place))
        axes.text(
            place,
            0.98,
            f"{text} ",
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="right",
            va="top",
            fontsize=8,
            color=MUTED,
            zorder=1,  # behind the curves
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )


def _explain(figure: Figure, errors: Axes, names: Sequence[str]) -> None:
    """Say what each kind of line is and, if there are several runs, which has which colour."""
    colour = PALETTE[0] if len(names) == 1 else INK
    kinds = {
        "top-1, training: augmented, with dropout": {"linewidth": 0.8, "alpha": 0.6},
        "top-1, validation, 1 view": {"linewidth": 1.8},
        "top-5, validation, 1 view": {"linewidth": 1.4, "linestyle": "--"},
    }
    lines = [Line2D([], [], color=colour, **style) for style in kinds.values()]  # type: ignore[arg-type]
    style: dict[str, Any] = {"fontsize": 8.5, "labelcolor": INK, "edgecolor": "none", "framealpha": 0.85}
    errors.legend(lines, list(kinds), loc="upper right", **style)
    if len(names) > 1:
        own = [(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i in range(len(names))]
        marks = [Line2D([], [], color=colour, marker=marker, markersize=5) for colour, marker in own]
        legend = figure.legend(marks, names, loc="outside lower left", **style)
        for text in legend.get_texts():
            text.set_parse_math(False)
