"""Measuring: windows over batches, and contestants that take turns.

Contestants always alternate, so whatever else the machine does affects all of them alike. Figures are medians over
rounds, ratios medians of each round's ratio. `conditions.py` says under which conditions a loader is measured.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..dataset.images import Dataset

Batches = Generator[NDArray[np.int64], None, None]  # the images of each batch, (b,), as soon as it arrives
Name = TypeVar("Name")

MIN_BATCHES = 3  # a window takes at least this many, however long they take


@dataclass(frozen=True)
class Window:
    """One uninterrupted measurement, from the arrival of one batch to that of another."""

    images: int
    encoded_bytes: int
    seconds: float
    cpu_seconds: float  # of all threads of this process
    idle_seconds: float  # of the cores it may run on
    latencies: tuple[float, ...]  # seconds spent waiting for each batch
    peak_rss_bytes: int  # of this process since the window was opened
    gpu_bytes: int = 0  # in use on the GPU at its end, by everyone

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Figures:
    """One contestant over all its windows; rates are medians, `low` and `high` the slowest and fastest window."""

    name: str
    images_per_second: float
    low: float
    high: float
    cores: float  # CPU seconds a second
    idle_cores: float  # that nobody used
    images_per_second_per_core: float
    cores_per_1000_images_per_second: float
    encoded_megabytes_per_second: float
    latency_ms_p50: float  # from asking for a batch to having it, over all windows
    latency_ms_p99: float
    latency_ms_max: float
    latency_ms_quantiles: tuple[float, ...]  # 101: the shortest, each percent, the longest
    peak_rss_megabytes: float
    gpu_megabytes: float
    windows: tuple[float, ...]  # images/s of each

    @property
    def spread(self) -> float:
        """The distance of the slowest and fastest window, as a share of the median."""
        return (self.high - self.low) / self.images_per_second


@dataclass(frozen=True)
class Ratio:
    """How many times as fast, round by round: median, lowest, highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}..{self.high:.2f})"


def measure(
    batches: Batches, dataset: Dataset, *, seconds: float, warm_up: int, most: float = inf, device_id: int | None = None
) -> Window:
    """Measure one window over `batches`, after `warm_up` of them that fill the queues; then close them.

    The window takes up to `most` batches, and begins and ends as one arrives. More must follow: towards an end, batches
    come from full queues and look too fast. On a GPU both ends wait for all work begun.
    """
    _reset_peak_rss()
    with closing(batches):
        for _ in range(warm_up):
            next(batches)
        _synchronize(device_id)
        num_images = num_bytes = 0
        latencies: list[float] = []
        cpu, idle, begin = time.process_time(), _idle_seconds(), time.perf_counter()
        now = begin
        while len(latencies) < most and (now - begin < seconds or len(latencies) < MIN_BATCHES):
            indices = next(batches)
            before, now = now, time.perf_counter()
            latencies.append(now - before)
            num_images += len(indices)
            num_bytes += int(dataset.lengths[indices].sum())
        _synchronize(device_id)
        took, cpu, idle = time.perf_counter() - begin, time.process_time() - cpu, _idle_seconds() - idle
        gpu_bytes = _gpu_bytes(device_id)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Window(num_images, num_bytes, took, cpu, idle, tuple(latencies), peak, gpu_bytes)


def take_turns(
    contestants: Mapping[Name, Callable[[], Window]],
    rounds: int,
    progress: Callable[[int, int], None],
    discard: int = 1,
) -> dict[Name, list[Window]]:
    """Measure `rounds` windows of each, reversing the order every round, after `discard` rounds that do not count."""
    windows: dict[Name, list[Window]] = {name: [] for name in contestants}
    done, total = 0, (discard + rounds) * len(contestants)
    for turn in range(discard + rounds):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            window = contestants[name]()
            if turn >= discard:
                windows[name].append(window)
            done += 1
            progress(done, total)
    return windows


def summarise(name: str, windows: Sequence[Window]) -> Figures:
    rates = [window.images_per_second for window in windows]
    cpu_an_image = median(window.cpu_seconds / window.images for window in windows)
    latencies_ms = 1e3 * np.concatenate([window.latencies for window in windows])
    quantiles = np.percentile(latencies_ms, np.arange(101)).tolist()
    return Figures(
        name=name,
        images_per_second=median(rates),
        low=min(rates),
        high=max(rates),
        cores=median(window.cpu_seconds / window.seconds for window in windows),
        idle_cores=median(window.idle_seconds / window.seconds for window in windows),
        images_per_second_per_core=1 / cpu_an_image,
        cores_per_1000_images_per_second=1000 * cpu_an_image,
        encoded_megabytes_per_second=median(w.encoded_bytes / w.seconds for w in windows) / 1e6,
        latency_ms_p50=quantiles[50],
        latency_ms_p99=quantiles[99],
        latency_ms_max=quantiles[100],
        latency_ms_quantiles=tuple(round(q, 3) for q in quantiles),
        peak_rss_megabytes=max(window.peak_rss_bytes for window in windows) / 1e6,
        gpu_megabytes=max(window.gpu_bytes for window in windows) / 1e6,
        windows=tuple(rates),
    )


def ratio(ours: Sequence[Window], theirs: Sequence[Window]) -> Ratio:
    """Return how many times as fast ours are as theirs."""
    ratios = [a.images_per_second / b.images_per_second for a, b in zip(ours, theirs, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def _synchronize(device_id: int | None) -> None:
    if device_id is not None:
        torch.cuda.synchronize(device_id)


def _idle_seconds() -> float:
    """Idle time of all cores that this process may run on, since boot; waiting for a disk is idle too."""
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    return sum(int(line[4]) + int(line[5]) for line in lines if line[0] in ours) / os.sysconf("SC_CLK_TCK")


def _gpu_bytes(device_id: int | None) -> int:
    if device_id is None:
        return 0
    free, total = torch.cuda.mem_get_info(device_id)
    return total - free


def _reset_peak_rss() -> None:
    with suppress(OSError):  # if that is forbidden, the peak covers the life of the process
        Path("/proc/self/clear_refs").write_text("5")
