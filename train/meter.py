"""What a window of training steps did: loss, error, images per second, and the share of time spent waiting.

`trainer.py` adds each step and writes the records into the run's history. Sums stay on the device until a window
closes, so that no step waits for a number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..pipeline.loader import Batch
from .config import Config
from .parallel.axis import Axis


class Meter:
    """Collects steps; `flush` closes a window and starts the next."""

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        self._total_steps, self._steps_per_epoch = config.epochs * steps_per_epoch, steps_per_epoch
        self._num_epochs = config.epochs
        self._busy = 0.0
        self._steps_ever = 0
        self.start()

    def start(self) -> None:
        """Begin a window now."""
        self._loss: Tensor | None = None
        self._correct: Tensor | None = None
        self._images = self._steps = 0
        self._waited = self._paused = 0.0
        self._start = time.monotonic()

    @property
    def is_empty(self) -> bool:
        return self._steps == 0

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches, counting the time spent waiting for each."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def pause(self, seconds: float) -> None:
        """Leave out time that was not training: validation."""
        self._paused += seconds

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a step: its loss (), logits (B, classes) and labels (B,). All may change afterwards."""
        correct = (logits.argmax(dim=1) == labels).sum()
        self._loss = loss.double() if self._loss is None else self._loss + loss.double()
        self._correct = correct if self._correct is None else self._correct + correct
        self._images += len(labels)
        self._steps += 1

    def flush(self, epoch: int, step: int, dp: Axis) -> dict[str, Any]:
        """Close the window; return its record, for all data-parallel ranks. Waits for the device."""
        assert self._loss is not None
        assert self._correct is not None
        sums = torch.tensor([self._loss.item(), self._correct.item(), self._images], dtype=torch.float64)
        loss, correct, images = dp.sum(sums).tolist()
        seconds = max(time.monotonic() - self._start - self._paused, 1e-9)
        self._steps_ever += self._steps
        self._busy += seconds
        left = self._total_steps - (epoch * self._steps_per_epoch + step)
        record = {
            "kind": "train",
            "epoch": epoch,
            "step": step,
            "num_epochs": self._num_epochs,
            "steps_per_epoch": self._steps_per_epoch,
            "loss": loss / self._steps,
            "top1_error": 1 - correct / images,
            "images_per_second": round(images / seconds, 2),
            "waiting": round(self._waited / seconds, 5),
            "seconds_left": round(left * self._busy / self._steps_ever, 1),
        }
        if torch.cuda.is_available():
            record["gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        self.start()
        return record
