"""Everything that `alexnet bench-loader` finds out, as one result.

Puts together `stages.py`, `symptoms.py`, `compare.py`, `bottleneck.py` and `sweep.py`; `figures.py` draws it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from .bottleneck import Bottleneck, TrainStep, measure_bottleneck
from .compare import Comparison, compare_torch
from .conditions import Bench, Progress, machine
from .stages import PageCache, describe_dataset, measure_cold, measure_warm, verdict
from .sweep import Sweep, sweep
from .symptoms import Symptom, symptoms
from .windows import Figures


@dataclass(frozen=True)
class BenchResult:
    """One run. `stages` are the loader's parts, warm; None stands for what was not asked for."""

    stages: tuple[Figures, ...]
    cold: tuple[Figures, ...]
    page_cache: PageCache
    loader_share_of_decode: float  # median over the rounds
    verdict: str
    symptoms: tuple[Symptom, ...]
    comparison: Comparison | None
    bottleneck: Bottleneck | None
    sweep: Sweep | None
    dataset: dict[str, Any]
    config: dict[str, Any]
    machine: dict[str, Any]

    def to_json(self) -> str:
        """One object; `stages` is a list of objects with `name` and `images_per_second` among their keys."""
        return json.dumps(asdict(self))


def bench_loader(
    bench: Bench,
    *,
    compare: bool = False,
    train_step: TrainStep | None = None,
    sweeps: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> BenchResult:
    """Measure the stages from memory and from the disk, and whatever else is asked for."""
    on_gpu = bench.settings.device_id is not None
    facts = machine(bench.settings.gpu_id)  # first: measuring raises the load
    stages, share_of_decode = measure_warm(bench, progress)
    cold, cache = measure_cold(bench, progress)
    data = describe_dataset(bench)
    return BenchResult(
        stages=stages,
        cold=cold,
        page_cache=cache,
        loader_share_of_decode=share_of_decode.median,
        verdict=verdict(stages, on_gpu, facts["load"]),
        symptoms=symptoms(stages, cold, cache, on_gpu, data),
        comparison=compare_torch(bench, progress) if compare else None,
        bottleneck=measure_bottleneck(bench, train_step, progress) if train_step else None,
        sweep=sweep(bench, progress) if sweeps else None,
        dataset=data,
        config={
            "batch_size": bench.batch_size,
            "rounds": bench.rounds,
            "seconds_a_window": bench.seconds,
            "half": bench.half,
            "seed": bench.seed,
            "resident_images": len(bench.held) if bench.held else 0,
            **asdict(bench.settings),
        },
        machine=facts,
    )
