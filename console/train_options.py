"""Command-line options of `alexnet train`. Those that change results come from `Config`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import click

from ..train.config import Config
from ..train.settings.presets import PRESETS
from ..train.settings.setting import as_text
from .options import FILE, FOLDER, LOCAL_PATH, execution_option, gathered, together
from .types import Commas, NumberChoice, Size

Room = int | Literal["auto"]  # bytes of a GPU's memory for images; auto: what training leaves
ELSEWHERE = ("preset", "decode", "max_pixels")  # fields of `Config` that have an option elsewhere


def config_options(command: Any) -> Any:
    """Add an option for each field of `Config`; the command gets those given as `overrides`."""
    specs = [spec for spec in fields(Config) if spec.name not in ELSEWHERE]

    @wraps(command)
    def gathering(*args: Any, **given: Any) -> Any:
        values = {spec.name: given.pop(spec.name) for spec in specs}
        overrides = {name: value for name, value in values.items() if value is not None}
        return command(*args, **given, overrides=overrides)

    for spec in reversed(specs):
        name = spec.name.replace("_", "-")
        names = f"--{name}/--no-{name}" if spec.type is bool else f"--{name}"
        text = f"{spec.metadata['help']}  [{as_text(spec.default, ',')}; {spec.metadata['source']}]"
        gathering = click.option(names, spec.name, type=type_of(spec.type), default=None, help=text)(gathering)
    return gathering


def type_of(kind: Any) -> Any:
    """The type of an option for a field of `Config` of this type."""
    if get_origin(kind) is UnionType:  # of a type and None
        return get_args(kind)[0]
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return NumberChoice(choices) if isinstance(choices[0], int) else click.Choice(choices)
    return Commas(get_args(kind)[0]) if get_origin(kind) is tuple else kind


resident_option = click.option(
    "--resident",
    type=Size(),
    is_flag=False,
    flag_value="auto",
    metavar="[SIZE]",
    help="Hold a pack of coefficients in the GPU's memory, up to SIZE, such as 40GB; without SIZE, as much as fits.",
)


preset_option = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="What to reproduce; the options below change its numbers.  [paper]",
)
describe_options = together(
    click.option("--describe", is_flag=True, help="Show the network and every number with its source; train nothing."),
    click.option(
        "--classes",
        "num_classes",
        type=click.IntRange(1),
        default=1000,
        show_default=True,
        help="Number of classes for --describe.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Where to keep a run, what to start it from, and how to carry it out."""

    run_dir: Path | None
    resume: str | None  # a path, or `resume.NEWEST`
    init_from: Path | None
    stats_file: Path | None
    checkpoint_every: int | None  # steps
    keep: int  # checkpoints
    log_every: int  # steps
    execution: str | None
    tensorboard: bool
    resident: Room | None


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
        help="Continue from a checkpoint or a run folder; without PATH, from the newest in --run.",
    ),
    click.option(
        "--init-from",
        type=LOCAL_PATH,
        metavar="CKPT",
        help="Begin with the layers that fit of a trained network: a checkpoint, a run folder, safetensors or "
        "torchvision's .pth.",
    ),
    click.option(
        "--stats",
        "stats_file",
        type=FILE,
        help="Output of `alexnet pca-stats`.  [default: those that a resumed run began with; else found for the "
        "data set, or computed]",
    ),
    click.option(
        "--checkpoint-every",
        type=click.IntRange(1),
        metavar="STEPS",
        help="[default: at the end of epochs, and every ten minutes]",
    ),
    click.option("--keep", type=click.IntRange(1), default=2, show_default=True, help="Checkpoints to keep."),
    click.option("--log-every", type=click.IntRange(1), default=20, show_default=True, metavar="STEPS"),
    execution_option,
    click.option(
        "--tensorboard",
        is_flag=True,
        help="Write the scalars of metrics.jsonl for TensorBoard too, into the run folder.",
    ),
    resident_option,
)
