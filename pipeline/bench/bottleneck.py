"""Is loading the bottleneck? The training step on a cached batch, the loader alone, and both together, in turns.

`conditions.py` sets the conditions. The step comes in as a function: this package knows nothing of training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from ..loader import Batch, Loader, SyntheticLoader
from .conditions import Bench, Progress
from .stages import loader_stage
from .windows import Batches, Figures, Ratio, Window, ratio, summarise, take_turns

TrainStep = Callable[[Batch], object]
NO_LOSS = 0.02  # training may be slower by this before loading is to blame


@dataclass(frozen=True)
class Bottleneck:
    """Rates of the three, and where a step's time goes when both run together."""

    step: Figures  # on a cached batch
    loader: Figures  # alone
    together: Figures
    speed_kept: Ratio  # together against the cached batch
    waiting: float  # share of the time together that was spent waiting for a batch
    verdict: str


def measure_bottleneck(bench: Bench, train_step: TrainStep, progress: Progress) -> Bottleneck:
    """Measure training as it is, beside training whose data is free."""
    bench.fill()
    batch = next(iter(bench.loader(bench.warm_sample, bench.settings)))
    cached = replace(batch, images=batch.images.clone())  # out of DALI's memory
    waits: list[float] = []  # share of each window
    contestants: dict[str, Callable[[], Window]] = {
        "step": partial(bench.warm, partial(_cached_steps, train_step, cached)),
        "loader": partial(bench.warm, loader_stage),
        "together": partial(_together, bench, train_step, waits),
    }
    windows = take_turns(contestants, bench.rounds, partial(progress, "training step"))
    step, loader, together = (summarise(name, windows[name]) for name in contestants)
    kept, waiting = ratio(windows["together"], windows["step"]), median(waits[-bench.rounds :])
    return Bottleneck(step, loader, together, kept, waiting, verdict(kept, waiting, step, loader))


def verdict(kept: Ratio, waiting: float, step: Figures, loader: Figures) -> str:
    """The answer in plain words."""
    speed = (
        f"training with it has {kept.median:.0%} of the speed it has when data is free, and waits for batches "
        f"{waiting:.0%} of the time"
    )
    if kept.median >= 1 - NO_LOSS:
        return f"Loading is not the bottleneck: {speed}."
    if kept.high >= 1:
        return f"It is unclear whether loading is the bottleneck: {speed}, but rounds differ by more."
    if loader.images_per_second < step.images_per_second:
        why = "alone the loader is slower than the step"
    else:
        why = "alone the loader is fast enough, but the two compete for the same cores"
    return f"Loading is the bottleneck: {speed}; {why}."


def _cached_steps(train_step: TrainStep, cached: Batch, loader: Loader) -> Batches:
    for batch in SyntheticLoader(cached, len(loader), loader.num_epochs):
        train_step(batch)
        yield batch.indices


def _together(bench: Bench, train_step: TrainStep, waits: list[float]) -> Window:
    """Measure a window of training; append the share of it that was spent waiting for batches to `waits`."""
    waited: list[float] = []  # of each step

    def steps(loader: Loader) -> Batches:
        for batch in _timed(iter(loader), waited):
            train_step(batch)
            yield batch.indices

    window = bench.warm(steps)
    waits.append(sum(waited[-len(window.latencies) :]) / window.seconds)
    return window


def _timed(batches: Iterator[Batch], waited: list[float]) -> Iterator[Batch]:
    """Pass the batches on, and note in `waited` how long each took to come."""
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        waited.append(time.perf_counter() - asked)
        yield batch
