"""Measuring a loader: windows, contestants that take turns, and the conditions that they share.

Comes after `loader.py` and measures that very object. Here is how anything is measured; what is measured stands in
`stages.py` (the loader's parts), `compare.py` (another loader), `sweep.py` (other settings) and `bottleneck.py`
(training with it), and `bench_loader.py` puts them together. Contestants always alternate, so whatever else the
machine does meets all of them; figures are medians over rounds, ratios medians of each round's ratio.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset import Dataset
from .geometry import CROP
from .graph import Decode
from .hardware import core_quota, memory, num_cores
from .loader import Loader, Treatment
from .page_cache import evict, fill
from .stream import Settings

Batches = Generator[NDArray[np.int64], None, None]  # the images of each batch, (b,), as soon as it is there
Contents = Callable[[Loader, int], Batches]  # what is measured of a loader, over so many epochs
Progress = Callable[[str, int, int], None]  # what is measured, windows done, windows in all
Name = TypeVar("Name")

ENDLESS = 100_000  # epochs; no window reaches their end, and they are drawn one at a time
MIN_BATCHES = 3  # a window takes as many even if they outlast it
SAMPLE_BYTES = 2**30  # so much of a data set is measured on, which fits the memory of any machine
SAMPLE_BATCHES = 16  # but at least as many


@dataclass(frozen=True)
class Window:
    """One uninterrupted measurement, from the arrival of one batch to that of another."""

    images: int
    encoded_bytes: int
    seconds: float
    cpu_seconds: float  # of all threads of this process
    idle_seconds: float  # of the cores it may run on
    latencies: tuple[float, ...]  # seconds that each batch was waited for
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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The conditions of every window: images, settings, how long and how often."""

    dataset: Dataset
    settings: Settings
    batch_size: int
    rounds: int = 5
    seconds: float = 2.0
    decode: Decode = "exact"
    half: bool = False
    seed: int = 0
    _bad: dict[str, dict[int, str]] = field(default_factory=dict, repr=False)

    def sample(self, part: int) -> Dataset:
        """Up to `SAMPLE_BYTES` of images, drawn at random; parts overlap only once there are no other images left."""
        wanted = max(int(SAMPLE_BYTES / self.dataset.lengths.mean()), SAMPLE_BATCHES * self.batch_size)
        size = min(wanted, len(self.dataset))
        return self.dataset.subset(np.sort(self._order[np.arange(part * size, (part + 1) * size) % len(self._order)]))

    @cached_property
    def warm_sample(self) -> Dataset:
        """What all warm windows read; `fill` has put it into memory, as far as it fits."""
        return self.sample(0)

    @cached_property
    def num_bytes(self) -> int:
        """Of the whole data set."""
        return int(self.dataset.lengths.sum())

    @cached_property
    def fits_in_memory(self) -> bool:
        """Whether epochs after the first can read from the page cache."""
        return self.num_bytes < memory()[0]

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(len(self.dataset))

    def bad(self, sample: Dataset) -> dict[int, str]:
        """Images of a sample that could not be used, named once and not in every window."""
        return self._bad.setdefault(sample.fingerprint, {})

    def fill(self) -> None:
        fill(self.warm_sample, self.settings.readers)

    def loader(self, dataset: Dataset, settings: Settings) -> Loader:
        """With a mean image and lighting as in training; what the numbers are makes no difference to speed."""
        treatment = Treatment(mean=np.full((CROP, CROP, 3), 120, np.float32), basis=np.eye(3, dtype=np.float32) * 10)
        return Loader(dataset=dataset, treatment=treatment, batch_size=self.batch_size, seed=self.seed,
                      settings=settings, bad=self.bad(dataset), decode=self.decode, half=self.half)  # fmt: skip

    def warm(self, contents: Contents, settings: Settings | None = None) -> Window:
        """A window whose images are in memory. Each is opened anew and begins once it runs steadily."""
        settings = settings or self.settings
        batches = contents(self.loader(self.warm_sample, settings), ENDLESS)
        return measure(batches, self.warm_sample, seconds=self.seconds, warm_up=settings.prefetch + 2,
                       device_id=settings.device_id)  # fmt: skip

    def cold(self, contents: Contents, part: int, settings: Settings | None = None) -> tuple[Window, float | None]:
        """A window whose images have been dropped from memory, once through them at most; and the share of their
        pages that stayed there, if the kernel says."""
        settings, sample = settings or self.settings, self.sample(part)
        stayed = evict(sample)
        loader = self.loader(sample, settings)
        warm_up = min(settings.prefetch + 2, max(len(loader) - MIN_BATCHES, 0))
        window = measure(contents(loader, 1), sample, seconds=self.seconds, warm_up=warm_up,
                         device_id=settings.device_id)  # fmt: skip
        return window, stayed


def measure(batches: Batches, dataset: Dataset, *, seconds: float, warm_up: int,
            device_id: int | None = None) -> Window:  # fmt: skip
    """One window over `batches`, after `warm_up` of them that fill the queues; then they are closed.

    It begins and ends with the arrival of a batch. On a GPU all work asked for is waited for at both ends.
    """
    _forget_peak_rss()
    with closing(batches):
        for _ in range(warm_up):
            next(batches)
        _synchronize(device_id)
        num_images = num_bytes = 0
        latencies: list[float] = []
        cpu, idle, begin = time.process_time(), _idle_seconds(), time.perf_counter()
        now = begin
        while now - begin < seconds or len(latencies) < MIN_BATCHES:
            if (indices := next(batches, None)) is None:
                break
            before, now = now, time.perf_counter()
            latencies.append(now - before)
            num_images += len(indices)
            num_bytes += int(dataset.lengths[indices].sum())
        _synchronize(device_id)
        took, cpu, idle = time.perf_counter() - begin, time.process_time() - cpu, _idle_seconds() - idle
        gpu_bytes = _gpu_bytes(device_id)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Window(num_images, num_bytes, took, cpu, idle, tuple(latencies), peak, gpu_bytes)


def take_turns(contestants: Mapping[Name, Callable[[], Window]], rounds: int, progress: Callable[[int, int], None],
               discard: int = 1) -> dict[Name, list[Window]]:  # fmt: skip
    """`rounds` windows of each, in reverse order every other round, after `discard` rounds that do not count."""
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
    """How many times as fast as theirs ours are."""
    ratios = [a.images_per_second / b.images_per_second for a, b in zip(ours, theirs, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))


def machine(device_id: int | None) -> dict[str, Any]:
    """The hardware, and the versions that matter to a loader's speed."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())  # none on Arm
    return {
        "device": "cpu" if device_id is None else torch.cuda.get_device_name(device_id),
        "cpu": model[1] if model else platform.machine(),
        "cores": usable_cores(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "dali": _version_of("nvidia-dali-"),
        "nvimgcodec": _version_of("nvidia-nvimgcodec-"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "alexnet": _version_of("alexnet"),
    }


def usable_cores() -> float:
    """Cores, or what control groups grant of them."""
    return min(num_cores(), core_quota())


def _synchronize(device_id: int | None) -> None:
    if device_id is not None:
        torch.cuda.synchronize(device_id)


def _idle_seconds() -> float:
    """Of all cores that this process may run on, since the machine was started; waiting for a disk is idle too."""
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    return sum(int(line[4]) + int(line[5]) for line in lines if line[0] in ours) / os.sysconf("SC_CLK_TCK")


def _gpu_bytes(device_id: int | None) -> int:
    if device_id is None:
        return 0
    free, total = torch.cuda.mem_get_info(device_id)
    return total - free


def _forget_peak_rss() -> None:
    with suppress(OSError):  # where that is forbidden, the peak is that of the process's whole life
        Path("/proc/self/clear_refs").write_text("5")


def _version_of(start: str) -> str:
    """The version of the installed package whose name begins so: NVIDIA's end in the version of CUDA."""
    return next((d.version for d in metadata.distributions() if d.name.startswith(start)), "unknown")
