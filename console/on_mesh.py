"""TODO"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..train.parallel.axis import Axis
from ..train.parallel.dims import ParallelDims
from ..train.parallel.launch import hand_on, launch
from ..train.parallel.mesh import Mesh, build_mesh, leave_mesh
from ..train.parallel.ranks import Place
from .signals import stop_on_signals


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """What the user says of meshes: `options.mesh_options`."""

    mesh: str | None
    devices: str | None
    timeout: float  # seconds
    max_restarts: int

    def launch(self, arguments: Sequence[str], num_ranks: int) -> int:
        with stop_on_signals(hand_on, announce=False):
            return launch(arguments, num_ranks, self.max_restarts, self.timeout)

    @contextmanager
    def joined(self, dims: ParallelDims, place: Place, devices: Sequence[torch.device]) -> Iterator[Mesh]:
        """The mesh of these ranks; what they lose before their work is watched was lost in the start."""
        start = Mesh(dims, world=Axis(place.size, place.rank), place=place)
        with start.watched(lambda: "the start"):
            yield build_mesh(dims, place, devices, self.timeout)
        leave_mesh()


def _without_rescan(arguments: Sequence[str]) -> list[str]:
    """What the first rank lists anew it need not list again."""
    return [argument for argument in arguments if argument != "--rescan"]
