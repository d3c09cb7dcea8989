"""The statistics as one picture: mean image, spectrum, axes, and what lighting does to an image.

Comes after `compute.py`; nothing depends on it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from ..pipeline.files import write_figure
from .oracle import KNOWN
from .stats import RgbStats

SIGMA = 0.1  # of the lighting draw alpha; section 4.1 of the paper
STEPS = (-3, -2, -1, 0, 1, 2, 3)  # in sigmas
INK, MUTED, OURS, THEIRS = "#222222", "#767676", "#33638d", ("#a9a9a9", "#d6d6d6")


def plot_stats(stats: RgbStats, path: Path, example: NDArray[np.uint8] | None = None) -> None:
    """Draw the statistics into `path`, as PNG, PDF or SVG by its suffix."""
    write_figure(path, draw_stats(stats, example))


def draw_stats(stats: RgbStats, example: NDArray[np.uint8] | None = None) -> Figure:
    """Return the picture, which matplotlib's `savefig` writes.

    Show lighting on `example`, uint8 (256, 256, 3) RGB 0..255; without one, on the mean image, or on a ramp of greys
    if the statistics are of whole images.
    """
    figure = Figure(figsize=(12.8, 9.5), dpi=120, layout="constrained", facecolor="white")
    (top,), (bottom,) = figure.subfigures(2, 1, squeeze=False, height_ratios=[1, 1.6], hspace=0.02)
    image, spectrum, axes = top.subplots(1, 3, width_ratios=[0.85, 1.1, 1.1], gridspec_kw={"wspace": 0.08})
    _plot_mean(image, stats)
    _plot_spectrum(spectrum, stats)
    _plot_axes(axes, stats)
    _plot_lighting(bottom, stats, _background(stats) if example is None else example)
    return figure


def lit(image: NDArray[np.uint8], stats: RgbStats, axis: int, sigmas: float) -> NDArray[np.uint8]:
    """Light an image (H, W, 3) along one axis: `sigmas` sigmas of alpha, times the standard deviation."""
    shift = sigmas * SIGMA * stats.strengths("std")[axis] * stats.eigenvectors[:, axis]  # (3,) grey levels
    return _to_uint8(image + shift)


def axis_colours(stats: RgbStats, axis: int, num: int = 256, reach: float = 2.5) -> NDArray[np.uint8]:
    """Return (num, 3), the colours from `reach` standard deviations below the mean colour to as many above."""
    steps = np.linspace(-reach, reach, num)[:, None]
    return _to_uint8(stats.mean + steps * stats.strengths("std")[axis] * stats.eigenvectors[:, axis])


def _to_uint8(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _background(stats: RgbStats) -> NDArray[np.uint8]:
    if stats.mean_image is not None:
        return _to_uint8(stats.mean_image)
    return np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, 256, 3))


def _title(axes: Axes, text: str, note: str = "") -> None:
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold", color=INK, pad=22 if note else 8)
    axes.text(0, 1.035, note, transform=axes.transAxes, fontsize=8.5, color=MUTED, va="bottom")


def _signed(value: float, form: str = "d") -> str:
    return f"{value:+{form}}".replace("-", "\N{MINUS SIGN}")


def _plot_mean(axes: Axes, stats: RgbStats) -> None:
    axes.set_axis_off()
    channels = zip("RGB", stats.mean, stats.std, strict=True)
    colour = "  ".join(f"{name} {mean:.1f} ± {std:.1f}" for name, mean, std in channels)
    if stats.mean_image is None:
        axes.imshow(np.broadcast_to(_to_uint8(stats.mean), (256, 256, 3)))
        _title(axes, f"Mean colour of {stats.num_images:,} whole images", colour)
    else:
        axes.imshow(_to_uint8(stats.mean_image))
        _title(axes, f"Mean of {stats.num_images:,} images", colour)


def _plot_spectrum(axes: Axes, stats: RgbStats) -> None:
    """Draw the standard deviations along the three axes, beside those of the known constants."""
    groups = [("this data set", stats.strengths("std"), OURS)]
    groups += [(known.name, known.std, colour) for known, colour in zip(KNOWN, THEIRS, strict=True)]
    for place, (name, values, colour) in enumerate(groups):
        bars = axes.bar(np.arange(3) + 0.27 * (place - 1), values, 0.25, color=colour, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, color=INK if place == 0 else MUTED, padding=2)
    axes.set_xticks(range(3), [f"axis {i + 1}" for i in range(3)], fontsize=9, color=INK)
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(length=0)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="upper right")
    share = " / ".join(f"{part:.1%}" for part in stats.eigenvalues / max(float(stats.eigenvalues.sum()), 1e-9))
    _title(axes, "Spectrum: standard deviation in grey levels", f"share of the variance {share}")


def _plot_axes(axes: Axes, stats: RgbStats) -> None:
    """Draw each eigenvector as the colours it runs through."""
    for i in range(3):
        strip = axis_colours(stats, i)[None]  # (1, num, 3)
        axes.imshow(strip, extent=(-2.5, 2.5, 2.62 - i, 2.0 - i), aspect="auto", interpolation="nearest")
        outline = np.array([2, 2, 2.62, 2.62, 2]) - i
        axes.plot([-2.5, 2.5, 2.5, -2.5, -2.5], outline, color=MUTED, linewidth=0.6, clip_on=False)
        components = zip("RGB", stats.eigenvectors[:, i], strict=True)
        vector = ",  ".join(f"{name} {_signed(value, '.3f')}" for name, value in components)
        axes.text(-2.5, 2.68 - i, f"axis {i + 1}:  {vector}", fontsize=8.5, color=INK, va="bottom")
    axes.set(xlim=(-2.5, 2.5), ylim=(-0.05, 2.95), yticks=[], xticks=range(-2, 3))
    axes.set_xticklabels([_signed(k) if k else "mean" for k in range(-2, 3)], fontsize=8.5, color=MUTED)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _title(axes, "Eigenvectors, as colours around the mean", "a step is one standard deviation")


def _plot_lighting(figure: SubFigure, stats: RgbStats, example: NDArray[np.uint8]) -> None:
    """Draw three rows of the same image, one for each axis."""
    grid = figure.subplots(3, len(STEPS), gridspec_kw={"wspace": 0.03, "hspace": 0.0})
    shifts = SIGMA * stats.strengths("std")
    figure.suptitle(
        f"Lighting: alpha ~ N(0, {SIGMA:g}) times the standard deviation, along each axis alone",
        x=0.005,
        ha="left",
        fontsize=11,
        fontweight="bold",
        color=INK,
    )
    for i, row in enumerate(grid):
        for cell, step in zip(row, STEPS, strict=True):
            cell.imshow(lit(example, stats, i, step))
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
            if i == 0:
                cell.set_title(f"{_signed(step)} sigma" if step else "as it is", fontsize=9, color=INK, pad=4)
        row[0].set_ylabel(f"axis {i + 1}\nsigma {shifts[i]:.1f} levels", fontsize=9, color=INK)
