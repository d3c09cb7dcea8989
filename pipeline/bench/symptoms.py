"""Which options would make the loader faster, judging by its measurements.

`stages.py` provides the figures; `result.py` keeps the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .conditions import usable_cores
from .stages import NEAR, Limit, PageCache, limit
from .windows import Figures

PACKED_MEGAPIXELS = 0.07  # more than the 256-squares that `alexnet pack` makes
UNEVEN = 3  # times the median: how long one batch in a hundred may take


@dataclass(frozen=True)
class Symptom:
    """A sign that something holds the loader back, whether it is present, and which options help."""

    where: str
    sign: str
    measured: str
    present: bool
    options: str


def symptoms(
    stages: Sequence[Figures], cold: Sequence[Figures], cache: PageCache, on_gpu: bool, data: Mapping[str, Any]
) -> tuple[Symptom, ...]:
    """Return every symptom, present or not: disk, CPU, GPU, hand-off; `data` is what `describe_dataset` returns."""
    warm, held_by = {s.name: s for s in stages}, limit(stages, on_gpu)
    read_from_disk = next(s for s in cold if s.name == "read")
    large = data["image_megapixels"] > PACKED_MEGAPIXELS
    less_decoding = {
        "encoded": ("`alexnet pack --dct`", "--decode fast"),
        "dct": ("`alexnet pack --raw`",),
        "raw": (),
    }[data["stored"]]
    smaller = {"encoded": "`alexnet pack`" if large else "", "dct": "`alexnet pack`", "raw": "`alexnet pack --dct`"}
    return (
        *_disk_symptoms(warm, read_from_disk, cache, held_by, smaller[data["stored"]]),
        *_processor_symptoms(warm["loader"], held_by, on_gpu, less_decoding),
        *_hand_off_symptoms(warm, held_by, on_gpu),
    )


def _disk_symptoms(
    warm: Mapping[str, Figures], read: Figures, cache: PageCache, held_by: Limit, smaller: str
) -> tuple[Symptom, ...]:
    rate = f"{warm['loader'].images_per_second:,.0f}"
    again = "later epochs are in memory" if cache.fits else "in every epoch, as memory is too small"
    return (
        Symptom(
            "disk",
            "reading from the disk is no faster than the loader",
            f"{read.images_per_second:,.0f} against {rate} images/s; {again}",
            read.images_per_second < warm["loader"].images_per_second / NEAR,
            _options("more --readers", smaller, "" if cache.fits else "more memory"),
        ),
        Symptom(
            "disk",
            "reading from memory is no faster than the loader",
            f"{warm['read'].images_per_second:,.0f} against {rate} images/s",
            held_by == "reading",
            "other --readers, by --sweep",
        ),
    )


def _processor_symptoms(
    loader: Figures, held_by: Limit, on_gpu: bool, less_decoding: Sequence[str]
) -> tuple[Symptom, ...]:
    """Symptoms of the CPU's cores, and of a GPU that they wait for."""
    cores = usable_cores()
    idle = max(min(loader.idle_cores, cores - loader.cores), 0)
    waits_idle = held_by in ("decoding", "resampling") and idle > (1 - NEAR) * cores
    return (
        Symptom(
            "CPU",
            "no core is idle",
            f"{idle:.1f} of {cores:g} cores idle, the loader uses {loader.cores:.1f}",
            idle <= (1 - NEAR) * cores,
            _options(*less_decoding, "more --hw-decoder-load" if on_gpu else "--device gpu"),
        ),
        Symptom(
            "CPU",
            "cores are idle, and no GPU decodes",
            f"{idle:.1f} of {cores:g} cores idle",
            waits_idle and not on_gpu,
            "more --threads",
        ),
        Symptom(
            "GPU",
            "cores are idle, so the loader waits for the GPU",
            f"{idle:.1f} of {cores:g} cores idle" if on_gpu else "no GPU in use",
            waits_idle and on_gpu,
            "other --hw-decoder-load, by --sweep; more --threads",
        ),
    )


def _hand_off_symptoms(warm: Mapping[str, Figures], held_by: Limit, on_gpu: bool) -> tuple[Symptom, ...]:
    loader = warm["loader"]
    rate = f"{loader.images_per_second:,.0f}"
    return (
        Symptom(
            "hand-off",
            "DALI alone is faster than the loader",
            f"{warm['pipeline'].images_per_second:,.0f} against {rate} images/s" if on_gpu else "no GPU in use",
            held_by == "hand-off",
            "more --prefetch; a larger --batch-size",
        ),
        Symptom(
            "hand-off",
            f"one batch in a hundred takes over {UNEVEN} times as long as the median",
            f"{loader.latency_ms_p99:.0f} against {loader.latency_ms_p50:.0f} ms",
            loader.latency_ms_p99 > UNEVEN * loader.latency_ms_p50,
            "more --prefetch",
        ),
    )


def _options(*options: str) -> str:
    return "; ".join(option for option in options if option)
