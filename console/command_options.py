"""Command-line options of single commands; those of `train` that change what is computed are made from `Config`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from ..train.config import Config
from ..train.presets import PRESETS
from .options import FILE, FOLDER, batch_option, execution_option, gathered, together
from .types import Commas, NumberChoice, Output

ELSEWHERE = ("preset", "decode", "max_pixels")  # fields of `Config` that are options of several commands
OUTPUT, PICTURE = Output(), Output(".png", ".pdf", ".svg")


def config_options(command: Any) -> Any:
    """A decorator: an option for each field of `Config`. Those that are given arrive as `overrides`."""
    specs = [spec for spec in fields(Config) if spec.name not in ELSEWHERE]

    @wraps(command)
    def gathering(*args: Any, **given: Any) -> Any:
        values = {spec.name: given.pop(spec.name) for spec in specs}
        overrides = {name: value for name, value in values.items() if value is not None}
        return command(*args, **given, overrides=overrides)

    for spec in reversed(specs):
        name = spec.name.replace("_", "-")
        names = f"--{name}/--no-{name}" if spec.type is bool else f"--{name}"
        text = f"{spec.metadata['help']}  [{_shown(spec.default)}; {spec.metadata['source']}]"
        gathering = click.option(names, spec.name, type=_type_of(spec.type), default=None, help=text)(gathering)
    return gathering


def _type_of(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return NumberChoice(choices) if isinstance(choices[0], int) else click.Choice(choices)
    return Commas(get_args(kind)[0]) if get_origin(kind) is tuple else kind


def _shown(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


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
preset_option = click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="What to reproduce; change any number below.  [paper]"
)
describe_options = together(
    click.option("--describe", is_flag=True, help="Show the network and every number with its source; train nothing."),
    click.option(
        "--classes", "num_classes", type=click.IntRange(1), default=1000, show_default=True, help="For --describe."
    ),
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where a run is kept, what it starts from, and how it is carried out."""

    run_dir: Path | None
    resume: str | None  # a path, or `resume.NEWEST`
    stats_file: Path | None
    checkpoint_every: int | None  # steps
    keep: int  # checkpoints
    log_every: int  # steps
    execution: str | None


train_options = gathered(
    "options",
    TrainOptions,
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
    click.option(
        "--checkpoint-every",
        type=click.IntRange(1),
        metavar="STEPS",
        help="[default: at epochs' ends, and every ten minutes]",
    ),
    click.option("--keep", type=click.IntRange(1), default=2, show_default=True, help="Checkpoints to keep."),
    click.option("--log-every", type=click.IntRange(1), default=20, show_default=True, metavar="STEPS"),
    execution_option,
)
