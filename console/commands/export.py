"""`alexnet export`: a trained network for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from ...train.export.export import ENDINGS, Exported, Format, export, require_place
from ...train.export.onnx_graph import Given
from ...train.saved import load_saved, network_file


def run_export(checkpoint: Path, out: Path | None, *, to: Format, given: Given | None, check: bool) -> Exported:
    """Write the network; by default into the current folder, under the name of its run or checkpoint."""
    if to != "onnx" and (given or not check):
        raise click.UsageError(f"--input and --no-check are for --to onnx: leave them out with --to {to}.")
    file = network_file(checkpoint)
    name = checkpoint.resolve().name if checkpoint.is_dir() else file.stem
    place = out or Path(f"{name}{ENDINGS[to][0]}")
    require_place(place, to)
    return export(load_saved(file), place, to, given=given or "uint8", check=check)


def describe(done: Exported) -> str:
    """Say what was written and how well it was checked."""
    out, *others = done.files
    text = f"Written to {out} ({out.stat().st_size / 1e6:.1f} MB)"
    text += f", with the names of its classes in {others[0]}." if others else "."
    if done.input:
        text += f" It takes {done.input}."
    if agreement := done.agreement:
        text += (
            f" onnxruntime and this program differ by {agreement.largest_difference:.1g} at most in the logits of "
            f"{agreement.num_images} drawn images, of which {agreement.same_top5} have the same five best classes."
        )
    return text
