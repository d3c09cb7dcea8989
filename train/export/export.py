"""A trained network, written for other programs: torchvision's weights, safetensors or ONNX.

`alexnet export` asks for it. What a format cannot hold is refused before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ...pipeline.dataset.classes import CLASS_FILE, class_lines, is_numbered
from ...pipeline.errors import UserError
from ...pipeline.files import whole_file, write_atomically
from ..checkpoint import Checkpoint
from ..classifier import treatment_of
from ..network.model import AlexNet
from ..published import ENDINGS as PTH_ENDINGS
from ..published import to_torchvision
from ..safe_tensors import ENDING, facts_about, save_safetensors
from .onnx_check import Agreement, require_agreement
from .onnx_graph import Given, build_onnx, describe_input

Format = Literal["torchvision", "safetensors", "onnx"]
ENDINGS: dict[Format, tuple[str, ...]] = {"torchvision": PTH_ENDINGS, "safetensors": (ENDING,), "onnx": (".onnx",)}


@dataclass(frozen=True)
class Exported:
    """The files that were written, and of ONNX's what it takes and how well it agrees with the network."""

    files: list[Path]
    input: str | None = None  # what ONNX's takes
    agreement: Agreement | None = None  # None: not checked


def require_place(out: Path, to: Format) -> None:
    """Raise UserError unless `out` is a name that the format has, and nothing is there yet."""
    if out.suffix not in ENDINGS[to]:
        raise UserError(f"--out {out}: a file for {to} ends in {' or '.join(ENDINGS[to])}.")
    if out.exists():
        raise UserError(f"{out} exists already: delete it, or choose another name with --out.")


def export(saved: Checkpoint, out: Path, to: Format, *, given: Given = "uint8", check: bool = True) -> Exported:
    """Write a network to `out`; ONNX as for images `given` so, and after a check with onnxruntime.

    UserError if the format cannot hold the network, a package is missing, or a file is there already.
    """
    require_place(out, to)
    if to == "torchvision":
        return Exported(_write_torchvision(saved, out))
    if to == "safetensors":
        save_safetensors(out, saved)
        return Exported([out])
    model, treatment = AlexNet.restored(saved), treatment_of(saved)
    content = build_onnx(model, treatment, given, facts_about(saved))
    agreement = require_agreement(content, model, treatment, given) if check else None
    write_atomically(out, content)
    return Exported([out], describe_input(treatment, given), agreement)


def _write_torchvision(saved: Checkpoint, out: Path) -> list[Path]:
    """Write the weights, and the names of their classes, if they have any, where `published.load_published` looks."""
    weights, names = to_torchvision(saved), out.with_name(CLASS_FILE)
    lines = class_lines(saved.classes)
    if names.exists() and names.read_bytes() != lines:
        raise UserError(f"{names} names other classes than this network's: choose another folder with --out.")
    if not is_numbered(saved.classes):
        write_atomically(names, lines)
    with whole_file(out) as file:
        torch.save({name: tensor.clone() for name, tensor in weights.items()}, file)
    return [out, names] if names.exists() else [out]
