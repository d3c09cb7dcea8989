"""What one run of `loaders.py` found, as JSON and as a table."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from PIL import features

from alexnet.pipeline.bench.conditions import machine
from alexnet.pipeline.dataset.images import Dataset
from contestants import Images

PACKAGES = ("pillow", "opencv-", "ffcv", "numba", "spdl-io")  # as their names begin
COLUMNS = (
    "loader",
    "what",
    "workers",
    "images/s",
    "slowest-fastest",
    "compared with",
    "how many times as fast that is",
    "CPU ms an image, least",
    "grey levels from ours, mean / max",
)


@dataclass
class Result:
    """What was measured for one contestant. Rates are images/s of windows."""

    name: str
    what: str
    against: str  # the contestant it is compared with
    grey_levels_from_ours: dict[str, float] | None  # mean and max; None if it yields no pixels
    workers: int | None = None
    best_of_trials: dict[int, float] = field(default_factory=dict)  # number of workers -> rate
    cpu_ms_an_image: list[float] = field(default_factory=list)  # of windows in which this process did all the work
    windows: list[float] = field(default_factory=list)

    def times(self, other: Result) -> float:
        """Return how many times as fast this one is: the median over the rounds."""
        return median(ours / theirs for ours, theirs in zip(self.windows, other.windows, strict=True))


def save(folder: Path, results: dict[str, Result], datasets: Mapping[Images, Dataset], config: dict[str, Any]) -> None:
    """Write the report into `folder` and print it, with paths masked, since it will be published."""
    now = datetime.now(UTC)
    report = {
        "date": now.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/loaders.py", *(_masked(a) for a in sys.argv[1:])]),
        "machine": machine(None) | _versions(),
        "datasets": {images: _describe(dataset) for images, dataset in datasets.items()},
        "config": config,
        "contestants": [asdict(result) | _figures(result, results) for result in results.values()],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"loaders-{now:%Y-%m-%d-%H%M}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    table = _markdown(report)
    path.with_suffix(".md").write_text(table)
    print(f"\n{table}\nSaved in {path} and {path.with_suffix('.md').name}.")


def _figures(result: Result, results: dict[str, Result]) -> dict[str, float]:
    return {
        "images_per_second": median(result.windows),
        "which_is_times_as_fast": results[result.against].times(result),
        "least_cpu_ms_an_image": min(result.cpu_ms_an_image),
    }


def _masked(argument: str) -> str:
    return "PATH" if "/" in argument else argument


def _versions() -> dict[str, str | None]:
    installed = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions()}
    found = {name: version for name, version in sorted(installed.items()) if name.startswith(PACKAGES)}
    return found | {"pillow's libjpeg-turbo": features.version("libjpeg_turbo")}


def _describe(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.root.name,
        "fingerprint": dataset.fingerprint,
        "num_images": len(dataset),
        "kilobytes": dataset.lengths.mean() / 1e3,
    }


def _markdown(report: dict[str, Any]) -> str:
    facts, config = report["machine"], report["config"]
    sizes = "; ".join(
        f"{images}: {dataset['num_images']:,} images of {dataset['kilobytes']:.1f} KB on average"
        for images, dataset in report["datasets"].items()
    )
    lines = [
        f"# Loaders side by side, {report['date'][:10]}",
        "",
        f"`{report['command']}`",
        "",
        f"{facts['cpu']}, {config['cores']} cores. {sizes}. Batches of {config['batch_size']}, "
        f"{config['rounds']} windows of {config['seconds']:g} s each.",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items() if key not in ("cpu", "cores", "device")),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
        *(_row(entry) for entry in report["contestants"]),
    ]
    return "\n".join(lines) + "\n"


def _row(entry: dict[str, Any]) -> str:
    workers = "-" if entry["workers"] is None else entry["workers"]
    windows, grey = entry["windows"], entry["grey_levels_from_ours"]
    distance = "-" if grey is None else f"{grey['mean']:.3f} / {grey['max']:.0f}"
    return (
        f"| {entry['name']} | {entry['what']} | {workers} | {entry['images_per_second']:,.0f} "
        f"| {min(windows):,.0f}-{max(windows):,.0f} | {entry['against']} | {entry['which_is_times_as_fast']:.2f} "
        f"| {entry['least_cpu_ms_an_image']:.2f} | {distance} |"
    )
