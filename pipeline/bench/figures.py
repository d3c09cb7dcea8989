"""What the loader's benchmark found, as one picture: stages, batch latency, the other loader, training, the sweep.

Comes after `result.py`; nothing depends on it. Every window is a dot, so that the spread shows.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from ..files import write_figure
from .result import BenchResult
from .sweep import Point, Sweep
from .windows import Figures

INK, MUTED, FAINT, OURS, DISK = "#222222", "#767676", "#c9c9c9", "#33638d", "#c46a27"
NOTE_LINES, NOTE_WIDTH = 3, 88
Entry = tuple[str, Figures, str]  # label, figures, colour


def plot_bench(result: BenchResult, path: Path) -> None:
    """Draw the result into `path`, as PNG, PDF or SVG by its suffix; what was not measured takes no room."""
    rows: list[Callable[[SubFigure], None]] = [lambda row: _plot_stages(row, result)]
    if result.comparison or result.bottleneck:
        rows.append(lambda row: _plot_beside(row, result))
    if found := result.sweep:
        rows.append(lambda row: _plot_sweep(row, found))
    figure = Figure(figsize=(12.8, 0.5 + 3.9 * len(rows)), dpi=120, layout="constrained", facecolor="white")
    figure.suptitle(_caption(result), x=0.01, ha="left", fontsize=9, color=MUTED, parse_math=False)
    panels = figure.subfigures(len(rows), 1, squeeze=False, hspace=0.04)[:, 0]
    for draw, panel in zip(rows, panels, strict=True):
        draw(panel)
    write_figure(path, figure)


def _caption(result: BenchResult) -> str:
    data, config, facts = result.dataset, result.config, result.machine
    where = facts["cpu"] if facts["device"] == "cpu" else f"{facts['device']}, {facts['cpu']}"
    return (
        f"{data['num_images']:,} images of {data['image_kilobytes']:.0f} KB, {data['image_megapixels']:.2f} "
        f"megapixels; batches of {config['batch_size']}; {where}, {facts['cores']:g} cores"
    )


def _plot_stages(panel: SubFigure, result: BenchResult) -> None:
    rates, latency = panel.subplots(1, 2, gridspec_kw={"wspace": 0.08})
    colours = {"loader": OURS}
    stages = [(s.name, s, colours.get(s.name, MUTED)) for s in result.stages]
    disk = [(f"{s.name}, from disk", s, DISK if s.name == "loader" else MUTED) for s in result.cold]
    _plot_rates(rates, [*stages, *disk])
    _title(rates, "Images a second, stage by stage", result.verdict)
    _plot_latency(latency, [stages[-1], disk[-1]])


def _plot_rates(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw medians and all windows on a logarithmic scale, from the top down."""
    for place, (_, figures, colour) in enumerate(entries):
        axes.plot(
            [figures.low, figures.high], [place, place], color=colour, linewidth=7, alpha=0.25, solid_capstyle="round"
        )
        axes.plot(figures.windows, [place] * len(figures.windows), "o", color=colour, markersize=3, alpha=0.7)
        axes.plot(figures.images_per_second, place, "|", color=colour, markersize=15, markeredgewidth=3)
        _label(axes, place, figures)
    _names(axes, entries)
    axes.set_xscale("log")
    axes.set_xlim(min(f.low for _, f, _ in entries) / 1.5, max(f.high for _, f, _ in entries) * 2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=9, labelcolor=MUTED)
    axes.tick_params(axis="x", which="minor", length=0, labelbottom=False)
    _bare(axes)


def _plot_bars(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw bars of medians and a dot for each window, from the top down."""
    for place, (_, figures, colour) in enumerate(entries):
        axes.barh(place, figures.images_per_second, 0.62, color=colour)
        axes.plot(figures.windows, [place] * len(figures.windows), "o", color=INK, markersize=3, alpha=0.55)
        _label(axes, place, figures)
    _names(axes, entries)
    axes.set_xlim(0, 1.15 * max(figures.high for _, figures, _ in entries))
    axes.set_xticks([])
    _bare(axes, "left")


def _plot_latency(axes: Axes, entries: Sequence[Entry]) -> None:
    """Draw the share of batches that had arrived after each number of milliseconds."""
    for label, figures, colour in entries:
        text = f"{label}: half within {figures.latency_ms_p50:,.0f} ms, 99% within {figures.latency_ms_p99:,.0f}"
        axes.plot(figures.latency_ms_quantiles, range(101), color=colour, linewidth=2, label=text)
    axes.set(ylim=(0, 101), yticks=(0, 50, 99), yticklabels=("0", "50%", "99%"))
    axes.set_xlim(0, 1.05 * max(figures.latency_ms_max for _, figures, _ in entries))
    axes.set_xlabel("milliseconds from asking for a batch to having it", fontsize=9, color=MUTED)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="best")
    axes.tick_params(labelsize=9, labelcolor=MUTED)
    _bare(axes, "bottom")
    _title(axes, "Batch latency", "the share of batches that had arrived by then")


def _plot_beside(panel: SubFigure, result: BenchResult) -> None:
    """Draw the other loader, and training."""
    left, right = panel.subplots(1, 2, gridspec_kw={"wspace": 0.08})
    if found := result.comparison:
        others = [(f"DataLoader:\n{p.name},\nworkers: {p.workers}", p.figures, FAINT) for p in found.peers]
        _plot_bars(left, [("alexnet", found.ours, OURS), *others])
        times = " and ".join(f"{p.ours_is_times_as_fast.median:.2f}" for p in found.peers)
        _title(left, "Beside torch's DataLoader, images a second", f"ours is {times} times as fast as theirs")
    else:
        left.set_axis_off()
    if training := result.bottleneck:
        _plot_bars(
            right,
            [
                ("training step,\ncached batch", training.step, FAINT),
                ("loader alone", training.loader, FAINT),
                ("training with\nthe loader", training.together, OURS),
            ],
        )
        _title(right, "Training, images a second", training.verdict)
    else:
        right.set_axis_off()


def _plot_sweep(panel: SubFigure, found: Sweep) -> None:
    options = [(option, list(points)) for option, points in groupby(found.points, key=lambda p: p.option)]
    grid = panel.subplots(1, len(options), squeeze=False, sharey=True, gridspec_kw={"wspace": 0.03})[0]
    for axes, (option, points) in zip(grid, options, strict=True):
        _plot_option(axes, option, points, found.recommended.get(option))
    grid[0].set_ylim(0, 1.08 * max(point.gain.high for point in found.points))
    words = f"recommended (disc): {found.options}, together {found.gain}" if found.options else "none is clearly better"
    _title(grid[0], "Other settings, times as fast as the current one (ring)", words)


def _plot_option(axes: Axes, option: str, points: Sequence[Point], recommended: float | None) -> None:
    """Draw medians over the rounds, and their range: the current value is a ring, the recommended one a disc."""
    values, places = [p.value for p in points], np.arange(len(points))
    axes.axhline(1, color=MUTED, linewidth=0.8)
    axes.vlines(
        places,
        [p.gain.low for p in points],
        [p.gain.high for p in points],
        color=OURS,
        alpha=0.25,
        linewidth=7,
        capstyle="round",
    )
    axes.plot(places, [p.gain.median for p in points], "o-", color=OURS, linewidth=1.6, markersize=4)
    for place, point in zip(places, points, strict=True):
        filled = point.value == recommended
        if point.in_force or filled:
            axes.plot(
                place,
                point.gain.median,
                "o",
                color=OURS,
                markersize=9,
                markerfacecolor=OURS if filled else "white",
                markeredgewidth=1.6,
            )
    axes.set_xticks(places, [f"{value:g}" for value in values], fontsize=9, color=INK)
    axes.margins(x=0.12)
    axes.set_xlabel(f"--{option.replace('_', '-')}", fontsize=9, color=INK)
    axes.tick_params(axis="y", labelsize=9, labelcolor=MUTED)
    _bare(axes, "bottom")


def _label(axes: Axes, place: int, figures: Figures) -> None:
    """Write the median to the right of everything drawn at `place`."""
    text, at = f"{figures.images_per_second:,.0f}", (figures.high, place)
    axes.annotate(text, at, (9, 0), textcoords="offset points", va="center", fontsize=9, color=INK)


def _names(axes: Axes, entries: Sequence[Entry]) -> None:
    axes.set_yticks(range(len(entries)), [label for label, *_ in entries], fontsize=9, color=INK)
    axes.set_ylim(len(entries) - 0.5, -0.5)


def _title(axes: Axes, text: str, note: str) -> None:
    lines = textwrap.wrap(note, NOTE_WIDTH)
    height = 12 * max(len(lines), NOTE_LINES)  # points; short notes keep the titles of figures side by side level
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold", color=INK, pad=height + 10)
    axes.annotate(
        "\n".join(lines),
        (0, 1),
        (0, height + 4),
        xycoords="axes fraction",
        fontsize=8.5,
        textcoords="offset points",
        color=MUTED,
        va="top",
        annotation_clip=False,
    )


def _bare(axes: Axes, *keep: str) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in keep)
        spine.set_color(FAINT)
    axes.tick_params(length=0)
