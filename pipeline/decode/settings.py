"""TODO"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_PIXELS = 100_000_000  # ImageNet's largest image has about 60 million


Decode = Literal["exact", "fast", "raw"]  # raw: whole 256-squares that were decoded when they were packed


HW_DECODER_LOAD = 0.65  # the share of a batch that a GPU's JPEG engines decode, CUDA the rest; DALI's own default


MAX_BAD = 0.01


@dataclass(frozen=True)
class Settings:
    """How a stream works; none of it changes what comes out."""

    threads: int = 2  # DALI's
    readers: int = 4
    device_id: int | None = None  # None: decode on the CPU
    prefetch: int = 2  # batches inside DALI, and as many read ahead
    hw_decoder_load: float = HW_DECODER_LOAD  # on a GPU
    max_pixels: int = MAX_PIXELS
    max_bad: float = MAX_BAD

    @property
    def on_gpu(self) -> bool:
        return self.device_id is not None
