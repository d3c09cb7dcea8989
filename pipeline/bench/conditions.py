"""The conditions under which a loader is measured: which images, which settings, from memory or from the disk.

After `windows.py` and `page_cache.py`; before the measurements under them: the loader's parts (`stages.py`), another
loader (`compare.py`), training (`bottleneck.py`), other settings (`sweep.py`).
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..dataset.images import Dataset
from ..decode.resident import Resident
from ..decode.settings import Settings
from ..geometry import CROP
from ..loader import Loader
from ..machine.hardware import core_quota, memory, num_cores
from ..treatment import Treatment
from .page_cache import evict, fill
from .windows import MIN_BATCHES, Batches, Window, measure

Contents = Callable[[Loader], Batches]  # the part of a loader to measure
Progress = Callable[[str, int, int], None]  # what is measured, windows done, windows in all

ENDLESS = 100_000  # epochs: more than any window takes, and drawn one at a time
SAMPLE_BYTES = 2**30  # how much of a data set to measure on: it fits the memory of any machine
SAMPLE_BATCHES = 16  # but at least this many


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The conditions of every window: images, settings, how long and how often."""

    dataset: Dataset
    settings: Settings
    batch_size: int
    rounds: int = 5
    seconds: float = 2.0
    half: bool = False
    seed: int = 0
    crop: int = CROP
    resident: int | None = None  # bytes of the warm sample to hold in the GPU's memory, at most
    _bad: dict[str, dict[int, str]] = field(default_factory=dict, repr=False)

    def sample(self, part: int) -> Dataset:
        """Draw up to `SAMPLE_BYTES` of images at random; parts overlap only once no other images are left."""
        wanted = max(int(SAMPLE_BYTES / self.dataset.lengths.mean()), SAMPLE_BATCHES * self.batch_size)
        size = min(wanted, len(self.dataset))
        return self.dataset.subset(np.sort(self._order[np.arange(part * size, (part + 1) * size) % len(self._order)]))

    @cached_property
    def warm_sample(self) -> Dataset:
        """The images that all warm windows read; `fill` puts them into memory, as far as they fit."""
        return self.sample(0)

    @cached_property
    def num_bytes(self) -> int:
        """The size of the whole data set."""
        return int(self.dataset.lengths.sum())

    @cached_property
    def fits_in_memory(self) -> bool:
        """Whether epochs after the first can read from the page cache."""
        return self.num_bytes < memory()[0]

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.random.default_rng(self.seed).permutation(len(self.dataset))

    @cached_property
    def held(self) -> Resident | None:
        """The images of the warm sample that are held in the GPU's memory."""
        if self.resident is None:
            return None
        return Resident(self.warm_sample, torch.device(self.settings.device), self.resident, self.settings)

    def bad(self, sample: Dataset) -> dict[int, str]:
        """Unusable images of a sample, kept so that each is reported once and not in every window."""
        return self._bad.setdefault(sample.fingerprint, {})

    def fill(self) -> None:
        fill(self.warm_sample, self.settings.readers)

    def loader(self, dataset: Dataset, settings: Settings) -> Loader:
        """Make a loader with a mean image and lighting, as in training; their values do not affect the speed."""
        mean, basis = np.full((self.crop, self.crop, 3), 120, np.float32), np.eye(3, dtype=np.float32) * 10
        treatment = Treatment(mean=mean, crop=self.crop, basis=basis)
        return Loader(
            dataset,
            treatment,
            batch_size=self.batch_size,
            seed=self.seed,
            num_epochs=ENDLESS,
            settings=settings,
            bad=self.bad(dataset),
            half=self.half,
            resident=self.held if dataset is self.warm_sample else None,
        )

    def warm(self, contents: Contents, settings: Settings | None = None) -> Window:
        """Measure a window whose images are in memory, with a new loader, once it runs steadily."""
        settings = settings or self.settings
        batches = contents(self.loader(self.warm_sample, settings))
        return measure(
            batches, self.warm_sample, seconds=self.seconds, warm_up=settings.prefetch + 2, device_id=settings.gpu_id
        )

    def cold(self, contents: Contents, part: int, settings: Settings | None = None) -> tuple[Window, float | None]:
        """Measure a window whose images were dropped from memory, and end it before one of them repeats.

        Also return the share of their pages that stayed in memory, if the kernel says.
        """
        settings, sample = settings or self.settings, self.sample(part)
        stayed = evict(sample)
        loader = self.loader(sample, settings)
        warm_up = min(settings.prefetch + 2, max(len(loader) - MIN_BATCHES, 0))
        window = measure(
            contents(loader),
            sample,
            seconds=self.seconds,
            warm_up=warm_up,
            most=len(loader) - warm_up,
            device_id=settings.gpu_id,
        )
        return window, stayed


def machine(device_id: int | None) -> dict[str, Any]:
    """Describe the hardware, and the versions that matter to a loader's speed."""
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
    """The cores that this process may run on, or what control groups grant of them."""
    return min(num_cores(), core_quota())


def _version_of(start: str) -> str:
    """The version of the installed package whose name starts so: NVIDIA's names end in the CUDA version."""
    return next((d.version for d in metadata.distributions() if d.name.startswith(start)), "unknown")
