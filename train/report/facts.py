"""What a run folder says of its run: configuration, departures from the preset, machines, speed, what went wrong.

After `history.py` and `starts.py`, which wrote it; `page.py` prints it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ...pca.stats import RgbStats
from ...pipeline.errors import UserError
from ..config import Config
from ..history import CONFIG, METRICS, STATS, Record, read_records
from ..starts import Start, read_starts


@dataclass(frozen=True)
class Departure:
    """A setting that is not the preset's."""

    setting: str
    value: Any
    preset_value: Any
    help: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A run, as its folder tells it. Errors are shares, times seconds."""

    folder: Path
    config: Config
    departures: list[Departure]
    windows: list[Record]  # of training steps, oldest first
    validations: list[Record]
    warnings: list[str]
    bad_images: dict[str, str]  # of the training set, with reasons
    starts: list[Start]
    stats: RgbStats | None

    @property
    def epochs_done(self) -> int:
        return len(self.validations)

    @property
    def finished(self) -> bool:
        return self.epochs_done == self.config.epochs

    @property
    def images_per_second(self) -> float:
        """The median over the windows."""
        return median(window["images_per_second"] for window in self.windows)

    @property
    def waiting(self) -> float:
        """The share of the time in which training waited for images."""
        seconds = _seconds_of(self.windows, self.config.batch_size)
        waited = sum(s * window["waiting"] for s, window in zip(seconds, self.windows, strict=True))
        return waited / max(sum(seconds), 1e-9)

    @property
    def training_seconds(self) -> float:
        """Without validation, statistics, and time in which the run was not running or that it repeated."""
        return sum(_seconds_of(self.windows, self.config.batch_size))

    @property
    def validation_seconds(self) -> float:
        return sum(record.get("seconds", 0) for record in self.validations)


def read_run(folder: Path) -> Facts:
    """Read a run folder; UserError if it holds none, or none that has begun."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no {CONFIG}. Give what `train --run` was given.")
    config = Config.from_json((folder / CONFIG).read_text())
    records = list(read_records(folder / METRICS))
    windows = [r for r in records if r["kind"] == "train"]
    if not windows:
        raise UserError(f"{folder / METRICS} has no step of training yet: let the run begin first.")
    return Facts(
        folder=folder,
        config=config,
        departures=departures(config),
        windows=windows,
        validations=[r for r in records if r["kind"] == "val"],
        warnings=[r["text"] for r in records if r["kind"] == "warning"],
        bad_images={name: why for r in windows for name, why in r.get("new_bad_images", {}).items()},
        starts=read_starts(folder),
        stats=RgbStats.load(folder / STATS) if (folder / STATS).exists() else None,
    )


def departures(config: Config) -> list[Departure]:
    """Return the settings whose values are not those of the configuration's preset, in the order of `Config`."""
    ours, preset = asdict(config), asdict(Config.from_preset(config.preset))
    return [
        Departure(f.name, ours[f.name], preset[f.name], f.metadata["help"], f.metadata["source"])
        for f in fields(Config)
        if ours[f.name] != preset[f.name]
    ]


def duration(seconds: float) -> str:
    """A length of time for people."""
    minutes, hours = round(seconds / 60), seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _seconds_of(windows: Sequence[Record], batch_size: int) -> list[float]:
    """The length of each window, from its steps and its images per second."""
    places = [(w["epoch"] * w["steps_per_epoch"] + w["step"]) for w in windows]
    steps = [later - earlier for earlier, later in pairwise([0, *places])]
    return [n * batch_size / w["images_per_second"] for n, w in zip(steps, windows, strict=True)]
