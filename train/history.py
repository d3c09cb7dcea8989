"""The history of a run in its folder: what it is (`config.json`, `stats.json`), when and where it was started
(`starts.jsonl`), how it went (`metrics.jsonl`), and a lock so that one process writes them.

`trainer.py` writes it, on a mesh only from the first rank; `checkpoint.py` keeps the checkpoints beside it, and
`tensorboard.py`, where asked for, a copy for TensorBoard. `figures/curves.py` and `report/` read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..pca.stats import RgbStats
from ..pipeline.errors import UserError
from ..pipeline.files import naming, only_writer, write_atomically
from .config import Config
from .starts import Start, write_start
from .tensorboard import TensorBoard

CONFIG, STATS, METRICS = "config.json", "stats.json", "metrics.jsonl"

Record = dict[str, Any]


class History:
    """Writes the history of a run; unless `kept`, as on most ranks of a mesh, it writes nothing."""

    def __init__(self, folder: Path, kept: bool = True, tensorboard: TensorBoard | None = None) -> None:
        self.folder, self.kept, self.tensorboard = folder, kept, tensorboard

    @contextmanager
    def opened(self, config: Config, start: Start, stats: RgbStats | None) -> Iterator[list[Record]]:
        """Create and lock the folder, go back to the position of this start, and yield the records up to it.

        UserError if another process writes there.
        """
        if not self.kept:
            yield []
            return
        message = f"Another run is writing into {self.folder}. Choose another --run folder."
        with only_writer(self.folder, UserError(message)):
            write_atomically(self.folder / CONFIG, (config.to_json() + "\n").encode())
            begins = (start.epoch, start.step) == (0, 0) or not (self.folder / STATS).exists()
            if stats is not None and begins:
                stats.save(self.folder / STATS)
            past = self.go_back(start.epoch, start.step)
            write_start(self.folder, start)
            with self.tensorboard.opened(past, start.epoch, start.step) if self.tensorboard else nullcontext():
                yield past

    def go_back(self, epoch: int, step: int) -> list[Record]:
        """Delete the records after a position, which the run will repeat; return those up to it."""
        path = self.folder / METRICS
        past = [r for r in read_records(path) if (r["epoch"], r["step"]) <= (epoch, step)]
        past = past if (epoch, step) > (0, 0) else []
        write_atomically(path, "".join(json.dumps(r) + "\n" for r in past).encode())
        return past

    def write(self, record: Record) -> None:
        """Append a record to `metrics.jsonl`, and to TensorBoard's files."""
        if self.kept:
            path = self.folder / METRICS
            with naming(path), path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            if self.tensorboard:
                self.tensorboard.write(record)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the complete lines of a metrics file; a killed run may have left half a line at the end."""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
