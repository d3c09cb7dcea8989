"""The commands that take something out of a network: arguments in, calls out. `cli.py` adds them to the others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .command_options import codes_options, export_options, features_options
from .data_options import data_options
from .imports import quick_imports
from .options import ANY_PATH, FOLDER, LOCAL_PATH, json_option, loading_options, mesh_options, views_option
from .terminal import say, show_json


@click.command()
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH, metavar="CKPT [DATA | IMAGE...]")
@features_options
@views_option
@data_options
@mesh_options
@loading_options
@json_option
def features(paths: tuple[Path, ...], out: Path, as_json: bool, **asked: Any) -> None:
    """The activations of a layer for every image of a split, or for image files, as an array that numpy can map.

    They are taken before dropout, and averaged over the views. OUT/index.jsonl has a line for each row of
    OUT/features.npy: name, label, class. Images that cannot be read are left out and listed in OUT/features.json.
    After an interruption the same command goes on where it was.

    Example: alexnet features runs/first /data/imagenet --layer fc7 --split val --out fc7
    """
    with quick_imports():
        from .commands.features import run_features
        from .tables import print_features

    if found := run_features(paths, out=out, **asked):  # the first rank prints
        show_json(json.dumps({"out": str(out)} | asdict(found))) if as_json else print_features(out, found)


@click.command()
@click.argument("folder", type=FOLDER, metavar="FEATURES")
@codes_options
@json_option
def codes(folder: Path, out: Path, as_json: bool, **asked: Any) -> None:
    """Compress features to short binary codes, as the paper suggests, and measure how well they find neighbours.

    FEATURES is a folder from `alexnet features`. An auto-encoder is trained on it; OUT gets codes.npy, a row for each
    row of features, encoder.npz and codes.json. Recall@10 is the share of the 10 exact nearest neighbours that are
    among the 10 (and 100) nearest by Hamming distance, for queries that took no part in the training.

    Example: alexnet codes fc7 --bits 128 --out fc7-codes
    """
    with quick_imports():
        from .commands.codes import run_codes
        from .tables import print_codes

    report = run_codes(folder, out, **asked)
    show_json(json.dumps({"out": str(out)} | asdict(report))) if as_json else print_codes(out, report)


@click.command()
@click.argument("checkpoint", type=LOCAL_PATH, metavar="CKPT")
@export_options
@json_option
def export(checkpoint: Path, out: Path | None, as_json: bool, **asked: Any) -> None:
    """Write a trained network for other programs, as torchvision's weights, safetensors or ONNX.

    torchvision's alexnet can hold a network of preset owt; the other formats hold any network, both towers.
    `evaluate`, `predict` and every other command that takes a CKPT read torchvision's weights and safetensors back.

    Example: alexnet export runs/first --to onnx --out first.onnx
    """
    with quick_imports():
        from .commands.export import describe, run_export

    done = run_export(checkpoint, out, **asked)
    show_json(json.dumps(asdict(done), default=str)) if as_json else say(describe(done))
