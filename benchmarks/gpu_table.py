"""Print what `gpu.sh` left in a folder, a line each.

python benchmarks/gpu_table.py FOLDER [FILE...]     by default all files
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any


def lines(path: Path) -> Iterator[str]:
    """Say what a file holds; nothing if it is empty or of another kind."""
    text = path.read_text() if path.exists() else ""
    if not text.strip():
        return
    if path.suffix == ".jsonl":
        yield training([json.loads(line) for line in text.splitlines()])
        return
    found = json.loads(text)
    if stages := found.get("stages"):
        yield "  ".join(f"{stage['name']} {stage['images_per_second']:,.0f}" for stage in stages)
    if found.get("sweep"):
        yield f"recommended: {found['sweep']}"
    for result in found.get("results", []):
        rates = f"{result['images_per_second']:,.0f} images/s"
        shares = (f"{value:.1%} {name}" for name, value in result.items() if name.startswith("share"))
        yield "  ".join([result.get("contestant", "kernels"), f"batch {result['batch_size']}", rates, *shares])
    for failure in found.get("failed", []):
        yield f"{failure['contestant']}  batch {failure['batch_size']}  failed: {failure['why']}"
    if path.stem.startswith(("train", "evaluate")):
        yield json.dumps({k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)})


def training(records: list[dict[str, Any]]) -> str:
    """Return speed, waiting and losses of a run; its first tenth, the start, is left out of the speed."""
    steps = [record for record in records if record["kind"] == "train"]
    later = steps[len(steps) // 10 :]
    if not later:
        return "no step was taken"
    rates, waiting = ([record[name] for record in later] for name in ("images_per_second", "waiting"))
    losses = f"losses {steps[0]['loss']:.6f} .. {steps[-1]['loss']:.6f}"
    return f"{median(rates):,.0f} images/s, waiting {median(waiting):.2%}, {losses}"


def main(folder: Path, *names: str) -> None:
    paths = [folder / name for name in names] or sorted([*folder.glob("*.json"), *folder.glob("*.jsonl")])
    for path in paths:
        for line in lines(path):
            print(f"{path.stem:26} {line}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
