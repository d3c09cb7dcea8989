"""Command-line options that several commands share, and those made from `Config`: one for each field, with its help,
its default and its source."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from ..pipeline.decode.settings import HW_DECODER_LOAD, Settings
from ..train.config import Config
from ..train.presets import PRESETS
from .types import Commas, NumberChoice, Output

if TYPE_CHECKING:
    import torch


def config_options(function: Any) -> Any:
    """A click decorator, for the fields named in `CONFIG`. Options not given arrive as None and leave the preset as it
    is."""
    for spec in reversed([f for f in fields(Config) if f.name in CONFIG]):
        name = spec.name.replace("_", "-")
        names = f"--{name}/--no-{name}" if spec.type is bool else f"--{name}"
        text = f"{spec.metadata['help']}  [{_shown(spec.default)}; {spec.metadata['source']}]"
        function = click.option(names, spec.name, type=_type_of(spec.type), default=None, help=text)(function)
    return function


def _type_of(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return NumberChoice(choices) if isinstance(choices[0], int) else click.Choice(choices)
    return Commas(get_args(kind)[0]) if get_origin(kind) is tuple else kind


def _shown(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


DECODING = ("decode", "max_pixels")  # of `Config`, and of every command that loads images
CONFIG = tuple(f.name for f in fields(Config) if f.name not in ("preset", *DECODING))  # what `config_options` give
CORES = len(os.sched_getaffinity(0))
FILE = click.Path(dir_okay=False, path_type=Path)
OUTPUT, PICTURE = Output(), Output(".png", ".pdf", ".svg")
FOLDER = click.Path(file_okay=False, path_type=Path)
ANY_PATH = click.Path(path_type=Path)


def take(names: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """Some of the options given, which lose them."""
    return {name: given.pop(name) for name in names}


def together(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


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
mesh_options = together(
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
RANKS = ("mesh", "devices", "timeout", "max_restarts")  # what `mesh_options` give
execution_option = click.option(
    "--execution",
    type=click.Choice(["plain", "fused", "graphed", "compiled"]),
    show_default="plain",
    help="On GPUs. plain: torch's operations; fused: normalisation in one kernel each way, conv1 by space to depth; "
    "graphed: besides, forward and backward as a CUDA graph; compiled: besides, by torch.compile. The last two are for "
    "one rank.",
)
loading_options = together(
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
        default="exact",
        show_default=True,
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
        default=100_000_000,
        show_default=True,
        help="Images that claim more pixels than this are refused unopened.",
    ),
)
# What `loading_options` give.
LOADING = ("threads", "device", "decode", "readers", "prefetch", "hw_decoder_load", "max_bad", "max_pixels")

# Of one command each.
bench_loader_options = together(
    batch_option,
    click.option("--seconds", type=click.FloatRange(0.05), default=2.0, show_default=True, help="Of each window."),
    click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Windows of each contestant."),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option(
        "--compare",
        type=click.Choice(["torch"]),
        help="Beside torch's DataLoader with Pillow, at its best number of workers.",
    ),
    click.option("--step", is_flag=True, help="Is loading the bottleneck? Beside the training step on a cached batch."),
    click.option("--preset", type=click.Choice(list(PRESETS)), help="The network of --step.  [paper]"),
    click.option("--width", type=click.FloatRange(min=0, min_open=True), help="Of the network of --step.  [1]"),
    click.option("--sweep", is_flag=True, help="Try other settings, and recommend the best if it is clearly better."),
    click.option("--plot", type=PICTURE, help="Draw it all, as PNG, PDF or SVG."),
)
bench_train_options = together(
    click.option("--preset", type=click.Choice(list(PRESETS)), default="paper", show_default=True),
    click.option("--width", type=float, default=1.0, show_default=True, help="Scales channels and units."),
    batch_option,
    click.option("--seconds", type=click.FloatRange(0.05), default=5.0, show_default=True, help="Of each window."),
    click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Windows of each kind."),
)
stats_options = together(
    click.option(
        "--out", type=OUTPUT, help="The JSON file, the mean image beside it.  [default: where `train` finds it]"
    ),
    click.option(
        "--region",
        type=click.Choice(["centre", "full"]),
        default="centre",
        show_default=True,
        help="centre: the 256x256 that training sees; full: whole images.",
    ),
    click.option(
        "--merge",
        "parts",
        multiple=True,
        type=FILE,
        help="Add up the statistics of parts of a data set instead; repeat for each file.",
    ),
    click.option("--part", type=(int, int), metavar="I N", help="Only part I (from 0) of N, to be merged later."),
    click.option("--plot", type=PICTURE, help="Draw them too, as PNG, PDF or SVG."),
)
pack_options = together(
    click.option("--split", "splits", multiple=True, type=click.Choice(["train", "val"]), help="[default: both]"),
    click.option("--raw", is_flag=True, help="Pixels, not JPEGs: nothing lost, nothing to decode, ten times the size."),
    click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of the JPEGs."),
    click.option("--shard-size", type=click.IntRange(1), default=4096, show_default=True, help="Images a shard."),
)
train_options = together(
    click.option(
        "--preset", type=click.Choice(list(PRESETS)), help="What to reproduce; change any number below.  [paper]"
    ),
    click.option(
        "--run", "run_dir", type=FOLDER, help="The run folder.  [default: the one resumed, or runs/<preset>-<time>]"
    ),
    click.option(
        "--resume",
        is_flag=False,
        flag_value="newest",
        metavar="[PATH]",
        help="Continue from a checkpoint or a run folder; alone: from the newest in --run.",
    ),
    click.option(
        "--stats",
        "stats_file",
        type=FILE,
        help="From `alexnet pca-stats`.  [default: found by the data set, computed when missing]",
    ),
    click.option("--describe", is_flag=True, help="Show the network and every number with its source; train nothing."),
    click.option(
        "--classes", "num_classes", type=click.IntRange(1), default=1000, show_default=True, help="For --describe."
    ),
    click.option(
        "--checkpoint-every",
        type=click.IntRange(1),
        metavar="STEPS",
        help="[default: at epochs' ends, and every ten minutes]",
    ),
    click.option("--keep", type=click.IntRange(1), default=2, show_default=True, help="Checkpoints to keep."),
    click.option("--log-every", type=click.IntRange(1), default=20, show_default=True, metavar="STEPS"),
)


Options = dict[str, Any]  # threads, device, decode and so on: `options.loading_options`


def device_of(loading: Options) -> torch.device:
    from ..train.parallel.devices import the_device

    return the_device(loading["device"])


def settings_of(loading: Options, device: torch.device | None = None, num_ranks: int = 1) -> Settings:
    """On the device given, or the one asked for; the machine's threads are shared by `num_ranks` of it."""
    threads = max(1, loading["threads"] // num_ranks)
    device_id, hw_decoder_load = (device or device_of(loading)).index, loading["hw_decoder_load"]
    if device_id is None and hw_decoder_load is not None:
        raise click.UsageError("--hw-decoder-load is for a GPU's JPEG engines, and here the CPU decodes: leave it out.")
    return Settings(
        threads=threads,
        readers=loading["readers"] or max(4, threads),
        device_id=device_id,
        prefetch=loading["prefetch"],
        hw_decoder_load=HW_DECODER_LOAD if hw_decoder_load is None else hw_decoder_load,
        max_pixels=loading["max_pixels"],
        max_bad=loading["max_bad"],
    )
