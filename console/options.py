"""Command-line options that several commands share. Groups of them reach a command as one frozen object."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..pipeline.decode.settings import HW_DECODER_LOAD, MAX_PIXELS, Decode, Settings
from .types import NumberChoice

if TYPE_CHECKING:  # the command line answers `--help` without torch
    import torch

CORES = len(os.sched_getaffinity(0))
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)

Decorator = Callable[[Any], Any]


def together(*decorators: Decorator) -> Decorator:
    """Several decorators as one; the first is listed first by `--help`."""

    def apply(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def gathered(name: str, kind: type[Any], *options: Decorator) -> Decorator:
    """Options that reach the command as one argument: a `kind`, a dataclass with a field for each."""

    def apply(command: Any) -> Any:
        @wraps(command)
        def gathering(*args: Any, **given: Any) -> Any:
            values = {field.name: given.pop(field.name) for field in fields(kind)}
            return command(*args, **given, **{name: kind(**values)})

        return together(*options)(gathering)

    return apply


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How images are read and decoded, and where the work is done."""

    threads: int
    device: Literal["auto", "cpu", "gpu"]
    decode: Decode | None  # None: as a run has it, else exact
    readers: int | None
    prefetch: int
    hw_decoder_load: float | None
    max_bad: float
    max_pixels: int | None  # None: as a run has it, else `MAX_PIXELS`

    def changing_pixels(self) -> dict[str, Any]:
        """Those of the options given that are part of a run's configuration, by its fields."""
        given = {"decode": self.decode, "max_pixels": self.max_pixels}
        return {name: value for name, value in given.items() if value is not None}

    def chosen_device(self) -> torch.device:
        """The device of a command that uses one."""
        from ..train.parallel.devices import the_device

        return the_device(self.device)

    def settings(self, device: torch.device | None = None, num_ranks: int = 1) -> Settings:
        """For the device given or chosen; this machine's threads are shared by `num_ranks` ranks."""
        device_id, threads = (device or self.chosen_device()).index, max(1, self.threads // num_ranks)
        if device_id is None and self.hw_decoder_load is not None:
            raise click.UsageError(
                "--hw-decoder-load is for a GPU's JPEG engines, and here the CPU decodes: leave it out."
            )
        return Settings(
            threads=threads,
            readers=self.readers or max(4, threads),
            device_id=device_id,
            prefetch=self.prefetch,
            hw_decoder_load=HW_DECODER_LOAD if self.hw_decoder_load is None else self.hw_decoder_load,
            max_pixels=self.max_pixels or MAX_PIXELS,
            max_bad=self.max_bad,
            decode=self.decode or "exact",
        )


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """Which ranks share the work; `on_mesh.py` makes a mesh of them."""

    mesh: str | None
    devices: str | None
    timeout: float  # seconds
    max_restarts: int


rescan_option = click.option(
    "--rescan", is_flag=True, help="List the images of DATA anew, for a replaced file; new ones are noticed."
)
data_argument = together(click.argument("data", required=False, type=ANY_PATH), rescan_option)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=CORES, show_default="all cores", help="Threads that decode."
)
views_option = click.option(
    "--views",
    type=NumberChoice((1, 10)),
    default=1,
    show_default=True,
    help="1: the centre; 10: the paper's corners and centre, and their mirrors.",
)
batch_option = click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
mesh_options = gathered(
    "mesh_options",
    MeshOptions,
    click.option(
        "--mesh",
        metavar="DxM",
        help="Ranks that share the batch x ranks that share the network: 1x2 is the "
        "paper's pair.  [default: a rank for each GPU, in pairs where there are two towers]",
    ),
    click.option(
        "--devices",
        metavar="A,B",
        help="One for each rank of this machine, as in cuda:0,cuda:1, or "
        "cuda:0,cuda:0 or cpu,cpu to put two ranks on one.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(1),
        default=600,
        show_default=True,
        metavar="SECONDS",
        help="How long ranks wait for each other.",
    ),
    click.option(
        "--max-restarts",
        type=click.IntRange(0),
        default=3,
        show_default=True,
        help="How often to start again, from the newest checkpoint, when a rank is lost.",
    ),
)
execution_option = click.option(
    "--execution",
    type=click.Choice(["plain", "fused", "graphed", "compiled"]),
    show_default="plain",
    help="On GPUs. plain: torch's operations; fused: normalisation in one kernel each way, conv1 by space to depth; "
    "graphed: besides, forward and backward as a CUDA graph; compiled: besides, by torch.compile. The last two are for "
    "one rank.",
)
loading_options = gathered(
    "loading",
    LoadingOptions,
    threads_option,
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "gpu"]),
        default="auto",
        show_default=True,
        help="Where to decode and to compute.",
    ),
    click.option(
        "--decode",
        type=click.Choice(["exact", "fast"]),
        show_default="exact",
        help="exact: to the bit as libjpeg and Pillow; fast: fewer instructions, a few grey levels off.",
    ),
    click.option(
        "--readers", type=click.IntRange(1), show_default="as --threads, at least 4", help="Threads that read files."
    ),
    click.option(
        "--prefetch",
        type=click.IntRange(1),
        default=2,
        show_default=True,
        help="Batches read ahead, and as many decoded ahead.",
    ),
    click.option(
        "--hw-decoder-load",
        type=click.FloatRange(0, 1),
        show_default="DALI's 0.65",
        help="Share of a batch for the GPU's JPEG engines.",
    ),
    click.option(
        "--max-bad",
        type=click.FloatRange(0, 1),
        default=0.01,
        show_default=True,
        help="Share of images that may be unusable before it is an error.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(1),
        show_default=f"{MAX_PIXELS}",
        help="Images that claim more pixels than this are refused unopened.",
    ),
)
