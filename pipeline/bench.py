"""How fast the loader is, stage by stage, and which stage holds it back.

Comes after `loader.py` and measures that very object, in four stages:

    read       encoded bytes and their headers, by the loader's own reader threads; nothing is decoded
    decode     whole images read and decoded by DALI, nothing else: the usual ceiling of a loader
    pipeline   the training graph, its batches left inside DALI
    loader     what training iterates: batches as torch tensors on the trainer's device

(A loader may pass "decode": it decodes only the part of an image that its crop needs.) The stages take turns,
so whatever else the machine does meets all of them. `benchmarks/` measures other loaders beside this one.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset import Dataset, cache_folder, open_dataset
from .generate import GENERATOR, generate_flat
from .geometry import CROP
from .graph import IMAGE_INPUTS, Decode, image_graph
from .hardware import num_cores
from .loader import Loader, Treatment
from .stream import BadImage, ImageStream, Settings, read_image

StageName = Literal["read", "decode", "pipeline", "loader"]
Batches = Generator[NDArray[np.int64], None, None]  # the images of each batch, (b,), as soon as it is there
Progress = Callable[[int, int, str], None]  # windows done, windows in all, the latest figure in words

STAGES: tuple[StageName, ...] = ("read", "decode", "pipeline", "loader")
EPOCHS_A_WINDOW = 100_000  # no window reaches their end; they are drawn one at a time
MIN_BATCHES = 3  # a window takes as many even if they outlast it
SIZED_IMAGES = 256  # as many are looked at for the mean size
NEAR = 0.9  # rates closer than this count as alike
UNQUIET = 0.3  # windows further apart than this, as a share of the median, are worth a warning


@dataclass(frozen=True)
class Window:
    """One uninterrupted measurement, from the arrival of one batch to that of another."""

    images: int
    encoded_bytes: int
    seconds: float
    cpu_seconds: float  # of all threads of this process
    latencies: tuple[float, ...]  # seconds that each batch was waited for
    peak_rss_bytes: int  # of this process since the stage was opened

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Stage:
    """One stage over all its windows; rates are medians, `low` and `high` the slowest and fastest window."""

    name: StageName
    images_per_second: float
    low: float
    high: float
    cores: float  # CPU seconds a second
    images_per_second_per_core: float
    cores_per_1000_images_per_second: float
    encoded_megabytes_per_second: float
    latency_ms_p50: float  # from asking for a batch to having it, over all windows
    latency_ms_p99: float
    latency_ms_max: float
    peak_rss_megabytes: float
    windows: tuple[float, ...]  # images/s of each

    @property
    def spread(self) -> float:
        """The distance of the slowest and fastest window, as a share of the median."""
        return (self.high - self.low) / self.images_per_second


@dataclass(frozen=True)
class BenchResult:
    """Everything one run of `bench_loader` found."""

    stages: tuple[Stage, ...]
    loader_share_of_decode: float  # median over the rounds
    verdict: str
    dataset: dict[str, Any]
    config: dict[str, Any]
    machine: dict[str, Any]

    def to_json(self) -> str:
        """One object; `stages` is a list of objects with `name` and `images_per_second` among their keys."""
        return json.dumps(asdict(self), indent=2)


def bench_loader(dataset: Dataset, *, settings: Settings, batch_size: int, rounds: int = 5,
                 seconds: float = 2.0, decode: Decode = "exact", half: bool = False, seed: int = 0,
                 treatment: Treatment | None = None, progress: Progress | None = None) -> BenchResult:  # fmt: skip
    """Measure every stage in `rounds` windows of `seconds` each, after one of each that does not count.

    Stages alternate, in reverse order every other round. Each window opens its stage anew, waits until it
    runs steadily, and has epochs of its own: no stage finds files in memory because another has read them.
    """
    load = os.getloadavg()[0]
    loader = Loader(dataset=dataset, treatment=treatment or _plain_treatment(), batch_size=batch_size,
                    seed=seed, settings=settings, bad={}, decode=decode, half=half)  # fmt: skip
    windows: dict[StageName, list[Window]] = {name: [] for name in STAGES}
    total = (rounds + 1) * len(STAGES)
    for done in range(total):
        turn, place = divmod(done, len(STAGES))
        name = STAGES[place if turn % 2 == 0 else -1 - place]
        epochs = list(range(done * EPOCHS_A_WINDOW, (done + 1) * EPOCHS_A_WINDOW))
        window = measure(_batches(name, loader, epochs), dataset, seconds=seconds,
                         warm_up=settings.prefetch + 2, device_id=settings.device_id)  # fmt: skip
        if turn > 0:
            windows[name].append(window)
        if progress is not None:
            progress(done + 1, total, f"{name} {window.images_per_second:,.0f} images/s")
    stages = tuple(_stage(name, windows[name]) for name in STAGES)
    pairs = zip(windows["loader"], windows["decode"], strict=True)
    return BenchResult(
        stages=stages,
        loader_share_of_decode=median(a.images_per_second / b.images_per_second for a, b in pairs),
        verdict=verdict(stages, on_gpu=settings.device_id is not None),
        dataset=_describe_dataset(loader),
        config={"batch_size": batch_size, "rounds": rounds, "seconds_a_window": seconds, "decode": decode,
                "half": half, "seed": seed, **asdict(settings)},
        machine=machine(settings.device_id) | {"load_before": load},
    )  # fmt: skip


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
        cpu, begin = time.process_time(), time.perf_counter()
        now = begin
        while now - begin < seconds or len(latencies) < MIN_BATCHES:
            indices = next(batches)
            before, now = now, time.perf_counter()
            latencies.append(now - before)
            num_images += len(indices)
            num_bytes += int(dataset.lengths[indices].sum())
        _synchronize(device_id)
        took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Window(num_images, num_bytes, took, cpu, tuple(latencies), peak)


def generated_dataset(count: int = 2000, seed: int = 0, *,
                      progress: Callable[[int, int], None] | None = None) -> Dataset:  # fmt: skip
    """`count` JPEGs of ImageNet's sizes, made once in the cache folder, for machines without a data set."""
    root = cache_folder() / "bench-jpegs" / f"{count}-seed{seed}-v{GENERATOR}"
    return open_dataset(generate_flat(root, count, seed, progress=progress), "train")


def machine(device_id: int | None) -> dict[str, Any]:
    """The hardware, and the versions that matter to a loader's speed."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())  # none on Arm
    return {
        "device": "cpu" if device_id is None else torch.cuda.get_device_name(device_id),
        "cpu": model[1] if model else platform.machine(),
        "cores": num_cores(),
        "python": platform.python_version(),
        "dali": _version_of("nvidia-dali-"),
        "nvimgcodec": _version_of("nvidia-nvimgcodec-"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "alexnet": _version_of("alexnet"),
    }


def verdict(stages: Sequence[Stage], on_gpu: bool) -> str:
    """Which stage holds the loader back, in plain words.

    On a processor stages are told apart by the processor time an image takes: neighbours do not disturb it.
    """
    named = {stage.name: stage for stage in stages}
    rates = {s.name: s.images_per_second if on_gpu else s.images_per_second_per_core for s in stages}
    if named["loader"].images_per_second > NEAR * named["read"].images_per_second:
        words = "Reading is the bottleneck: faster storage, or more memory to keep files in, would help."
    elif rates["loader"] < NEAR * rates["pipeline"]:
        words = "Handing batches to torch is the bottleneck: DALI has them ready sooner."
    elif rates["loader"] < NEAR * rates["decode"]:
        words = "Resampling is the bottleneck: decoding alone takes less."
    else:
        words = "Decoding is the bottleneck: smaller images, more cores or a GPU that decodes would help."
    words += f" The loader uses {named['loader'].cores:.1f} of {num_cores()} cores."
    if (spread := max(stage.spread for stage in stages)) > UNQUIET:
        words += f" The machine was not quiet: windows of one stage differ by up to {spread:.0%}."
    return words


def _batches(name: StageName, loader: Loader, epochs: list[int]) -> Batches:
    """The stage itself: the images of every batch, as soon as it has gone through."""
    if name == "loader":
        for batch in loader.batches(epochs[0], 0, epochs[-1] + 1, lit=lambda _: True):
            batch.images[:, :, 0, 0].sum()  # one pixel of each image, so that they are really there
            yield batch.indices
        return
    with _whole_images(loader, epochs) if name == "decode" else loader.stream(epochs, 0, lit=True) as stream:
        for feed in iter(stream.take, None) if name == "read" else (feed for _, feed in stream):
            yield feed.indices


def _whole_images(loader: Loader, epochs: list[int]) -> ImageStream:
    requests, build = loader.requests(epochs, 0, lit=True), partial(image_graph, decode=loader.decode)
    return ImageStream(loader.dataset, requests, build, IMAGE_INPUTS, batch_size=loader.batch_size, crop=None,
                       on_bad="replace", settings=loader.settings, bad=loader.bad)  # fmt: skip


def _plain_treatment() -> Treatment:
    """A mean image and lighting as in training; what the numbers are makes no difference to speed."""
    return Treatment(mean=np.full((CROP, CROP, 3), 120, np.float32), basis=np.eye(3, dtype=np.float32) * 10)


def _stage(name: StageName, windows: list[Window]) -> Stage:
    rates = [window.images_per_second for window in windows]
    cpu_an_image = median(window.cpu_seconds / window.images for window in windows)
    latencies_ms = 1e3 * np.concatenate([window.latencies for window in windows])
    p50, p99, worst = np.percentile(latencies_ms, (50, 99, 100)).tolist()
    return Stage(
        name=name,
        images_per_second=median(rates),
        low=min(rates),
        high=max(rates),
        cores=median(window.cpu_seconds / window.seconds for window in windows),
        images_per_second_per_core=1 / cpu_an_image,
        cores_per_1000_images_per_second=1000 * cpu_an_image,
        encoded_megabytes_per_second=median(w.encoded_bytes / w.seconds for w in windows) / 1e6,
        latency_ms_p50=p50,
        latency_ms_p99=p99,
        latency_ms_max=worst,
        peak_rss_megabytes=max(window.peak_rss_bytes for window in windows) / 1e6,
        windows=tuple(rates),
    )


def _describe_dataset(loader: Loader) -> dict[str, Any]:
    """What was read; sizes are means, the megapixels those of a sample."""
    dataset = loader.dataset
    pixels = []
    for i in np.unique(np.linspace(0, len(dataset) - 1, SIZED_IMAGES).astype(int)):
        with suppress(BadImage):
            _, (height, width) = read_image(dataset, int(i), loader.settings.max_pixels)
            pixels.append(height * width)
    return {
        "root": str(dataset.root),
        "fingerprint": dataset.fingerprint,
        "num_images": len(dataset),
        "num_bad": len(loader.bad),
        "image_kilobytes": float(dataset.lengths.mean()) / 1e3,
        "image_megapixels": float(np.mean(pixels)) / 1e6,
    }


def _synchronize(device_id: int | None) -> None:
    if device_id is not None:
        torch.cuda.synchronize(device_id)


def _forget_peak_rss() -> None:
    with suppress(OSError):  # where that is forbidden, the peak is that of the process's whole life
        Path("/proc/self/clear_refs").write_text("5")


def _version_of(start: str) -> str:
    """The version of the installed package whose name begins so: NVIDIA's end in the version of CUDA."""
    return next((d.version for d in metadata.distributions() if d.name.startswith(start)), "unknown")
