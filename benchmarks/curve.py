"""Draw a run's history: python benchmarks/curve.py RUN OUT.png"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure


def draw(run: Path, out: Path) -> None:
    """Plot top-1 error in training and validation, top-5 error in validation, and the learning rate, by epoch."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in records if r["kind"] == "train"]
    epochs = [r for r in records if r["kind"] == "val"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    at = [r["epoch"] + r["step"] / r["steps_per_epoch"] for r in steps]
    axes.plot(at, [100 * r["top1_error"] for r in steps], color="0.6", label="top-1, training (lit, cropped, dropout)")
    ends = [r["epoch"] + 1 for r in epochs]
    axes.plot(ends, [100 * r["top1_error"] for r in epochs], color="C0", label="top-1, validation, 1 view")
    axes.plot(ends, [100 * r["top5_error"] for r in epochs], color="C1", label="top-5, validation, 1 view")
    axes.set(xlabel="epoch", ylabel="error, %", ylim=(0, 100), xlim=(0, max(ends)))
    axes.set_title(f"{run.resolve().name}: top-1 error {epochs[-1]['top1_error']:.1%}")
    axes.grid(alpha=0.3)
    rate = axes.twinx()
    rate.step(at, [r["lr"] for r in steps], color="C2", linestyle=":", label="learning rate", where="pre")
    rate.set(yscale="log", ylabel="learning rate")
    axes.legend(handles=[*axes.get_lines(), *rate.get_lines()], loc="upper right", frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
