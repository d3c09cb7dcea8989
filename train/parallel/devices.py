"""Which devices a command runs on: from `--mesh`, `--devices` and `--device` to a device for each rank of a machine."""

from __future__ import annotations

import logging
import os
from functools import cache

import torch

from ...pipeline.errors import UserError
from ...pipeline.machine.hardware import query_gpus
from .dims import CPU, ParallelDims
from .ranks import RankInfo

log = logging.getLogger("alexnet")


def single_device(wanted: str) -> torch.device:
    """Return the device of a command that uses only one; `wanted` is auto, cpu or gpu."""
    return _all_devices(wanted)[0]


def choose_devices(
    info: RankInfo,
    towers: int | None,
    *,
    mesh: str | None,
    devices: str | None,
    device: str,
) -> tuple[ParallelDims, list[torch.device]]:
    """Return the mesh, and the devices of this machine's ranks by local rank.

    torchrun or SLURM fix the number of ranks; without them there is one per device. With `towers` None, ranks share
    the batch only, unless `mesh` says otherwise. UserError if the options contradict each other or the machine.
    """
    named = _parse(devices) if devices else None
    if mesh:
        dims = ParallelDims.parse(mesh)
    else:
        num_ranks = info.size if info.size > 1 else len(named or _all_devices(device))
        dims = ParallelDims.default(num_ranks, towers or 1)
    if info.size not in (1, dims.num_ranks):
        raise UserError(f"--mesh {dims} has {dims.num_ranks} ranks, but {info.size} were started: make them equal.")
    here = info.local_size if info.size > 1 else dims.num_ranks
    if named and len(named) != here:
        raise UserError(
            f"--devices names {len(named)}, but {here} ranks of the mesh {dims} run on this machine: name one for each."
        )
    found = named or _all_devices(device)
    if len(found) < here and (found[0] == CPU or (info.size > 1 and len(found) == 1)):
        found *= here  # SLURM may show each rank only its own GPU, as cuda:0
    if len(found) < here:
        raise UserError(
            f"The mesh {dims} puts {here} ranks on this machine, which shows {len(found)} GPU to each. Give --devices "
            f"{','.join(['cuda:0'] * here)} to share one, --device cpu, or let every rank see all GPUs."
        )
    return dims, found[:here]


def ranks_by_device(info: RankInfo, device: torch.device) -> list[int]:
    """Return how many ranks share each rank's GPU, by rank; this one has `device`.

    GPUs are told apart by their UUIDs, since each rank may see its own as cuda:0.
    """
    names = info.gather("gpu", str(torch.cuda.get_device_properties(device).uuid))
    return [names.count(name) for name in names]


def _all_devices(wanted: str) -> list[torch.device]:
    if wanted == "gpu" and not torch.cuda.is_available():
        raise UserError("No GPU can be used here. `alexnet doctor` says why; --device cpu works anywhere.")
    if wanted == "auto" and not torch.cuda.is_available():
        _warn_of_idle_gpus()
    if wanted == "cpu" or not torch.cuda.is_available():
        return [CPU]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


@cache
def _warn_of_idle_gpus() -> None:
    """Say so, once, if there are GPUs that torch cannot use. An empty CUDA_VISIBLE_DEVICES hides them on purpose."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and (gpus := query_gpus("name")):
        log.warning(
            "This machine has a GPU (%s) that torch cannot use: running on the CPU. `alexnet doctor` says why; "
            "--device cpu says that it is meant.",
            gpus[0],
        )


def _parse(text: str) -> list[torch.device]:
    try:
        found = [torch.device(name.strip()) for name in text.split(",")]
    except RuntimeError:
        raise UserError(f"--devices {text}: give names such as cuda:0,cuda:1 or cpu,cpu.") from None
    count = torch.cuda.device_count()
    for device in found:
        if device != CPU and (device.type != "cuda" or device.index is None or device.index >= count):
            raise UserError(f"--devices {text}: there is no {device} here, but {count} GPUs and the cpu.")
    if len({device.type for device in found}) > 1:
        raise UserError(f"--devices {text}: give GPUs or the cpu, not both.")
    return found
