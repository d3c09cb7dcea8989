"""The mesh of devices, dp x mp, and how its ranks talk.

`launch.py` starts the ranks; `parallel.py` splits the network over `mp` and sums gradients over `dp`. A mesh of one
rank sends nothing, so what is written for a mesh works on one device as it is.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from ...pipeline.errors import UserError
from .axis import Axis, TransportError
from .dims import CPU, ONE_RANK, ParallelDims
from .ranks import RankInfo, RankLost

SECONDS_FOR_WITNESSES = 3.0  # after a time-out, for the other ranks to say where they are


@dataclass(frozen=True)
class Mesh:
    """All ranks, and where this one stands. `world` is for control: small CPU tensors and objects, by gloo."""

    dims: ParallelDims = ONE_RANK
    device: torch.device = CPU
    dp: Axis = field(default_factory=Axis)
    mp: Axis = field(default_factory=Axis)
    world: Axis = field(default_factory=Axis)
    info: RankInfo = field(default_factory=RankInfo)

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes files."""
        return self.world.index == 0

    def broadcast(self, value: Any) -> Any:
        """The first rank's value."""
        return self.world.gather_objects(value)[0]

    def check_same(self, what: str, value: Any) -> None:
        """UserError unless all ranks were given the same."""
        values = self.world.gather_objects(value)
        if odd := [rank for rank, other in enumerate(values) if other != values[0]]:
            raise UserError(f"Rank {odd[0]} has another {what} than rank 0. Give all ranks the same command and data.")

    @contextmanager
    def watched(self, where: Callable[[], str]) -> Iterator[None]:
        """Turn what the transport says of a rank that died or hangs into a `RankLost` that names it.

        `where` says what this rank was doing, as in "step 12".
        """
        try:
            yield
        except (TransportError, dist.DistError) as error:
            raise RankLost(self._explain(where(), bool(re.search("time(d )?out", str(error), re.I)))) from error

    def _explain(self, where: str, timed_out: bool) -> str:
        """Who is missing: all ranks that meet an error leave their name in the store, one that hangs cannot."""
        missing = self._ranks_without_word()
        names = ", ".join(f"rank {r} (dp {r // self.dims.mp}, mp {r % self.dims.mp})" for r in missing)
        if missing and timed_out:
            return f"No word of {names} in {where}: it hangs, or is slower than --timeout allows."
        return f"The connection to {names or 'another rank'} was lost in {where}."

    def _ranks_without_word(self) -> list[int]:
        """Empty where the store has gone too."""
        others = [rank for rank in range(self.world.size) if rank != self.world.index]
        deadline = time.monotonic() + SECONDS_FOR_WITNESSES
        try:
            self.info.store.set(f"stuck/{self.world.index}", "")
            while missing := [rank for rank in others if not self.info.store.check([f"stuck/{rank}"])]:
                if time.monotonic() > deadline:
                    return missing
                time.sleep(0.05)
        except RuntimeError:
            pass
        return []


class Agreement:
    """What the ranks say at each step, and the largest of it for all to act on at the same step.

    With several ranks that is what they said at the step before, so that nobody waits to hear it.
    """

    def __init__(self, world: Axis) -> None:
        self._world = world
        self._heard: Callable[[], Tensor] | None = None

    def __call__(self, *said: int) -> list[int]:
        if self._world.size == 1:
            return list(said)
        before, self._heard = self._heard, self._world.start_gather(torch.tensor(said))
        return before().amax(0).tolist() if before else [0] * len(said)


def build_mesh(dims: ParallelDims, info: RankInfo, devices: Sequence[torch.device], timeout_seconds: float) -> Mesh:
    """Join the ranks of `info` in a mesh; `devices` are those of this machine's ranks.

    Ranks of a pair are neighbours, so a pair stays within a machine. NCCL on GPUs; gloo on CPUs, and where two
    ranks share a GPU, which NCCL does not do. NCCL, which ends a process without a word, waits twice as long as
    `world`, which names the rank that is missing.
    """
    assert dims.num_ranks == info.size
    device = devices[info.local_rank]
    if info.size == 1:
        return Mesh(dims, device, info=info)
    shared = device.type == "cuda" and len(set(devices)) < len(devices)
    if shared and info.rank == 0:
        warnings.warn("Two ranks share a GPU: they talk through the host's memory, which is slow.", stacklevel=2)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "gloo" if device.type == "cpu" or shared else "cpu:gloo,cuda:nccl"
    patience = timedelta(seconds=timeout_seconds)
    timeout = patience * (1 if backend == "gloo" else 2)
    dist.init_process_group(backend, store=info.store, rank=info.rank, world_size=info.size, timeout=timeout)
    ranks = torch.arange(info.size).view(dims.dp, dims.mp)
    groups = [dist.new_subgroups_by_enumeration(rows.tolist(), timeout=timeout)[0] for rows in (ranks.T, ranks)]
    mesh = DeviceMesh.from_group(groups, "cpu", mesh=ranks, mesh_dim_names=("dp", "mp"))
    dp, mp = (
        Axis(size, mesh.get_local_rank(name), mesh.get_group(name), shared)
        for name, size in (("dp", dims.dp), ("mp", dims.mp))
    )
    world = Axis(info.size, info.rank, dist.new_group(backend="gloo", timeout=patience))
    return Mesh(dims, device, dp, mp, world, info)


def leave_mesh() -> None:
    """End what `build_mesh` began; nothing where it had nothing to begin."""
    if dist.is_initialized():
        dist.destroy_process_group()
