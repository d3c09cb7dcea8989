"""A training run at one step, as a file: whole or absent, the same for any mesh, and free of code.

`trainer.py` saves and resumes with it; `saved.py` reads it and other files of networks. A file is a zip of numpy arrays
(`.npz`, whose checksums detect damage): "model/conv1.weight" and "momentum/conv1.weight" hold whole layers,
"array/<name>" the run's other arrays, and "metadata" JSON. No pickle is written or read.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import __version__
from ..pipeline.dataset.classes import first_difference
from ..pipeline.dataset.images import Dataset
from ..pipeline.dataset.selection import EVERYTHING, Selection
from ..pipeline.errors import CheckpointError
from ..pipeline.files import whole_file
from .config import Config
from .network.shapes import empty_parameters
from .optimizer import momentum_by_name
from .unreadable import not_ours

FORMAT, VERSION = "alexnet-checkpoint", 1
METADATA = {  # fields of `Checkpoint` in the file's JSON, beside the configuration
    "classes": list,
    "words": dict,
    "epoch": int,
    "step": int,
    "rates": dict,
    "schedule": dict,
    "stats_fingerprint": str,
    "dataset_fingerprint": str,
    "versions": dict,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run continues from, or that a network needs. Tensors are float32 or float64; `load` puts them on the
    CPU."""

    config: Config
    classes: list[str]
    words: dict[str, str] = field(default_factory=dict)  # what people call the classes, as far as known
    epoch: int  # in which training continues, from 0
    step: int  # steps taken since the start of training
    model: dict[str, Tensor]  # parameters by name, both towers
    momentum: dict[str, Tensor] = field(default_factory=dict)  # SGD's buffers by parameter name
    rates: dict[str, float] = field(default_factory=dict)  # lr of each optimizer group: the momentum's unit
    schedule: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray] = field(default_factory=dict)  # of any other kind: the treatment's mean and divisor
    published: bool = False  # torchvision's weights: numbered classes are ImageNet's synsets in their order
    stats_fingerprint: str = ""
    dataset_fingerprint: str = ""
    versions: dict[str, str] = field(default_factory=lambda: tool_versions())
    selection: Selection = EVERYTHING  # which images of the data set it is trained on


def tool_versions() -> dict[str, str]:
    """Return the versions that write a checkpoint here; for people, no code reads them."""
    return {
        "alexnet": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path`; on return it is on disk. An OSError leaves what was there before."""
    entries = _entries(checkpoint)
    needed = sum(entry.nbytes for entry in entries.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path, needed) as file:
            np.savez(file, **entries)  # type: ignore[arg-type]  # its stub takes any name for `allow_pickle`
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        problem = (
            f"cannot write {path}: {error.strerror or error}; it needs {needed / 1e6:.1f} MB "
            f"and {free / 1e6:.1f} MB are free; earlier ones are intact"
        )
        raise OSError(error.errno, problem) from error


def _entries(checkpoint: Checkpoint) -> dict[str, NDArray]:
    """Return the arrays of the file by name."""
    tensors = {"model": checkpoint.model, "momentum": checkpoint.momentum}
    entries = {
        f"{kind}/{name}": np.ascontiguousarray(tensor.detach().cpu().numpy())
        for kind, named in tensors.items()
        for name, tensor in named.items()
    }
    entries |= {f"array/{name}": np.asarray(array) for name, array in checkpoint.arrays.items()}
    if pickled := [name for name, entry in entries.items() if entry.dtype.hasobject]:
        raise ValueError(f"checkpoint array {pickled[0]} holds Python objects: give it numbers")
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": asdict(checkpoint.config),
        **{name: getattr(checkpoint, name) for name in METADATA},
    }
    if selection := checkpoint.selection.record():
        metadata["selection"] = selection
    return {"metadata": np.array(json.dumps(metadata)), **entries}


def load(path: Path) -> Checkpoint:
    """Read and check `path`; a CheckpointError says what is wrong with it."""
    entries = _read(path)
    metadata = _parse_metadata(path, entries.pop("metadata", None))
    config = read_config(path, metadata)
    parts: dict[str, dict[str, NDArray]] = {"model": {}, "momentum": {}, "array": {}}
    for name, entry in entries.items():
        kind, _, rest = name.partition("/")
        if kind not in parts:
            raise CheckpointError(f"{path}: unknown entry {name!r}")
        parts[kind][rest] = entry
    expected = empty_parameters(config, len(metadata["classes"]))
    check_parameters(f"{path}: model", expected, parts["model"])
    if parts["momentum"]:
        check_parameters(f"{path}: momentum", expected, parts["momentum"])
    return Checkpoint(
        config=config,
        model={name: torch.from_numpy(entry) for name, entry in parts["model"].items()},
        momentum={name: torch.from_numpy(entry) for name, entry in parts["momentum"].items()},
        arrays=parts["array"],
        selection=selection_in(path, metadata),
        **{name: metadata[name] for name in METADATA},
    )


def _read(path: Path) -> dict[str, NDArray]:
    """Return every entry of the file, with its checksum verified."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            begins_as_zip = file.read(2) == b"PK"
        raise CheckpointError(f"{path}: cut short: copy it again") if begins_as_zip else not_ours(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a dozen types, from zip, zlib, numpy's parser or the disk
        raise CheckpointError(f"{path}: damaged: {error}") from error


def _parse_metadata(path: Path, entry: NDArray | None) -> dict[str, Any]:
    try:
        metadata = json.loads(str(entry))
        if entry is None or metadata["format"] != FORMAT:
            raise KeyError("format")
        version = int(metadata["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise not_ours(path) from error
    if version > VERSION:
        raise CheckpointError(f"{path}: format {version} is newer than this program's, {VERSION}: update alexnet")
    check_types(path, metadata, METADATA)
    return metadata


def check_types(path: Path, metadata: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise CheckpointError unless the file's metadata has a value of its type for each name."""
    for name, kind in kinds.items():
        if not isinstance(metadata.get(name), kind):
            raise CheckpointError(f"{path}: metadata {name}: expected {kind.__name__}, found {metadata.get(name)!r}")


def read_config(path: Path, metadata: Mapping[str, Any]) -> Config:
    """Return the configuration in the file's metadata; CheckpointError if it is another version's."""
    try:
        return Config.from_dict(metadata["config"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: its configuration does not fit this version: {error}") from error


def selection_in(path: Path, metadata: Mapping[str, Any]) -> Selection:
    """Return on which images of its data set a network was trained; files of whole data sets do not tell."""
    try:
        return Selection.from_record(metadata.get("selection", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: metadata selection: {error}") from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says beside its arrays, which are not read; CheckpointError if it is damaged."""
    if not zipfile.is_zipfile(path):
        raise not_ours(path)
    with np.load(path, allow_pickle=False) as archive:
        return _parse_metadata(path, archive["metadata"] if "metadata" in archive.files else None)


def check_parameters(what: str, expected: Mapping[str, Tensor], found: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless `found` has the names and shapes of `expected`, in float32 or float64."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            raise CheckpointError(f"{what} {name} is {'missing' if name in expected else 'unknown'}")
        want, have = tuple(expected[name].shape), tuple(found[name].shape)
        if want != have:
            raise CheckpointError(f"{what} {name}: expected shape {want}, found {have}: another network?")
        if str(found[name].dtype).removeprefix("torch.") not in ("float32", "float64"):
            raise CheckpointError(f"{what} {name}: expected float32 or float64, found {found[name].dtype}")


def check_trained_on(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Raise CheckpointError unless the run can continue on this training set."""
    if tuple(checkpoint.classes) != dataset.classes:
        difference = first_difference(checkpoint.classes, dataset.classes)
        raise CheckpointError(
            f"The checkpoint was trained on other classes than those of {dataset.where} ({difference}). "
            "Give the data set it was trained on, or start a new run."
        )
    if checkpoint.dataset_fingerprint != dataset.fingerprint:
        raise CheckpointError(
            f"The checkpoint was trained on another data set than {dataset.where} "
            "(its images, their sizes or their classes differ). Give the one it was trained on, or "
            "start a new run."
        )


@torch.no_grad()
def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Copy the state into a network and its optimizer; `set_rates` then continues as if uninterrupted.

    On a mesh the checkpoint's tensors must be cut to this rank's part already. CheckpointError if shapes differ.
    """
    check_parameters("checkpoint: model", model.state_dict(), checkpoint.model)
    model.load_state_dict(checkpoint.model)
    if optimizer is None:
        return
    buffers = momentum_by_name(model, optimizer)
    check_parameters("checkpoint: momentum", buffers, checkpoint.momentum)
    for name, buffer in buffers.items():
        buffer.copy_(checkpoint.momentum[name])
    for group in optimizer.param_groups:
        group["lr"] = checkpoint.rates[group["name"]]


def checkpoint_path(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}.npz"


def saved_checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoint files of a run, oldest step first."""
    steps = {path: path.stem.removeprefix("step-") for path in (run_dir / "checkpoints").glob("step-*.npz")}
    return sorted((path for path in steps if steps[path].isdecimal()), key=lambda path: int(steps[path]))


def latest(run_dir: Path) -> Path | None:
    """Return the newest whole checkpoint of a run; report and skip damaged ones."""
    for path in reversed(saved_checkpoints(run_dir)):
        try:
            load(path)
        except CheckpointError as error:
            log.warning("Skipping a damaged checkpoint: %s", error)
        else:
            return path
    return None


def newest_of(path: Path) -> Path:
    """Return the checkpoint file itself, or the newest whole one of a run folder."""
    found = latest(path) if path.is_dir() else path
    if found is None:
        raise CheckpointError(f"{path}: no whole checkpoint in its checkpoints folder")
    return found


def prune(newest: Path, keep: int) -> None:
    """Delete a run's checkpoints except the last `keep` up to `newest`, and half-written files.

    Checkpoints after `newest` are deleted too: they date from before the run was resumed from an earlier one.
    """
    if keep < 1:
        raise ValueError(f"keep = {keep}: keep at least one checkpoint")
    saved = saved_checkpoints(newest.parent.parent)
    kept = saved[: saved.index(newest) + 1][-keep:]
    for path in (*(p for p in saved if p not in kept), *newest.parent.glob(".step-*")):
        path.unlink(missing_ok=True)
