"""The commands that repeat the paper's experiments, of many runs each. `cli.py` adds them to `alexnet`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .data_options import data_argument
from .experiment_options import ablate_options, figure1_options
from .imports import quick_imports
from .options import LOCAL_PATH, LoadingOptions, json_option, loading_options, mesh_options
from .terminal import show_json
from .train_options import config_options, preset_option


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


@click.command()
@click.argument("cifar", type=LOCAL_PATH, metavar="CIFAR")
@figure1_options
@json_option
def figure1(cifar: Path, out: Path, as_json: bool, **asked: Any) -> None:
    """Repeat the paper's experiments on CIFAR-10: ReLU against tanh (Figure 1), and normalisation (section 3.3).

    CIFAR is CIFAR-10 in its binary version, or a folder with train/ and test/ and in each a folder of images a class.
    For each neuron the learning rates race for 25% training error; then the fastest is run from the other seeds. OUT
    gets a figure, a table and JSON. Killed at any time, the same command goes on, to the same bits; more --seeds
    or --jobs continue what is there.

    Example: alexnet figure1 /data/cifar10 --seeds 3 --out figure1
    """
    with quick_imports():
        from .commands.figure1 import run_experiment
        from .tables import print_experiment

    result = run_experiment(cifar, out=out, **asked)
    show_json(json.dumps(result.record())) if as_json else print_experiment(result, out)
