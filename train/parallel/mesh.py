"""The mesh of ranks, dp x mp, and which rank is missing when one is lost.

`ranks.py` says who is there; `split.py` splits the network over `mp` and sums gradients over `dp`. A mesh of one rank
sends nothing, so code for a mesh also runs on one device.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...pipeline.errors import UserError
from .axis import Axis, TransportError
from .dims import CPU, ONE_RANK, ParallelDims
from .ranks import RankInfo, RankLost

log = logging.getLogger("alexnet")

SECONDS_FOR_WITNESSES = 3.0  # after a time-out, for the other ranks to say where they are


@dataclass(frozen=True)
class Mesh:
    """All ranks, and this one's place among them. `world` carries small CPU tensors and objects, over gloo."""

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
        """Return the first rank's value."""
        return self.world.gather_objects(value)[0]

    def check_same(self, what: str, value: Any) -> None:
        """Raise UserError unless all ranks give the same value."""
        values = self.world.gather_objects(value)
        if odd := [rank for rank, other in enumerate(values) if other != values[0]]:
            raise UserError(f"Rank {odd[0]} has another {what} than rank 0. Give all ranks the same command and data.")

    @contextmanager
    def watched(self, where: Callable[[], str]) -> Iterator[None]:
        """Turn a transport's error about a dead or hanging rank into a `RankLost` that names it.

        `where` returns what this rank was doing, such as "step 12".
        """
        try:
            yield
        except (TransportError, dist.DistError) as error:
            raise RankLost(self._explain(where(), bool(re.search("time(d )?out", str(error), re.I)))) from error

    def _explain(self, where: str, timed_out: bool) -> str:
        """Say who is missing: a rank that meets an error says so in the store; one that hangs cannot."""
        missing = self._silent_ranks()
        names = ", ".join(f"rank {r} (dp {r // self.dims.mp}, mp {r % self.dims.mp})" for r in missing)
        if missing and timed_out:
            return f"No word from {names} in {where}: it hangs, or is slower than --timeout allows."
        return f"The connection to {names or 'another rank'} was lost in {where}."

    def _silent_ranks(self) -> list[int]:
        """Return the ranks that left no word in the store in time; none if the store is lost too."""
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
    """Returns the largest of the numbers that the ranks give at each step, so that all act at the same step.

    With several ranks, these are the numbers of the step before, so that no rank waits for the others.
    """

    def __init__(self, world: Axis) -> None:
        self._world = world
        self._wait: Callable[[], Tensor] | None = None  # for the step before's (ranks, numbers)

    def __call__(self, *given: int) -> list[int]:
        if self._world.size == 1:
            return list(given)
        wait, self._wait = self._wait, self._world.start_gather(torch.tensor(given))
        return wait().amax(0).tolist() if wait else [0] * len(given)


def build_mesh(
    dims: ParallelDims, info: RankInfo, device: torch.device, timeout_seconds: float, shared: bool = False
) -> Mesh:
    """Join the ranks of `info` in a mesh; this one computes on `device`. `shared`: two ranks of the mesh share a GPU.

    Ranks that share the network are neighbours, and so on one machine. They talk over NCCL on GPUs, but over gloo on
    CPUs and when two share a GPU, which NCCL does not allow. NCCL kills its process without a word, so it waits twice
    as long as `world`, which names the missing rank.
    """
    assert dims.num_ranks == info.size
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what names no device must mean this one: capture of a CUDA graph, say
    if info.size == 1:
        return Mesh(dims, device, info=info)
    if shared and info.rank == 0:
        log.warning("Two ranks share a GPU: they talk through the host's memory, which is slow.")
    backend = "gloo" if device.type == "cpu" or shared else "cpu:gloo,cuda:nccl"
    patience = timedelta(seconds=timeout_seconds)
    timeout = patience * (1 if backend == "gloo" else 2)
    dist.init_process_group(backend, store=info.store, rank=info.rank, world_size=info.size, timeout=timeout)
    dp_index, mp_index = divmod(info.rank, dims.mp)
    ranks = torch.arange(info.size).view(dims.dp, dims.mp)
    dp_group, _ = dist.new_subgroups_by_enumeration(ranks.T.tolist(), timeout=timeout)
    mp_group, _ = dist.new_subgroups_by_enumeration(ranks.tolist(), timeout=timeout)
    dp = Axis(dims.dp, dp_index, dp_group, via_host=shared)
    mp = Axis(dims.mp, mp_index, mp_group, via_host=shared)
    world = Axis(info.size, info.rank, dist.new_group(backend="gloo", timeout=patience))
    return Mesh(dims, device, dp, mp, world, info)


def leave_mesh() -> None:
    """End what `build_mesh` began; do nothing for a lone rank."""
    if dist.is_initialized():
        dist.destroy_process_group()
