"""Meshes side by side: medians of `alexnet bench-train` on each, in turns.

    python benchmarks/meshes.py DATA --meshes 1x1,1x2,2x1 --width 0.25 --batch-size 64 --rounds 3

All use the same cores: on a CPU this compares one process on all cores with ranks that share them.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import click

from alexnet.console.tables import print_table


def measure(data: Path, mesh: str, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "alexnet.cli", "bench-train", str(data), "--mesh", mesh, "--rounds", "1", "--json"]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--meshes", default="1x1,1x2,2x1", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(data: Path, meshes: str, rounds: int, as_json: bool, options: tuple[str, ...]) -> None:
    """OPTIONS are those of `alexnet bench-train`."""
    found: dict[str, list[dict[str, Any]]] = {mesh: [] for mesh in meshes.split(",")}
    for _ in range(rounds):
        for mesh, results in found.items():
            results.append(measure(data, mesh, list(options)))
    if as_json:
        print(json.dumps(found))
        return
    names = ("step_images_per_second", "images_per_second", "exchange_share", "waiting_share")
    middle = {mesh: [median(r[name] for r in results) for name in names] for mesh, results in found.items()}
    first = next(iter(middle.values()))[0]
    rows = [
        (
            mesh,
            f"{step:,.1f}",
            f"{step / first:.2f}",
            f"{whole:,.1f}",
            f"{exchange:.1%}",
            f"{waiting:.1%}",
            *(f"{found[mesh][0]['sent'][kind]:,}" for kind in ("exchange", "gradients", "images")),
        )
        for mesh, (step, whole, exchange, waiting) in middle.items()
    ]
    print_table(
        "Medians",
        (
            "mesh",
            "step images/s",
            "over the first",
            "with loader",
            "blocked by ranks",
            "waiting for data",
            "bytes exchange",
            "gradients",
            "images",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
