"""The differences of an ablation with their errors, beside what the paper reports.

Draws the rows of `ablation/table.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..ablation.table import FACTOR, Row, Table
from .drawing import FAINT, INK, MUTED, PALETTE, bare, new_figure, set_title, shorten

OURS, THEIRS = PALETTE[0], PALETTE[1]
ROW_HEIGHT = 0.34  # inches


def draw_ablation(table: Table, note: str = "") -> Figure:
    """Draw a row for each variation, the base's error being the line at 0; top-1 on the left, top-5 on the right."""
    rows = [row for row in table.rows if row.difference is not None]
    state = "" if table.complete else f" (incomplete: {table.num_over} of {table.num_runs} runs)"
    figure = new_figure(
        1.75 + ROW_HEIGHT * max(len(rows), 1), f"Ablations: difference from the base{state}", shorten(note, 115)
    )
    panels = figure.subplots(1, 2, sharey=True)
    for k, (axes, kind) in enumerate(zip(panels, ("top-1", "top-5"), strict=True)):
        error = table.rows[0].errors[k]
        base = f"the base's is {error:.1f}%" if isfinite(error) else "the base has none yet"
        set_title(axes, f"{kind} error, points", base)
        _draw_panel(axes, rows, k)
    panels[0].set_yticks(range(len(rows)), [shorten(row.name, 34) for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    figure.legend(*_legend(), loc="outside lower left", ncols=3, fontsize=8.5, labelcolor=INK, edgecolor="none")
    return figure


def _draw_panel(axes: Axes, rows: Sequence[Row], k: int) -> None:
    """Draw one kind of error. A difference larger than its error is a filled circle."""
    for y, row in enumerate(rows):
        axes.axhline(y, color=FAINT, linewidth=0.6, zorder=0)
        if row.reported and (reported := (row.reported.top1, row.reported.top5)[k]) is not None:
            marker = ">" if row.reported.precision == "more than " else "D"
            axes.plot(reported, y, marker, color=THEIRS, markersize=6, markerfacecolor="white", zorder=2)
        assert row.difference is not None
        mean, error, clear = row.difference.mean[k], row.difference.standard_error[k], row.difference.clear[k]
        if not isfinite(mean):
            text = axes.text(1, y, _missing(row), ha="right", va="center", fontsize=8, color=MUTED)
            text.set(transform=axes.get_yaxis_transform(), backgroundcolor="white")
            continue
        reach = FACTOR * error if isfinite(error) else None
        face = OURS if clear else "white"
        axes.errorbar(mean, y, xerr=reach, fmt="o", color=OURS, markerfacecolor=face, markersize=6, capsize=3, zorder=3)
    axes.axvline(0, color=MUTED, linewidth=1, zorder=1)
    axes.set_xlabel("better  \N{LEFTWARDS ARROW}   difference   \N{RIGHTWARDS ARROW}  worse", fontsize=9, color=MUTED)
    bare(axes, "bottom")
    axes.tick_params(axis="y", length=0)


def _missing(row: Row) -> str:
    return "diverged" if row.num_diverged else "not measured yet"


def _legend() -> tuple[list[Line2D], list[str]]:
    def mark(marker: str, colour: str, face: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, linestyle="", markerfacecolor=face, markersize=6)

    return [mark("o", OURS, OURS), mark("o", OURS, "white"), mark("D", THEIRS, "white")], [
        f"larger than its error (bars: {FACTOR} standard errors)",
        "not larger, or unknown",
        "reported, on ImageNet (>: at least)",
    ]
