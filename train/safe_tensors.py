"""A trained network as a safetensors file: every tensor under its own name, and JSON that says all else.

`alexnet export` writes it, and `saved.py` reads it beside checkpoints and torchvision's weights. It holds what a
network needs to be used, not what a run needs to go on: "conv1.weight" and so on, both towers; "treatment.mean" and
"treatment.divisor"; and in the metadata, under "alexnet", the configuration, the classes and where they come from.
These are one JSON text because the package writes several entries in an order that differs from file to file.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..pipeline.errors import CheckpointError
from ..pipeline.files import write_atomically
from ..pipeline.optional import optional
from .checkpoint import Checkpoint, check_parameters, check_types, read_config, selection_in
from .config import Config
from .network.shapes import empty_parameters

ENDING = ".safetensors"
KEY, FORMAT, VERSION = "alexnet", "alexnet-network", 1
FACTS = {  # fields of `Checkpoint`
    "classes": list,
    "words": dict,
    "published": bool,
    "epoch": int,
    "step": int,
    "stats_fingerprint": str,
    "dataset_fingerprint": str,
    "versions": dict,
}
TREATMENT = "treatment."  # begins the names of what is done to pixels


def facts_about(saved: Checkpoint) -> dict[str, Any]:
    """Return what there is to know of a network beside its tensors, as JSON can hold it."""
    named = {name: getattr(saved, name) for name in FACTS}
    return {
        "format": FORMAT,
        "version": VERSION,
        "preset": saved.config.preset,
        "config": asdict(saved.config),
        **named,
    } | ({} if saved.selection.is_everything else {"selection": saved.selection.record()})


def save_safetensors(path: Path, saved: Checkpoint) -> None:
    """Write a network; on return it is on disk. An OSError leaves what was there before."""
    package = optional("safetensors.numpy", "--to safetensors", "export")
    tensors: dict[str, NDArray] = {name: tensor.detach().cpu().numpy() for name, tensor in saved.model.items()}
    tensors |= {f"{TREATMENT}{name}": saved.arrays[name] for name in ("mean", "divisor")}
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_atomically(path, package.save(tensors, {KEY: json.dumps(facts_about(saved))}))


def load_safetensors(path: Path) -> Checkpoint:
    """Read and check `path`; a CheckpointError says what is wrong with it."""
    facts, arrays = _read(path)
    check_types(path, facts, FACTS)
    config = read_config(path, facts)
    treatment = {
        name.removeprefix(TREATMENT): arrays.pop(name) for name in sorted(arrays) if name.startswith(TREATMENT)
    }
    _check_treatment(path, config, treatment)
    check_parameters(f"{path}: model", empty_parameters(config, len(facts["classes"])), arrays)
    model = {name: torch.from_numpy(array) for name, array in arrays.items()}
    named = {name: facts[name] for name in FACTS}
    selection = selection_in(path, facts)
    return Checkpoint(config=config, model=model, arrays=treatment, selection=selection, **named)


def read_facts(path: Path) -> dict[str, Any]:
    """Return what the file says of its network; the tensors are not read."""
    package = optional("safetensors", f"{path}", "export")
    with package.safe_open(path, framework="np") as file:
        return _parse(path, (file.metadata() or {}).get(KEY, ""))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Return the facts and the tensors."""
    package = optional("safetensors", f"{path}", "export")
    try:
        with package.safe_open(path, framework="np") as file:
            facts = _parse(path, (file.metadata() or {}).get(KEY, ""))
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no iterator
    except package.SafetensorError as error:
        raise CheckpointError(f"{path}: cut short, or not a safetensors file ({error}): copy it again") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
        if facts["format"] != FORMAT:
            raise KeyError("format")
        version = int(facts["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: another program's safetensors, which do not say what network they are of. Give a file from "
            "`alexnet export --to safetensors`; torchvision's weights are read as .pth"
        ) from error
    if version > VERSION:
        raise CheckpointError(f"{path}: format {version} is newer than this program's, {VERSION}: update alexnet")
    return facts


def _check_treatment(path: Path, config: Config, found: dict[str, NDArray]) -> None:
    """Raise CheckpointError unless there are a mean, of an image or a colour, and a divisor."""
    shapes = {"mean": ((3,), (config.crop, config.crop, 3)), "divisor": ((3,),)}
    for name in sorted(shapes.keys() | found.keys()):
        if name not in shapes or name not in found:
            raise CheckpointError(f"{path}: {TREATMENT}{name} is {'missing' if name in shapes else 'unknown'}")
        if found[name].shape not in shapes[name] or found[name].dtype != np.float32:
            expected = " or ".join(map(str, shapes[name]))
            raise CheckpointError(
                f"{path}: {TREATMENT}{name}: expected float32 {expected}, found {found[name].dtype} {found[name].shape}"
            )
