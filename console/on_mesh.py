"""The ranks of a command: the launcher's, or those that it starts itself to run the same command.

A command plans its ranks, checks all that can be wrong, and only then enters their mesh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import click
import torch

from ..pipeline.errors import UserError
from ..train.parallel.axis import Axis
from ..train.parallel.devices import choose_devices, ranks_by_device
from ..train.parallel.dims import ParallelDims
from ..train.parallel.launch import forward_signal, launch
from ..train.parallel.mesh import Mesh, build_mesh, leave_mesh
from ..train.parallel.ranks import RankInfo
from .errors import ARGUMENTS
from .options import MeshOptions
from .signals import stop_on_signals
from .terminal import error_console, say


@dataclass(frozen=True)
class Ranks:
    """The ranks of a mesh. This process is one of them, or has yet to start them."""

    info: RankInfo
    dims: ParallelDims
    devices: Sequence[torch.device]  # of this machine's ranks, by local rank
    options: MeshOptions
    num_on_device: int = 1  # how many ranks share this one's device, including itself
    share_a_gpu: bool = False  # whether any two ranks of the mesh do

    @classmethod
    def plan(cls, info: RankInfo, options: MeshOptions, device: str, towers: int | None = None) -> Ranks:
        """Choose mesh and devices; UserError if the options contradict each other or the machine."""
        dims, devices = choose_devices(info, towers, mesh=options.mesh, devices=options.devices, device=device)
        own = devices[info.local_rank]
        if own.type == "cpu" or info.size == 1:
            return cls(info, dims, devices, options, list(devices).count(own))
        sharing = ranks_by_device(info, own)
        if max(sharing) > 1 and not options.devices:
            raise UserError(
                f"Rank {sharing.index(max(sharing))} would share its GPU with another. Give every rank a GPU of its "
                f"own, or --devices {','.join(['cuda:0'] * info.local_size)} to share one, which is slow."
            )
        return cls(info, dims, devices, options, sharing[info.rank], max(sharing) > 1)

    @property
    def device(self) -> torch.device:
        return self.devices[self.info.local_rank]

    @property
    def must_start(self) -> bool:
        """Whether this process has yet to start the ranks, with `mesh`."""
        return self.dims.num_ranks > 1 and self.info.size == 1

    @property
    def may_use_device(self) -> bool:
        """Whether this process may touch `device`.

        A process that starts ranks on GPUs may not: what it allocates there stays as long as they run, and where a GPU
        is for one process only, they could not use it.
        """
        return not self.must_start or self.device.type == "cpu"

    @contextmanager
    def mesh(self, *more: str) -> Iterator[Mesh]:
        """Yield the mesh of these ranks.

        If the ranks are not running yet, run this command with the arguments `more` on each of them, then raise
        click's `Exit` with their exit code.
        """
        if self.must_start:
            raise click.exceptions.Exit(self._launch(*more))
        start = Mesh(self.dims, world=Axis(self.info.size, self.info.rank), info=self.info)
        with start.watched(lambda: "the start"):  # until the command watches its own work
            yield build_mesh(self.dims, self.info, self.device, self.options.timeout, self.share_a_gpu)
        leave_mesh()

    def _launch(self, *more: str) -> int:
        dims, options = self.dims, self.options
        say(
            f"Starting {dims.num_ranks} ranks, {dims.dp} data x {dims.mp} model, on {', '.join(map(str, self.devices))}"
        )
        typed: list[str] = click.get_current_context().meta[ARGUMENTS]
        arguments = with_options(without_rescan(typed), *more, "--mesh", str(dims))
        end = partial(forward_signal, before_exit=error_console.show_cursor)  # a rank's bar has hidden it
        with stop_on_signals(end, announce=False):
            return launch(arguments, dims.num_ranks, options.max_restarts, options.timeout)


def with_options(arguments: Sequence[str], *more: str) -> list[str]:
    """Add options last, where they count; after a `--`, though, there can be none."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:end], *more, *arguments[end:]]


def without_rescan(arguments: Sequence[str]) -> list[str]:
    """Drop `--rescan`: the first process has already listed the images for its ranks."""
    return [argument for argument in arguments if argument != "--rescan"]
