"""Command-line options that several commands share. Some groups reach a command as one frozen dataclass."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..pipeline.decode.settings import HW_DECODER_LOAD, MAX_PIXELS, READERS, Decode, Settings
from .types import FiniteRange, LocalPath, NumberChoice

if TYPE_CHECKING:  # the command line answers `--help` without torch
    import torch

CORES = len(os.sched_getaffinity(0))
FILE = LocalPath(dir_okay=False, path_type=Path)
FOLDER = LocalPath(file_okay=False, path_type=Path)
LOCAL_PATH = LocalPath(path_type=Path)
ANY_PATH = click.Path(path_type=Path)  # of DATA, which may be a URL

Decorator = Callable[[Any], Any]


def together(*decorators: Decorator) -> Decorator:
    """Combine decorators into one; `--help` lists the first one first."""

    def apply(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def gathered(name: str, kind: type[Any], *options: Decorator, without: Container[str] = ()) -> Decorator:
    """Pass options to the command as one argument `name`, an instance of the dataclass `kind`.

    There are no options for the fields `without`, which have defaults.
    """

    def apply(command: Any) -> Any:
        @wraps(command)
        def gathering(*args: Any, **given: Any) -> Any:
            values = {field.name: given.pop(field.name) for field in fields(kind) if field.name not in without}
            return command(*args, **given, **{name: kind(**values)})

        return together(*options)(gathering)

    return apply


def words_of(values: Mapping[str, Any]) -> list[str]:
    """Return what one would type for these values of options, by name; None is left out."""
    words = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """How to read and decode images, and on which device."""

    threads: int
    device: Literal["auto", "cpu", "gpu"]
    decode_on: Literal["cpu", "gpu"] | None  # None: where the device computes
    decode: Decode | None  # None: the run's, or else exact
    readers: int
    prefetch: int
    hw_decoder_load: float | None
    max_bad: float
    max_pixels: int | None  # None: the run's, or else `MAX_PIXELS`

    def pixel_overrides(self) -> dict[str, Any]:
        """Return the given options that change pixels, and so belong to a run's configuration, by field."""
        given = {"decode": self.decode, "max_pixels": self.max_pixels}
        return {name: value for name, value in given.items() if value is not None}

    def chosen_device(self) -> torch.device:
        """Return the device of a command that uses only one."""
        from ..train.parallel.devices import single_device

        return single_device(self.device)

    def settings(self, device: torch.device | None = None, num_ranks: int = 1) -> Settings:
        """Return settings for `device`, by default the chosen one; `num_ranks` ranks share this machine's threads."""
        gpu, threads = (device or self.chosen_device()).index, max(1, self.threads // num_ranks)
        if gpu is None and self.decode_on == "gpu":
            raise click.UsageError("--decode-on gpu needs a GPU that computes too, but this runs on the CPU.")
        device_id = None if self.decode_on == "cpu" else gpu
        if device_id is None and self.hw_decoder_load is not None:
            raise click.UsageError("--hw-decoder-load is for a GPU's JPEG engines, but the CPU decodes: leave it out.")
        return Settings(
            threads=threads,
            readers=self.readers,
            device_id=device_id,
            upload_to=gpu if device_id is None else None,
            prefetch=self.prefetch,
            hw_decoder_load=HW_DECODER_LOAD if self.hw_decoder_load is None else self.hw_decoder_load,
            max_pixels=self.max_pixels or MAX_PIXELS,
            max_bad=self.max_bad,
            decode=self.decode or "exact",
        )


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """Which ranks share the work; `on_mesh.py` builds a mesh of them."""

    mesh: str | None
    devices: str | None
    timeout: float  # seconds
    max_restarts: int


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=CORES, show_default="all cores", help="Decoding threads."
)
views_option = click.option(
    "--views",
    type=NumberChoice((1, 10)),
    default=1,
    show_default=True,
    help="1: the centre; 10: the paper's corners and centre, and their mirror images.",
)
batch_option = click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
mesh_options = gathered(
    "mesh_options",
    MeshOptions,
    click.option(
        "--mesh",
        metavar="DxM",
        help="Ranks that share the batch x ranks that share the network: 1x2 is the "
        "paper's pair.  [default: one rank per GPU, in pairs if the network has two towers]",
    ),
    click.option(
        "--devices",
        metavar="A,B",
        help="One device per rank of this machine, such as cuda:0,cuda:1; cuda:0,cuda:0 or cpu,cpu puts two ranks "
        "on one.",
    ),
    click.option(
        "--timeout",
        type=FiniteRange(1),
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
        help="How often to restart from the newest checkpoint when a rank is lost.",
    ),
)
execution_option = click.option(
    "--execution",
    type=click.Choice(["plain", "fused", "graphed", "compiled"]),
    show_default="fused",
    help="On GPUs. plain: torch's operations; fused: normalisation in one kernel each way, conv1 by space to depth; "
    "graphed: fused, with forward and backward as a CUDA graph; compiled: graphed, with torch.compile. The last two "
    "need a single rank.",
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
        help="Where to decode and compute.",
    ),
    click.option(
        "--decode-on",
        type=click.Choice(["cpu", "gpu"]),
        show_default="as --device",
        help="cpu: decode on the CPU what a GPU computes with, which is faster where cores are many.",
    ),
    click.option(
        "--decode",
        type=click.Choice(["exact", "fast"]),
        show_default="exact",
        help="exact: bit for bit like libjpeg and Pillow; fast: fewer instructions, a few grey levels off.",
    ),
    click.option(
        "--readers",
        type=click.IntRange(1),
        default=READERS,
        show_default=True,
        help="Threads that read files; more may help where files are far away.",
    ),
    click.option(
        "--prefetch",
        type=click.IntRange(1),
        default=2,
        show_default=True,
        help="Batches to read ahead, and to decode ahead.",
    ),
    click.option(
        "--hw-decoder-load",
        type=FiniteRange(0, 1),
        show_default="DALI's 0.65",
        help="Share of a batch for the GPU's JPEG engines.",
    ),
    click.option(
        "--max-bad",
        type=FiniteRange(0, 1),
        default=0.01,
        show_default=True,
        help="Share of images that may be unusable; more are an error.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(1),
        show_default=f"{MAX_PIXELS}",
        help="Refuse to open images that claim more pixels than this.",
    ),
)
