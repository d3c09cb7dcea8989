"""The mesh of devices, dp x mp, and how its ranks talk.

`launch.py` starts the ranks; `parallel.py` splits the network over `mp` and sums gradients over `dp`. A mesh of one
rank sends nothing, so what is written for a mesh works on one device as it is.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial, reduce
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from .launch import Place, RankLost

CPU = torch.device("cpu")
SECONDS_FOR_WITNESSES = 3.0  # after a time-out, for the other ranks to say where they are


@dataclass(frozen=True)
class ParallelDims:
    """Ranks that share the batch (`dp`) times ranks that share the network (`mp`); written `dp x mp`, as in 4x2."""

    dp: int = 1
    mp: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        parts = text.lower().split("x")
        if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
            raise ValueError(f"--mesh {text}: give data x model ranks, as in 1x2 (the paper's) or 4x2.")
        return cls(int(parts[0]), int(parts[1]))

    @classmethod
    def default(cls, num_ranks: int, towers: int) -> Self:
        """Pairs where the network has two towers and the ranks come in pairs; else data parallelism alone."""
        mp = 2 if towers % 2 == 0 and num_ranks % 2 == 0 else 1
        return cls(num_ranks // mp, mp)

    @property
    def num_ranks(self) -> int:
        return self.dp * self.mp

    def __str__(self) -> str:
        return f"{self.dp}x{self.mp}"


class TransportError(RuntimeError):
    """What gloo or NCCL say when another rank does not answer."""


@contextmanager
def _transport() -> Iterator[None]:
    """Around all that is asked of them: what they raise may come when a message begins, or when it is waited for."""
    try:
        yield
    except RuntimeError as error:
        raise TransportError(str(error)) from error


@dataclass
class Axis:
    """One axis of the mesh as a rank sees it: the `size` ranks that differ in nothing else, itself at `index`.

    Alone on its axis a rank sends nothing. Tensors may lie on any device; with `via_host` those of a GPU go by way of
    the CPU, where gloo finds them.
    """

    size: int = 1
    index: int = 0
    group: Any = None
    via_host: bool = False
    bytes_sent: int = field(default=0, compare=False)
    seconds_blocked: float = field(default=0.0, compare=False)  # until others had sent

    def start_gather(self, x: Tensor) -> Callable[[], Tensor]:
        """Begin to collect `x` from every rank; the function returned waits for (size, *x.shape).

        `x` must stay as it is until then.
        """
        if self.size == 1:
            return lambda: x[None]
        sent = self._staged(x)
        parts = sent.new_empty((self.size, *x.shape))
        if self.size == 2:
            parts[self.index] = sent
            wait = self._start_trade({1 - self.index: sent}, parts)
        else:
            self.bytes_sent += sent.nbytes * (self.size - 1)
            with _transport():
                wait = partial(self._wait, dist.all_gather(list(parts), sent, group=self.group, async_op=True))

        def finish() -> Tensor:
            wait()
            return parts.to(x.device)

        return finish

    def gather(self, x: Tensor) -> Tensor:
        """`x` of every rank, (size, *x.shape)."""
        return self.start_gather(x)()

    def scatter_sum(self, parts: Tensor) -> Tensor:
        """The sum over all ranks of what each holds for this one: parts (size, ...) -> (...)."""
        sent = {i: self._staged(part) for i, part in enumerate(parts) if i != self.index}
        received = {i: torch.empty_like(part) for i, part in sent.items()}
        self._start_trade(sent, received)()
        return reduce(torch.add, [received[i].to(part.device) if i in sent else part for i, part in enumerate(parts)])

    def start_sum(self, x: Tensor) -> Callable[[], None]:
        """Begin to replace `x` by its sum over all ranks; the function returned waits until that is done."""
        if self.size == 1:
            return lambda: None
        sent = x.cpu() if self._hosted(x) else x
        self.bytes_sent += 2 * sent.nbytes * (self.size - 1) // self.size  # a ring: reduce-scatter, all-gather
        with _transport():
            work = dist.all_reduce(sent, group=self.group, async_op=True)

        def finish() -> None:
            self._wait(work)
            if sent is not x:
                x.copy_(sent)

        return finish

    def sum(self, x: Tensor) -> Tensor:
        """`x`, in place, summed over all ranks."""
        self.start_sum(x)()
        return x

    def copy_first(self, x: Tensor) -> None:
        """Replace `x` by the first rank's."""
        if self.size > 1:
            sent = self._staged(x)
            with _transport():
                dist.broadcast(sent, group=self.group, group_src=0)
            x.copy_(sent)

    def gather_rows(self, x: Tensor, num_rows: int) -> Tensor:
        """All rows (num_rows, ...) of which `x` is this rank's part, by the rule of `own`."""
        most = -(-num_rows // self.size)
        padded = torch.cat([x, x.new_zeros((most - len(x), *x.shape[1:]))])
        counts = [len(part) for part in torch.empty(num_rows, device="meta").tensor_split(self.size)]
        return torch.cat([part[:count] for part, count in zip(self.gather(padded), counts, strict=True)])

    def own(self, x: Tensor, dim: int = 0) -> Tensor:
        """This rank's part of `x`: a view."""
        return x.tensor_split(self.size, dim)[self.index]

    def gather_objects(self, value: Any) -> list[Any]:
        """`value`, which JSON can hold, of every rank."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = self.gather(torch.tensor([len(text)])).flatten().tolist()
        padded = torch.cat([text, text.new_zeros(max(sizes) - len(text))])
        rows = zip(self.gather(padded).numpy(), sizes, strict=True)
        return [json.loads(row[:size].tobytes()) for row, size in rows]

    def _start_trade(self, sent: dict[int, Tensor], received: Any) -> Callable[[], None]:
        """Begin to send rank i of the axis `sent[i]` and to receive `received[i]` from it.

        Between two ranks that takes half the time of gloo's collectives.
        """
        ends = [
            dist.P2POp(way, tensors[i], group=self.group, group_peer=i)
            for i in sent
            for way, tensors in ((dist.isend, sent), (dist.irecv, received))
        ]
        with _transport():
            works = dist.batch_isend_irecv(ends) if ends else []
        self.bytes_sent += sum(x.nbytes for x in sent.values())

        def wait() -> None:
            for work in works:
                self._wait(work)

        return wait

    def _wait(self, work: Any) -> None:
        started = time.monotonic()
        with _transport():
            work.wait()
        self.seconds_blocked += time.monotonic() - started

    def _hosted(self, x: Tensor) -> bool:
        return self.via_host and x.device.type != "cpu"

    def _staged(self, x: Tensor) -> Tensor:
        return (x.cpu() if self._hosted(x) else x).contiguous()


@dataclass(frozen=True)
class Mesh:
    """All ranks, and where this one stands. `world` is for control: small CPU tensors and objects, by gloo."""

    dims: ParallelDims = ParallelDims()
    device: torch.device = CPU
    dp: Axis = field(default_factory=Axis)
    mp: Axis = field(default_factory=Axis)
    world: Axis = field(default_factory=Axis)
    place: Place = field(default_factory=Place)

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and writes files."""
        return self.world.index == 0

    def broadcast(self, value: Any) -> Any:
        """The first rank's value."""
        return self.world.gather_objects(value)[0]

    def check_same(self, what: str, value: Any) -> None:
        """ValueError unless all ranks were given the same."""
        values = self.world.gather_objects(value)
        if odd := [rank for rank, other in enumerate(values) if other != values[0]]:
            raise ValueError(f"Rank {odd[0]} has another {what} than rank 0. Give all ranks the same command and data.")

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
            self.place.store.set(f"stuck/{self.world.index}", "")
            while missing := [rank for rank in others if not self.place.store.check([f"stuck/{rank}"])]:
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


def build_mesh(dims: ParallelDims, place: Place, devices: Sequence[torch.device], timeout_seconds: float) -> Mesh:
    """Join the ranks of `place` in a mesh; `devices` are those of this machine's ranks.

    Ranks of a pair are neighbours, so a pair stays within a machine. NCCL on GPUs; gloo on CPUs, and where two
    ranks share a GPU, which NCCL does not do. NCCL, which ends a process without a word, waits twice as long as
    `world`, which names the rank that is missing.
    """
    assert dims.num_ranks == place.size
    device = devices[place.local_rank]
    if place.size == 1:
        return Mesh(dims, device, place=place)
    shared = device.type == "cuda" and len(set(devices)) < len(devices)
    if shared and place.rank == 0:
        warnings.warn("Two ranks share a GPU: they talk through the host's memory, which is slow.", stacklevel=2)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "gloo" if device.type == "cpu" or shared else "cpu:gloo,cuda:nccl"
    patience = timedelta(seconds=timeout_seconds)
    timeout = patience * (1 if backend == "gloo" else 2)
    dist.init_process_group(backend, store=place.store, rank=place.rank, world_size=place.size, timeout=timeout)
    ranks = torch.arange(place.size).view(dims.dp, dims.mp)
    groups = [dist.new_subgroups_by_enumeration(rows.tolist(), timeout=timeout)[0] for rows in (ranks.T, ranks)]
    mesh = DeviceMesh.from_group(groups, "cpu", mesh=ranks, mesh_dim_names=("dp", "mp"))
    dp, mp = (
        Axis(size, mesh.get_local_rank(name), mesh.get_group(name), shared)
        for name, size in (("dp", dims.dp), ("mp", dims.mp))
    )
    world = Axis(place.size, place.rank, dist.new_group(backend="gloo", timeout=patience))
    return Mesh(dims, device, dp, mp, world, place)


def leave_mesh() -> None:
    """End what `build_mesh` began; nothing where it had nothing to begin."""
    if dist.is_initialized():
        dist.destroy_process_group()
