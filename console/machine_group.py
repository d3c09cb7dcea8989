"""The commands about a machine and its speed: arguments in, calls out. `cli.py` adds them to the others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .command_options import bench_loader_options, bench_train_options
from .data_options import data_argument
from .imports import quick_imports
from .options import execution_option, json_option, loading_options, mesh_options
from .terminal import show_json


@click.command("bench-loader")
@data_argument
@bench_loader_options
@loading_options
@json_option
def bench_loader(data: Path | None, as_json: bool, **rest: Any) -> None:
    """Measure the training loader in images per second, stage by stage, against its own ceiling.

    The stages are read (bytes and headers), decode (whole images, nothing else), pipeline (the training graph) and
    loader (the same, as torch tensors), from memory and, as in a first epoch, from disk. Lists symptoms, and the
    options that help. Without DATA, it generates JPEGs of ImageNet's sizes in the cache folder, once.

    Example: alexnet bench-loader /data/imagenet --step --sweep --plot loader.png
    """
    with quick_imports():
        from .bench_tables import print_loader_bench
        from .commands.bench import run_bench_loader

    result = run_bench_loader(data, **rest)
    show_json(result.to_json()) if as_json else print_loader_bench(result)


@click.command("bench-train")
@data_argument
@bench_train_options
@mesh_options
@execution_option
@loading_options
@json_option
def bench_train(data: Path | None, as_json: bool, **rest: Any) -> None:
    """Measure training on a mesh in images per second: the step alone on a cached batch, and with the loader.

    Also shows the time spent waiting for other ranks and for data, and the bytes sent, counted and calculated.

    Example: alexnet bench-train /data/imagenet --mesh 1x2
    """
    with quick_imports():
        from .bench_tables import print_train_bench
        from .commands.bench import run_bench_train

    if result := run_bench_train(data, **rest):  # None on all ranks but the first
        show_json(json.dumps(asdict(result))) if as_json else print_train_bench(result)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show what this machine has and, for each thing it lacks, what that costs and how to get it.

    Example: alexnet doctor
    """
    with quick_imports():
        from ..pipeline.machine.doctor import diagnose
        from .tables import print_findings

    findings = diagnose()
    show_json(json.dumps({"findings": [asdict(f) for f in findings]})) if as_json else print_findings(findings)
