"""The shape of a mesh of ranks, as `--mesh` gives it.

`devices.py` chooses one if the user does not, `mesh.py` builds the mesh, and `split.py` cuts the network to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from ...pipeline.errors import UserError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ParallelDims:
    """Ranks that share the batch (`dp`) times ranks that share the network (`mp`); written `dp x mp`, as in 4x2."""

    dp: int = 1
    mp: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse text such as 4x2; UserError if it has another form."""
        parts = text.lower().split("x")
        if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
            raise UserError(f"--mesh {text}: give data x model ranks, as in 1x2 (the paper's) or 4x2.")
        return cls(int(parts[0]), int(parts[1]))

    @classmethod
    def default(cls, num_ranks: int, towers: int) -> Self:
        """Pair the ranks if both towers and ranks are even in number; else use data parallelism alone."""
        mp = 2 if towers % 2 == 0 and num_ranks % 2 == 0 else 1
        return cls(num_ranks // mp, mp)

    @property
    def num_ranks(self) -> int:
        return self.dp * self.mp

    def __str__(self) -> str:
        return f"{self.dp}x{self.mp}"


ONE_RANK = ParallelDims()
