"""Which settings suit this machine: options tried one after the other, and a recommendation that was checked.

`conditions.py` sets the conditions. The values of an option take turns with the current one; only a value that was
faster in every round, and by enough, replaces it. The final settings then meet the original ones in new windows, which
had no say in the choice, and are recommended only if they win again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ..decode.settings import Settings
from .conditions import Bench, Progress
from .stages import loader_stage
from .windows import Ratio, Window, ratio, summarise, take_turns

WORTH_IT = 1.03  # a median gain below this is not worth an option
LOADS = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
FACTORS = {"threads": (0.25, 0.5, 1, 1.5, 2), "readers": (0.25, 0.5, 1, 2, 4), "prefetch": (0.5, 1, 2, 4)}


@dataclass(frozen=True)
class Point:
    """One value of one option, with the others as they were at the time."""

    option: str  # as in Settings
    value: float
    in_force: bool  # the current value when this option was tried
    images_per_second: float
    low: float
    high: float
    cores: float
    latency_ms_p99: float
    gain: Ratio  # against the current value


@dataclass(frozen=True)
class Sweep:
    """Everything that was tried, and what came out."""

    cold: bool  # measured from the disk, as training will read
    points: tuple[Point, ...]
    recommended: dict[str, float]  # the options to change; empty if no value is clearly better
    before: float  # images/s
    after: float  # images/s, in the final comparison; `before` if nothing is recommended
    gain: Ratio | None  # in that comparison; None if there was nothing to compare
    options: str  # the recommended ones, as one types them


def sweep(bench: Bench, progress: Progress) -> Sweep:
    """Try `hw_decoder_load` (on a GPU), threads, readers and prefetch, each starting from what won before."""
    cold = not bench.fits_in_memory
    bench.fill()
    settings, points = bench.settings, list[Point]()
    for option, values in candidates(settings).items():
        tried = _windows(bench, [replace(settings, **{option: v}) for v in values], cold, partial(progress, option))
        in_force = tried[values.index(getattr(settings, option))]
        points += [_point(option, value, windows, in_force) for value, windows in zip(values, tried, strict=True)]
        best = winner([ratio(windows, in_force) for windows in tried])
        if best is not None:
            settings = replace(settings, **{option: values[best]})
    return _confirm(bench, settings, cold, tuple(points), partial(progress, "the winner again"))


def candidates(settings: Settings) -> dict[str, list[Any]]:
    """Return the values of each option to try, including the current one."""
    tried: dict[str, list[Any]] = {}
    if settings.device_id is not None:
        tried["hw_decoder_load"] = sorted({*LOADS, settings.hw_decoder_load})
    for option, factors in FACTORS.items():
        now = getattr(settings, option)
        tried[option] = sorted({max(round(now * factor), 1) for factor in factors})
    return tried


def winner(gains: Sequence[Ratio]) -> int | None:
    """Return the first, so the cheapest, that is clearly better and close to the best; None if none is better."""
    better = [i for i, gain in enumerate(gains) if is_clear(gain)]
    best = max((gains[i].median for i in better), default=0)
    return next((i for i in better if gains[i].median * WORTH_IT > best), None)


def is_clear(gain: Ratio) -> bool:
    """Return whether it was faster in every round, and by enough."""
    return gain.low > 1 and gain.median > WORTH_IT


def _windows(
    bench: Bench,
    tried: Sequence[Settings],
    cold: bool,
    progress: Callable[[int, int], None],
) -> list[list[Window]]:
    parts = iter(range(1, 1_000_000))

    def window(settings: Settings) -> Window:
        return bench.cold(loader_stage, next(parts), settings)[0] if cold else bench.warm(loader_stage, settings)

    windows = take_turns({i: partial(window, s) for i, s in enumerate(tried)}, bench.rounds, progress)
    return list(windows.values())


def _point(option: str, value: float, windows: list[Window], in_force: list[Window]) -> Point:
    figures = summarise(option, windows)
    return Point(
        option,
        value,
        windows is in_force,
        figures.images_per_second,
        figures.low,
        figures.high,
        figures.cores,
        figures.latency_ms_p99,
        ratio(windows, in_force),
    )


def _confirm(
    bench: Bench, settings: Settings, cold: bool, points: tuple[Point, ...], progress: Callable[[int, int], None]
) -> Sweep:
    before = next(p.images_per_second for p in points if p.in_force)
    now, then = asdict(settings), asdict(bench.settings)
    changed = {option: now[option] for option in candidates(bench.settings) if now[option] != then[option]}
    if not changed:
        return Sweep(cold, points, {}, before, before, None, "")
    first, last = _windows(bench, [bench.settings, settings], cold, progress)
    gain, before = ratio(last, first), summarise("", first).images_per_second
    if not is_clear(gain):
        return Sweep(cold, points, {}, before, before, gain, "")
    typed = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in changed.items())
    return Sweep(cold, points, changed, before, summarise("", last).images_per_second, gain, typed)
