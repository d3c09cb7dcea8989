"""When, where and on what a run was started, and each time it was resumed: `starts.jsonl` in its folder.

`trainer.py` has `history.py` write it; `report/facts.py` reads it. None of it depends on the run's results, nor they on
it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..pca.stats import tool_versions as loader_versions
from ..pipeline.dataset.images import Dataset
from ..pipeline.errors import UserError
from ..pipeline.files import write_atomically
from ..pipeline.machine import hardware
from .checkpoint import tool_versions
from .parallel.mesh import Mesh

FILE = "starts.jsonl"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A start of the run at `step` of `epoch`, from 0. The machine is the first rank's."""

    time: str  # ISO 8601, UTC
    epoch: int
    step: int
    data: str  # the training set's folder
    dataset: str  # fingerprint of the training set
    num_train: int  # images
    num_val: int
    num_classes: int
    mesh: str  # replicas x towers
    device: str  # of the first rank
    threads: int  # that decode, for each rank
    execution: str
    machine: dict[str, Any]
    versions: dict[str, str]
    selection: str = ""  # the options that chose some of the images
    pretrained: dict[str, Any] | None = None  # where a new run's first weights come from: `Pretrained.record`

    @classmethod
    def now(
        cls,
        epoch: int,
        step: int,
        train_set: Dataset,
        val_set: Dataset,
        mesh: Mesh,
        threads: int,
        execution: str,
        pretrained: dict[str, Any] | None = None,
    ) -> Start:
        return cls(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            epoch=epoch,
            step=step,
            data=train_set.where,
            dataset=train_set.fingerprint,
            num_train=len(train_set),
            num_val=len(val_set),
            num_classes=train_set.num_classes,
            mesh=str(mesh.dims),
            device=_name_of(mesh.device),
            threads=threads,
            execution=execution,
            machine={
                "processor": hardware.processor(),
                "cores": hardware.num_cores(),
                "instructions": torch.backends.cpu.get_cpu_capability(),
                "memory_gib": round(hardware.memory()[1] / 2**30, 1),
            },
            versions=loader_versions() | tool_versions(),
            selection=str(train_set.selection),
            pretrained=pretrained,
        )


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def write_start(folder: Path, start: Start) -> None:
    """Add a line; a run that begins anew drops those of an earlier one."""
    earlier = [] if (start.epoch, start.step) == (0, 0) else read_starts(folder)
    lines = [json.dumps(asdict(each)) for each in (*earlier, start)]
    write_atomically(folder / FILE, ("\n".join(lines) + "\n").encode())


def read_starts(folder: Path) -> list[Start]:
    """All starts, the first one first; none for a run that an earlier version began."""
    path = folder / FILE
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        return [Start(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}. The run does not need it: delete it.") from error
