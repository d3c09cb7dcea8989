"""How far the result of training depends on the seed and on the CPU's instruction set.

    python benchmarks/seeds.py DATA OUT.jsonl [--seeds 10] [--jobs 2] [-- OPTIONS of `alexnet train`]

Without OPTIONS it trains as `alexnet demo` does. Each seed is trained under every pair of ATEN_CPU_CAPABILITY (torch's
own kernels) and ONEDNN_MAX_CPU_ISA (convolutions and matrix products), `--jobs` at a time with one thread each.
Every run adds a line to OUT.jsonl; started again, the script does only what is missing. It ends with a table of medians
and ranges.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import click

from alexnet.console.commands.demo import TRAINING
from alexnet.console.tables import print_table

ATEN, ONEDNN = ("default", "avx2", ""), ("SSE41", "AVX2", "")  # "": unset, all that the CPU has


def train(data: Path, stats: Path, seed: int, aten: str, onednn: str, options: list[str]) -> dict[str, Any]:
    """Train once, in a temporary folder, and return the validations."""
    isa = {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn}
    env = {k: v for k, v in (os.environ | isa).items() if k not in isa or v} | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "alexnet.cli", "train", str(data), "--stats", str(stats), "--run", folder]
        subprocess.run(
            [*command, *options, "--seed", str(seed), "--threads", "1"],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
        records = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    validations = [r for r in records if r["kind"] == "val"]
    return {
        "seed": seed,
        "aten": aten,
        "onednn": onednn,
        "top1_error": validations[-1]["top1_error"],
        "top5_error": validations[-1]["top5_error"],
        "by_epoch": [round(v["top1_error"], 4) for v in validations],
        "warnings": [r["text"] for r in records if r["kind"] == "warning"],
    }


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seeds", default=10, show_default=True, help="0, 1, 2, ...")
@click.option("--jobs", default=2, show_default=True, help="Runs at a time.")
@click.option("--aten", default=",".join(ATEN), show_default=True)
@click.option("--onednn", default=",".join(ONEDNN), show_default=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(data: Path, out: Path, seeds: int, jobs: int, aten: str, onednn: str, options: tuple[str, ...]) -> None:
    stats = out.with_suffix(".stats.json")
    subprocess.run(
        [sys.executable, "-m", "alexnet.cli", "pca-stats", str(data), "--out", str(stats)],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    cells = list(product(aten.split(","), onednn.split(",")))
    done = {(r["seed"], r["aten"], r["onednn"]) for r in read(out)}
    missing = [(s, *cell) for s in range(seeds) for cell in cells if (s, *cell) not in done]
    with ThreadPoolExecutor(jobs) as pool:
        runs = pool.map(lambda job: train(data, stats, *job, list(options) or TRAINING.split()), missing)
        for number, run in enumerate(runs, start=1):
            with out.open("a") as file:
                file.write(json.dumps(run) + "\n")
            print(f"{number}/{len(missing)}: {run}", file=sys.stderr)
    show(read(out))


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def show(runs: list[dict[str, Any]]) -> None:
    """Print median and range of the errors, by instruction set and overall."""
    cells = sorted({(r["aten"], r["onednn"]) for r in runs})
    groups = {
        f"{aten or 'unset'}, {onednn or 'unset'}": [r for r in runs if (r["aten"], r["onednn"]) == (aten, onednn)]
        for aten, onednn in cells
    } | {"all": runs}
    rows = [
        (name, len(group), *(_spread([r[key] for r in group]) for key in ("top1_error", "top5_error")))
        for name, group in groups.items()
        if group
    ]
    print_table(
        "Errors of the last epoch: median (lowest to highest)",
        ("ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA", "runs", "top-1", "top-5"),
        rows,
    )


def _spread(errors: list[float]) -> str:
    return f"{median(errors):.1%} ({min(errors):.1%} to {max(errors):.1%})"


if __name__ == "__main__":
    main()
