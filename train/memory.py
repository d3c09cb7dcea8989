"""Does a batch fit into a device's memory, and what is left beside it? Checked before anything is allocated.

Calculated from the shapes of `network/size.py` and how a mesh shares them.
"""

from __future__ import annotations

from math import prod

import torch

from ..pipeline.errors import UserError
from ..pipeline.machine import hardware
from .config import Config
from .network.size import describe
from .parallel.dims import ONE_RANK, ParallelDims

COPIES_OF_ACTIVATIONS = 4  # measured: the output, its gradient, what normalisation and pooling keep
WORKSPACE = 1.5  # of what a step takes, if none of it may be missing: convolutions need scratch, allocators round up
RESERVE = 2**31  # bytes for libraries, communicators, and what the loader has in flight


def check_memory(
    config: Config, num_classes: int, device: torch.device, dims: ParallelDims = ONE_RANK, num_sharing: int = 1
) -> None:
    """Raise UserError if a batch cannot fit, and name one that would. `num_sharing` ranks use this device."""
    fixed, per_image = _needed_bytes(config, num_classes, device, dims, num_sharing)
    available = available_bytes(device)
    fits = int((available - fixed) / per_image)
    if fits >= config.batch_size:
        return
    need = (fixed + config.batch_size * per_image) / 2**30
    advice = f"--batch-size {fits} would fit." if fits > 0 else "Not even one image fits; lower --width."
    raise UserError(
        f"Training with a batch of {config.batch_size} takes about {need:.1f} GiB, and {device.type} memory has "
        f"{available / 2**30:.1f} GiB free. {advice}"
    )


def room_for_images(
    config: Config, num_classes: int, device: torch.device, dims: ParallelDims = ONE_RANK, num_sharing: int = 1
) -> int:
    """Return how many bytes of images each of the `num_sharing` ranks on a device can hold beside its training."""
    fixed, per_image = _needed_bytes(config, num_classes, device, dims, num_sharing)
    left = available_bytes(device) - WORKSPACE * (fixed + config.batch_size * per_image) - num_sharing * RESERVE
    return max(int(left / num_sharing), 0)


def _needed_bytes(
    config: Config, num_classes: int, device: torch.device, dims: ParallelDims, num_sharing: int
) -> tuple[float, float]:
    """Return what all ranks on a device need: in any case, and for each image of a batch.

    Parameters are held three times (weights, gradients, velocities) and every activation about
    `COPIES_OF_ACTIVATIONS` times, in float32 on CPUs and half of that on GPUs. A mesh shares both.
    """
    rows = describe(config, num_classes)
    width = 4 if device.type == "cpu" else 2
    activations = prod(config.image_shape) + COPIES_OF_ACTIVATIONS * sum(prod(row.output_shape) for row in rows)
    fixed = 3 * 4 * sum(row.parameters for row in rows) * num_sharing / dims.mp
    return fixed, activations * width * num_sharing / dims.num_ranks


def available_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU or, for the CPU, what this process may still use."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else hardware.memory()[0]
