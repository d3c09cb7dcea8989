"""The commands of `alexnet figure`: arguments in, calls out, as in `cli.py`, which adds the group to the others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .command_options import embedding_options, figure_out_option, neighbours_options
from .data_options import data_argument
from .imports import quick_imports
from .options import LOCAL_PATH, LoadingOptions, json_option, loading_options, views_option
from .terminal import say, show_json
from .types import Commas


@click.group()
def figure() -> None:
    """Draw what the paper showed, from a trained network or its run.

    Example: alexnet figure kernels runs/first --out kernels.png
    """


@figure.command()
@click.argument("checkpoint", type=LOCAL_PATH, metavar="CKPT")
@figure_out_option
@click.option("--per-kernel", is_flag=True, help="Stretch each kernel to the full range, so that weak ones show too.")
@json_option
def kernels(checkpoint: Path, out: Path, per_kernel: bool, as_json: bool) -> None:
    """conv1's kernels, 16 a row, tower 0 above tower 1, and how much colour each tower holds.

    All kernels share one scale, as in the paper. A weight triple (r, g, b) is as far from grey as from (m, m, m), m its
    mean; 1 is the span of all weights.

    Example: alexnet figure kernels runs/first --out kernels.png
    """
    with quick_imports():
        from .commands.figure import figure_kernels
        from .tables import print_tower_colours

    towers = figure_kernels(checkpoint, out, per_kernel=per_kernel)
    if as_json:
        show_json(json.dumps({"out": str(out), "towers": [asdict(tower) for tower in towers]}))
    else:
        print_tower_colours(towers)
    say(f"Written to {out}")


@figure.command()
@click.argument("checkpoint", type=LOCAL_PATH, metavar="CKPT")
@click.argument("image", type=LOCAL_PATH)
@figure_out_option
@click.option(
    "--layers",
    type=Commas(str),
    default=(),
    metavar="A,B,...",
    help="Whose maps to show, such as conv1,norm1,pool1.  [default: every conv, and pool5]",
)
@loading_options
def activations(checkpoint: Path, image: Path, out: Path, layers: tuple[str, ...], loading: LoadingOptions) -> None:
    """What each layer makes of an image: its eight strongest maps, the units of fc6 and fc7, the best classes.

    The strongest maps are those with the largest means over the central view.

    Example: alexnet figure activations runs/first cat.jpg --out cat.png
    """
    with quick_imports():
        from .commands.figure import figure_activations

    figure_activations(checkpoint, image, out, layers=layers, loading=loading)
    say(f"Written to {out}")


@figure.command()
@click.argument("checkpoint", type=LOCAL_PATH, metavar="CKPT")
@data_argument
@figure_out_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the images.")
@click.option(
    "--images",
    type=Commas(str),
    default=(),
    metavar="A,B,...",
    help="Names of validation images to show instead; the end of a name is enough.",
)
@views_option
@loading_options
@json_option
def predictions(checkpoint: Path, data: Path | None, out: Path, as_json: bool, **asked: Any) -> None:
    """Eight validation images, of different classes if there are enough, with their five most probable classes.

    Example: alexnet figure predictions runs/first /data/imagenet --out p.svg
    """
    with quick_imports():
        from .commands.figure import figure_predictions

    panel = figure_predictions(checkpoint, data, out, **asked)
    if as_json:
        show_json(json.dumps({"out": str(out), "images": panel.records()}))
    say(f"Written to {out}")


@figure.command()
@click.argument("runs", nargs=-1, required=True, type=LOCAL_PATH, metavar="RUN...")
@figure_out_option
@json_option
def curves(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Loss, errors and learning rate of runs by epoch, with when colour noise ended and conv1 froze.

    RUN is the folder of a run, which may be unfinished, or a copy of its metrics.jsonl.

    Example: alexnet figure curves runs/first runs/second --out curves.png
    """
    with quick_imports():
        from .commands.figure import figure_curves

    found = figure_curves(runs, out)
    if as_json:
        show_json(json.dumps({"out": str(out), "runs": [run.summary() for run in found]}))
    say(f"Written to {out}")


@figure.command()
@click.argument("checkpoint", type=LOCAL_PATH, metavar="CKPT")
@data_argument
@neighbours_options
@loading_options
@json_option
def neighbours(checkpoint: Path, data: Path | None, out: Path, as_json: bool, **asked: Any) -> None:
    """Five validation images, each with its six nearest training images: by fc7, and in pixels.

    All training images are searched exactly, by Euclidean distance. Activations are computed once and kept; pixels are
    those of the central 224x224 that the network sees, for which every training image is decoded.

    Example: alexnet figure neighbours runs/first /data/imagenet --out n.png
    """
    with quick_imports():
        from .commands.figure_features import figure_neighbours
        from .tables import print_neighbours

    found = figure_neighbours(checkpoint, data, out, **asked)
    show_json(json.dumps({"out": str(out)} | found)) if as_json else print_neighbours(found)
    say(f"Written to {out}")


@figure.command()
@click.argument("checkpoint", type=LOCAL_PATH, metavar="CKPT")
@data_argument
@embedding_options
@loading_options
def embedding(checkpoint: Path, data: Path | None, out: Path, **asked: Any) -> None:
    """Validation images laid out by t-SNE of their fc7: near each other where the network finds them alike.

    Where there is no room for a picture, a mark stands for it: by class if there are few classes.

    Example: alexnet figure embedding runs/first /data/imagenet --out e.png
    """
    with quick_imports():
        from .commands.figure_features import figure_embedding

    num = figure_embedding(checkpoint, data, out, **asked)
    say(f"{num:,} images. Written to {out}")
