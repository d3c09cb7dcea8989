"""Commands that train many networks to compare them. `cli.py` adds them to `alexnet`."""

from __future__ import annotations

import json
from typing import Any

import click

from .command_options import config_options, preset_option
from .experiment_options import ablate_options
from .imports import quick_imports
from .options import LoadingOptions, data_argument, json_option, loading_options, mesh_options
from .terminal import show_json


@click.command()
@data_argument
@preset_option
@ablate_options
@json_option
@mesh_options
@loading_options
@config_options
@click.pass_context
def ablate(ctx: click.Context, as_json: bool, overrides: dict[str, Any], loading: LoadingOptions, **asked: Any) -> None:
    """Train the network with one thing changed at a time, as the paper did, and compare the errors.

    The base is what the options below say. Every variation of the paper, and any other (--vary), is trained with the
    same budget and the same seeds; each run has its own folder OUT/<variation>/seed-<n>, like one of `train`. The
    differences, with standard errors and beside what the paper reports, go into OUT/ablation.md, .json and .png. After
    an interruption, the same command goes on where it was.

    Example: alexnet ablate /data/imagenet --preset original --epochs 20 --seeds 3 --out ablation
    """
    with quick_imports():
        from .commands.ablate import run_ablate
        from .tables import print_ablation

    overrides |= loading.pixel_overrides()
    table, code = run_ablate(overrides=overrides, loading=loading, **asked)
    show_json(json.dumps(table.record())) if as_json else print_ablation(table)
    ctx.exit(code)
