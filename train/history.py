"""The folder of a run: who may write there, and what its metrics say.

`trainer.py` writes into it; `checkpoint.py` keeps its checkpoints. On a mesh only the first rank does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..pipeline.errors import UserError
from ..pipeline.files import naming, only_writer, write_atomically
from .config import Config

Record = dict[str, Any]


class History:
    """`config.json` and `metrics.jsonl` of a run; one that is not `kept` writes nothing."""

    def __init__(self, folder: Path, kept: bool = True) -> None:
        self.folder, self.kept = folder, kept

    @contextmanager
    def opened(self, config: Config, epoch: int, step: int) -> Iterator[list[Record]]:
        """Create and lock the folder, and keep of the metrics what lies up to this position, which is yielded: the
        rest will be made again."""
        if not self.kept:
            yield []
            return
        message = f"Another run is writing into {self.folder}. Choose another --run folder."
        with only_writer(self.folder, UserError(message)):
            write_atomically(self.folder / "config.json", (config.to_json() + "\n").encode())
            yield self.go_back(epoch, step)

    def go_back(self, epoch: int, step: int) -> list[Record]:
        """Forget the records after a position; returns those up to it."""
        path = self.folder / "metrics.jsonl"
        past = [r for r in _records(path) if (r["epoch"], r["step"]) <= (epoch, step)] if (epoch, step) > (0, 0) else []
        write_atomically(path, "".join(json.dumps(r) + "\n" for r in past).encode())
        return past

    def write(self, record: Record) -> None:
        if self.kept:
            path = self.folder / "metrics.jsonl"
            with naming(path), path.open("a") as file:
                file.write(json.dumps(record) + "\n")


def _records(path: Path) -> Iterator[Record]:
    """The complete lines of a metrics file; a run that was killed may have left half a line at the end."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
