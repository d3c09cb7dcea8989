"""Who takes part: functions that turn a job into batches. `README.md` says more about each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from job import Batches, Job

Images = Literal["original", "pack", "dct", "dct-420", "raw"]  # files as they are, or what `alexnet pack` makes of them
OURS: dict[Images, str] = {
    "original": "alexnet",
    "pack": "alexnet-pack",
    "dct": "alexnet-dct",
    "dct-420": "alexnet-dct-420",
    "raw": "alexnet-raw",
}


@dataclass(frozen=True)
class Contestant:
    """One way to load images. Its module is imported only when needed: not everyone has all packages."""

    what: str
    module: str
    function: str = "run"
    images: Images = "original"
    workers: Literal["processes", "threads"] | None = None  # of which the best number is found
    against: str | None = None  # the contestant to compare with; None: ours, on the same images

    @property
    def rival(self) -> str:
        return self.against or OURS[self.images]

    def counts(self, cores: int) -> list[int]:
        """Return the numbers of workers to try."""
        if self.workers is None:
            return []
        return sorted({0, 1, 2, cores} if self.workers == "processes" else {1, 2, cores})

    def load(self) -> Callable[[Job], Batches]:
        """Return its function. Raises ImportError or RuntimeError if something is not installed."""
        function: Callable[[Job], Batches] = getattr(importlib.import_module(self.module), self.function)
        return function


CONTESTANTS = {
    "alexnet": Contestant("this project's loader, DALI on the CPU", "with_alexnet"),
    "alexnet-fast": Contestant("the same with `--decode fast`", "with_alexnet", "run_fast"),
    "alexnet-decode": Contestant("its ceiling: DALI decodes whole images", "with_alexnet", "run_decoder"),
    "pillow": Contestant("DataLoader, Pillow: resize, then crop", "with_pillow", workers="processes"),
    "pillow-region": Contestant(
        "DataLoader, Pillow: resize the crop alone", "with_pillow", "run_region", workers="processes"
    ),
    "opencv": Contestant("DataLoader, OpenCV: resize the crop alone", "with_opencv", workers="processes"),
    "spdl": Contestant("SPDL: FFmpeg resizes the crop alone", "with_spdl", workers="threads"),
    "ffcv": Contestant("FFCV: resize the crop alone", "with_ffcv", workers="threads"),
    "alexnet-pack": Contestant(
        "this project's loader, JPEGs of 256x256", "with_alexnet", images="pack", against="alexnet"
    ),
    "alexnet-pack-decode": Contestant("its ceiling", "with_alexnet", "run_decoder", images="pack"),
    "ffcv-pack": Contestant("FFCV, the same JPEGs of 256x256", "with_ffcv", images="pack", workers="threads"),
    "simplejpeg-pack": Contestant(
        "simplejpeg, the same JPEGs of 256x256", "with_simplejpeg", images="pack", workers="threads"
    ),
    "turboloader-pack": Contestant(
        "turboloader's decoder, the same JPEGs of 256x256", "with_turboloader", images="pack", workers="threads"
    ),
    "alexnet-dct": Contestant(
        "this project's loader, coefficients of the same JPEGs", "with_alexnet", images="dct", against="alexnet-pack"
    ),
    "alexnet-dct-420": Contestant(
        "the same with a quarter of the colour", "with_alexnet", images="dct-420", against="alexnet-pack"
    ),
    "alexnet-raw": Contestant("this project's loader, raw 256x256", "with_alexnet", images="raw", against="alexnet"),
}
