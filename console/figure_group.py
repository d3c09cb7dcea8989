"""The commands of `alexnet figure`: arguments in, calls out, as in `cli.py`, which adds the group to the others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .command_options import figure_out_option
from .options import ANY_PATH, json_option
from .terminal import show_json


@click.group()
def figure() -> None:
    """Draw what the paper showed, from a trained network or its run.

    Example: alexnet figure kernels runs/first --out kernels.png
    """


@figure.command()
@click.argument("checkpoint", type=ANY_PATH, metavar="CKPT")
@figure_out_option
@click.option("--per-kernel", is_flag=True, help="Stretch each kernel to the full range, so that weak ones show too.")
@json_option
def kernels(checkpoint: Path, out: Path, per_kernel: bool, as_json: bool) -> None:
    """conv1's kernels, 16 a row, tower 0 above tower 1, and how much colour each tower holds.

    All kernels share one scale, as in the paper. The distance of a weight triple (r, g, b) from grey is that from its
    mean, three times; 1 is the span of all weights.

    Example: alexnet figure kernels runs/first --out kernels.png
    """
    from .commands.figure import figure_kernels
    from .tables import print_tower_colours

    towers = figure_kernels(checkpoint, out, per_kernel=per_kernel)
    if as_json:
        show_json(json.dumps({"out": str(out), "towers": [asdict(tower) for tower in towers]}))
    else:
        print_tower_colours(out, towers)
