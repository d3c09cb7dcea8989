"""The scalars of a run for TensorBoard, in the folder `tensorboard` of the run.

`history.py` hands on each record of `metrics.jsonl`; the horizontal axis counts steps since the start of training.
The package is optional: `require_tensorboard` says how to install it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..pipeline.errors import UserError
from ..pipeline.optional import how_to_install

FOLDER = "tensorboard"
POSITION = ("epoch", "step", "num_epochs", "steps_per_epoch", "seconds_left")  # of a record, not of the network
SECONDS_UNTIL_ON_DISK = 20


def require_tensorboard() -> type[Any]:
    """The class that writes its files; UserError where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:  # torch's module is there, but not what it needs
        raise UserError(how_to_install("--tensorboard", "tensorboard", "tensorboard", error)) from error
    return SummaryWriter


class TensorBoard:
    """Writes records as scalars, between `opened` and its end."""

    def __init__(self, run_dir: Path, steps_per_epoch: int) -> None:
        self.folder, self._steps_per_epoch = run_dir / FOLDER, steps_per_epoch
        self._writer: Any = None

    @contextmanager
    def opened(self, past: Iterable[dict[str, Any]], epoch: int, step: int) -> Iterator[None]:
        """Go back to this position, hiding what an earlier run has written after it.

        `past` are the records up to it, which are written where TensorBoard has none of them.
        """
        writer = require_tensorboard()
        begun = self.folder.is_dir() and any(self.folder.iterdir())
        taken = self._steps_taken(epoch, step)
        hidden = taken + 1 if taken else 0  # from this step on
        with writer(str(self.folder), purge_step=hidden, flush_secs=SECONDS_UNTIL_ON_DISK) as self._writer:
            for record in () if begun else past:
                self.write(record)
            yield
        self._writer = None

    def write(self, record: dict[str, Any]) -> None:
        """Every number of a record, as train/loss or val/top1_error; a warning has none."""
        if record["kind"] in ("train", "val"):
            taken = self._steps_taken(record["epoch"], record["step"])
            for key, value in record.items():
                if isinstance(value, int | float) and key not in POSITION:
                    self._writer.add_scalar(f"{record['kind']}/{key}", value, taken)

    def _steps_taken(self, epoch: int, step: int) -> int:
        return epoch * self._steps_per_epoch + step
