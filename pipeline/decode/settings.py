"""How images are decoded, and with how many threads.

`graph.py` and `stream.py` follow these settings; the command line fills them in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..machine.hardware import num_cores

Decode = Literal["exact", "fast", "raw"]  # raw: whole 256-squares that were decoded when they were packed

HW_DECODER_LOAD = 0.65  # the share of a batch that a GPU's JPEG engines decode, CUDA the rest; DALI's own default
READERS = 4  # enough to keep a disk busy; more wait for each other, since Python runs one at a time
MAX_PIXELS = 100_000_000  # ImageNet's largest image has about 60 million
MAX_BAD = 0.01


@dataclass(frozen=True)
class Settings:
    """The settings of every stream of images.

    `decode`, `max_pixels` and the kind of device decide what comes out; the others decide how fast.
    """

    threads: int = field(default_factory=num_cores)  # in DALI, and as many in the resampler
    readers: int = READERS  # threads that read files
    device_id: int | None = None  # of the GPU that decodes; None: the CPU does
    upload_to: int | None = None  # the GPU that gets what the CPU decodes; None: it stays on the CPU
    prefetch: int = 2  # batches inside DALI, and as many read ahead
    hw_decoder_load: float = HW_DECODER_LOAD  # on a GPU
    max_pixels: int = MAX_PIXELS  # images that claim more are refused unopened
    max_bad: float = MAX_BAD  # the share of images that may be unusable; more is an error
    decode: Decode = "exact"  # the same bits as libjpeg; "fast": a few grey levels off. Packs without JPEGs ignore it

    @property
    def on_gpu(self) -> bool:
        return self.device_id is not None

    @property
    def gpu_id(self) -> int | None:
        """The GPU that batches end up on; None: they stay on the CPU."""
        return self.upload_to if self.device_id is None else self.device_id

    @property
    def device(self) -> str:
        """The decoding device's name in torch."""
        return "cpu" if self.device_id is None else f"cuda:{self.device_id}"
