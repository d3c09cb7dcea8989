"""Command-line options of experiments, which consist of many runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from ..train.ablation.variations import BASE, VARIATIONS
from ..train.config import Config
from .options import FOLDER, execution_option, gathered, together
from .train_options import type_of
from .types import Commas, FiniteRange


class Change(click.ParamType):
    """FIELD=VALUE, a value for a field of `Config`, as (field, value)."""

    name = "field=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        kinds = {spec.name: spec.type for spec in fields(Config)}
        field = name.replace("-", "_")
        if not equals:
            self.fail(f"{value!r} is not FIELD=VALUE, such as lighting=eigenvalue.", param, ctx)
        if field not in kinds:
            near = get_close_matches(field, kinds, 1, 0)
            self.fail(f"unknown setting {name!r}: the nearest known one is {near[0]!r}.", param, ctx)
        try:
            return field, click.types.convert_type(type_of(kinds[field])).convert(text, None, ctx)
        except click.BadParameter as error:
            self.fail(f"{field}: {error.message}", param, ctx)


@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """What to train, how often, and where to keep it."""

    out: Path
    seeds: int
    only: tuple[str, ...]
    vary: tuple[tuple[str, Any], ...]
    jobs: int
    execution: str | None


ablate_options = gathered(
    "options",
    AblateOptions,
    click.option("--out", type=FOLDER, required=True, help="The experiment's folder: runs, table and figure."),
    click.option(
        "--seeds",
        type=click.IntRange(1),
        default=2,
        show_default=True,
        help="Runs of each variation, with seeds from --seed on, the same for all.",
    ),
    click.option(
        "--only",
        multiple=True,
        type=click.Choice([BASE, *VARIATIONS]),
        help="Beside the base, train only this of the paper's variations; repeat for several.  [all that fit the base]",
    ),
    click.option(
        "--vary",
        multiple=True,
        type=Change(),
        help="Train with another value of any option of `train` too, such as lighting=eigenvalue; repeat for several.",
    ),
    click.option(
        "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time, which share the cores."
    ),
    execution_option,
)
figure1_options = together(
    click.option("--out", type=FOLDER, required=True, help="The folder for the runs, the figure and the tables."),
    click.option(
        "--experiment",
        type=click.Choice(["figure1", "normalisation"]),
        default="figure1",
        show_default=True,
        help="figure1: epochs to 25% training error; normalisation: section 3.3, test errors without and with it.",
    ),
    click.option(
        "--network",
        type=click.Choice(["small", "local"]),
        show_default="small",
        help="Of figure1. small: three convolutions; local: two and two locally connected layers, a third as fast.",
    ),
    click.option(
        "--rates",
        type=Commas(float),
        default=(),
        metavar="A,B,...",
        help="The learning rates that race in figure1.  [default: 0.00025 to 0.016, doubling]",
    ),
    click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each network."),
    click.option(
        "--epochs", type=click.IntRange(1), show_default="100", help="The most that a run of figure1 may take."
    ),
    click.option(
        "--scale",
        type=FiniteRange(0, min_open=True),
        show_default="1",
        help="Shortens the schedules of normalisation, of 140 and 450 epochs.",
    ),
    click.option(
        "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at once, each in one thread."
    ),
)
