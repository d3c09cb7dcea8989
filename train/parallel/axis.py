"""One axis of the mesh: what the ranks along it send each other, counted and timed.

`torch.distributed` sends it, over gloo or NCCL. A mesh has one `Axis` for each of its dims; `split.py` and
`tower_loader.py` use them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class TransportError(RuntimeError):
    """gloo or NCCL got no answer from another rank."""


@contextmanager
def _transport() -> Iterator[None]:
    """Wrap every call of gloo or NCCL: they may raise when a message starts, or only when it is waited for."""
    try:
        yield
    except RuntimeError as error:
        raise TransportError(str(error)) from error


@dataclass
class Axis:
    """One axis of the mesh as a rank sees it: the `size` ranks along it, itself at `index`.

    A rank that is alone on its axis sends nothing. Tensors may be on any device; `via_host` copies a GPU's to the CPU
    first, for gloo.
    """

    size: int = 1
    index: int = 0
    group: Any = None
    via_host: bool = False
    bytes_sent: int = field(default=0, compare=False)
    seconds_blocked: float = field(default=0.0, compare=False)  # waiting for others to send

    def start_gather(self, x: Tensor) -> Callable[[], Tensor]:
        """Start collecting `x` from every rank; return a function that waits for (size, *x.shape).

        `x` must not change until then.
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
        """Return every rank's `x`, as (size, *x.shape)."""
        return self.start_gather(x)()

    def scatter_sum(self, parts: Tensor) -> Tensor:
        """Return the sum of what all ranks hold for this one: parts (size, ...) -> (...)."""
        sent = {i: self._staged(part) for i, part in enumerate(parts) if i != self.index}
        received = {i: torch.empty_like(part) for i, part in sent.items()}
        self._start_trade(sent, received)()
        received[self.index] = parts[self.index]
        return reduce(torch.add, [received[i].to(parts.device) for i in range(self.size)])

    def start_sum(self, x: Tensor) -> Callable[[], None]:
        """Start replacing `x` by its sum over all ranks; return a function that waits until that is done."""
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
        """Sum `x` over all ranks, in place, and return it."""
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
        """Return all rows (num_rows, ...); `x` is this rank's part, as cut by `own`."""
        most = -(-num_rows // self.size)
        padded = torch.cat([x, x.new_zeros((most - len(x), *x.shape[1:]))])
        counts = [len(part) for part in torch.empty(num_rows, device="meta").tensor_split(self.size)]
        return torch.cat([part[:count] for part, count in zip(self.gather(padded), counts, strict=True)])

    def own(self, x: Tensor, dim: int = 0) -> Tensor:
        """Return this rank's part of `x` along `dim`, a view. If parts cannot be equal, the first are one longer."""
        return x.tensor_split(self.size, dim)[self.index]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's `value` as JSON has it, even a lone rank's: tuples become lists, and keys become text."""
        encoded = json.dumps(value).encode()
        if self.size == 1:
            return [json.loads(encoded)]
        text = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        sizes = self.gather(torch.tensor([len(text)])).flatten().tolist()
        padded = torch.cat([text, text.new_zeros(max(sizes) - len(text))])
        rows = zip(self.gather(padded).numpy(), sizes, strict=True)
        return [json.loads(row[:size].tobytes()) for row, size in rows]

    def _start_trade(self, sent: dict[int, Tensor], received: Any) -> Callable[[], None]:
        """Start sending `sent[i]` to rank i of the axis and receiving `received[i]` from it, for each i in `sent`.

        Between two ranks this takes half the time of gloo's collectives.
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
