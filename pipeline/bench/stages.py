"""The loader stage by stage, from memory and from the disk, and which stage holds it back.

    read       encoded bytes and their headers, by the loader's own reader threads; nothing is decoded
    decode     whole images read and decoded, nothing else: the usual ceiling of a loader
    pipeline   the training graph, its batches left inside DALI: on a GPU all that is done to an image, on a CPU the
               regions that crops need, decoded; of coefficients, of which DALI sees nothing, the crops' levels
    loader     what training iterates: batches as torch tensors on the trainer's device, on a CPU now resampled

Warm, every image is in the page cache; cold, none is. All windows are measured as `conditions.py` says; `result.py`
puts these beside the other measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Literal

import numpy as np

from ..decode.bad_images import BadImage
from ..decode.graph import IMAGE_INPUTS, image_graph
from ..decode.read import read_image
from ..decode.stream import ImageStream
from ..decode.tensors import decoder_arguments, resampled
from ..geometry import SHORT_SIDE
from ..loader import Loader
from ..machine.hardware import memory
from .conditions import Bench, Progress, usable_cores
from .page_cache import file_system, resident_share
from .windows import Batches, Figures, Ratio, Window, ratio, summarise, take_turns

SIZED_IMAGES = 256  # how many to look at for the mean size
NEAR = 0.9  # rates closer than this count as alike
NOISY = 0.3  # warn if windows are this far apart (share of the median) or this share of the cores is busy

Limit = Literal["reading", "decoding", "resampling", "hand-off"]
LIMITS: dict[Limit, str] = {
    "reading": "Reading is the bottleneck, even from memory",
    "decoding": "Decoding is the bottleneck",
    "resampling": "Resampling is the bottleneck",
    "hand-off": "Handing batches to torch is the bottleneck: DALI has them ready sooner",
}


@dataclass(frozen=True)
class PageCache:
    """Where the images were in each window: shares of their pages in memory, None if the kernel did not say."""

    file_system: str
    resident_warm: float | None  # after all of them were read
    resident_cold: float | None  # after all were dropped, in the worst of the windows
    data_gigabytes: float  # of the whole data set
    free_gigabytes: float  # of memory
    fits: bool  # can epochs after the first read from memory?


def read_stage(loader: Loader) -> Batches:
    with loader.stream(range(loader.num_epochs), 0, lit=True) as stream:
        for feed in iter(stream.take, None):
            yield feed.indices


def decode_stage(loader: Loader) -> Batches:
    requests = loader.requests(range(loader.num_epochs), 0, lit=True)
    build = partial(image_graph, **decoder_arguments(loader.dataset, loader.settings))
    on_gpu = loader.settings.on_gpu and loader.dataset.stored == "dct"  # by kernels that make crops: here, of all
    stream = ImageStream(
        loader.dataset,
        (replace(request, crops=np.zeros_like(request.crops)) for request in requests),
        build,
        IMAGE_INPUTS,
        batch_size=loader.batch_size,
        crop=SHORT_SIDE if on_gpu else None,
        on_bad="replace",
        settings=loader.settings,
        bad=loader.bad,
        resident=loader.resident if on_gpu else None,
    )
    batches: Any = resampled(stream, SHORT_SIDE, loader.settings) if on_gpu else stream
    with stream, closing(batches):
        for _, feed in batches:
            yield feed.indices


def pipeline_stage(loader: Loader) -> Batches:
    if loader.dataset.stored == "dct":
        for batch, _ in loader.levels():
            yield batch.indices
        return
    with loader.stream(range(loader.num_epochs), 0, lit=True) as stream:
        for _, feed in stream:
            yield feed.indices


def loader_stage(loader: Loader) -> Batches:
    for batch in loader:
        batch.images[:, :, 0, 0].sum()  # touch a pixel of each image, to be sure that they are there
        yield batch.indices


STAGES = {"read": read_stage, "decode": decode_stage, "pipeline": pipeline_stage, "loader": loader_stage}
COLD_STAGES = ("read", "loader")  # to those between, it makes no difference where the bytes came from


def measure_warm(bench: Bench, progress: Progress) -> tuple[tuple[Figures, ...], Ratio]:
    """Measure every stage, and how fast the loader is relative to decoding alone."""
    bench.fill()
    contestants = {name: partial(bench.warm, contents) for name, contents in STAGES.items()}
    windows = take_turns(contestants, bench.rounds, partial(progress, "stages"))
    figures = tuple(summarise(name, windows[name]) for name in STAGES)
    return figures, ratio(windows["loader"], windows["decode"])


def measure_cold(bench: Bench, progress: Progress) -> tuple[tuple[Figures, ...], PageCache]:
    """Measure the stages that wait for the disk, each window on images of its own if there are enough."""
    warm, parts, stayed = resident_share(bench.warm_sample), count(1), []

    def window(name: str) -> Window:
        taken, left = bench.cold(STAGES[name], next(parts))
        stayed.append(left)
        return taken

    windows = take_turns(
        {name: partial(window, name) for name in COLD_STAGES},
        bench.rounds,
        partial(progress, "from the disk"),
        discard=0,
    )
    known = [share for share in stayed if share is not None]
    cache = PageCache(
        file_system=file_system(bench.dataset.root),
        resident_warm=warm,
        resident_cold=max(known) if known else None,
        data_gigabytes=bench.num_bytes / 1e9,
        free_gigabytes=memory()[0] / 1e9,
        fits=bench.fits_in_memory,
    )
    return tuple(summarise(name, windows[name]) for name in COLD_STAGES), cache


def limit(stages: Sequence[Figures], on_gpu: bool) -> Limit:
    """Say what holds the loader back when it reads from memory.

    On a GPU that is the first part that is no faster than the whole; on a CPU, the part that takes most of its time.
    """
    speed = {s.name: s.images_per_second for s in stages}
    if speed["loader"] > NEAR * speed["read"]:
        return "reading"
    if not on_gpu:
        shares = processor_shares(stages)
        return max(shares, key=lambda part: shares[part])
    if speed["loader"] < NEAR * speed["pipeline"]:
        return "hand-off"
    return "resampling" if speed["loader"] < NEAR * speed["decode"] else "decoding"


def processor_shares(stages: Sequence[Figures]) -> dict[Limit, float]:
    """Return shares of the loader's processor time on a CPU, largest first. Other processes disturb rates far more."""
    cost = {s.name: s.cores_per_1000_images_per_second for s in stages}
    parts: dict[Limit, float] = {
        "reading": cost["read"],
        "decoding": max(cost["pipeline"] - cost["read"], 0),
        "resampling": max(cost["loader"] - cost["pipeline"], 0),
    }
    return {part: parts[part] / sum(parts.values()) for part in sorted(parts, key=lambda part: -parts[part])}


def verdict(stages: Sequence[Figures], on_gpu: bool, load: float) -> str:
    """Put the limit into words; `load` is how many other processes wanted a core before the start."""
    words, spread = LIMITS[limit(stages, on_gpu)], max(stage.spread for stage in stages)
    if not on_gpu:
        shares = (f"{part} {share:.0%}" for part, share in processor_shares(stages).items())
        words += f"; processor time: {', '.join(shares)}"
    if spread > NOISY or load > NOISY * usable_cores():
        words += (
            f". The machine was not quiet: a load of {load:.1f} before the start, "
            f"windows of one stage up to {spread:.0%} apart"
        )
    return words + "."


def describe_dataset(bench: Bench) -> dict[str, Any]:
    """Describe what was read; sizes are means, the megapixels over some of the images."""
    dataset, sample, pixels = bench.dataset, bench.warm_sample, []
    for i in np.unique(np.linspace(0, len(sample) - 1, SIZED_IMAGES).astype(int)):
        with suppress(BadImage):
            _, (height, width) = read_image(sample, int(i), bench.settings.max_pixels)
            pixels.append(height * width)
    return {
        "root": dataset.where,
        "fingerprint": dataset.fingerprint,
        "num_images": len(dataset),
        "num_sampled": len(sample),
        "num_bad": len(bench.bad(sample)),
        "raw": dataset.stored == "raw",
        "stored": dataset.stored,
        "image_kilobytes": float(dataset.lengths.mean()) / 1e3,
        "image_megapixels": float(np.mean(pixels)) / 1e6,
    }
