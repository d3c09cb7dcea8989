"""Does a batch fit into a device's memory? Checked before anything is allocated, so that a smaller one can be named.

Calculated from the shapes of `network/size.py` and how a mesh shares them.
"""

from __future__ import annotations

from math import prod

import torch

from ..pipeline.errors import UserError
from ..pipeline.machine import hardware
from .config import Config
from .network.model import IMAGE_SHAPE
from .network.size import describe
from .parallel.dims import ONE_RANK, ParallelDims

COPIES_OF_ACTIVATIONS = 4  # measured: the output, its gradient, what normalisation and pooling keep


def check_memory(
    config: Config, num_classes: int, device: torch.device, dims: ParallelDims = ONE_RANK, num_sharing: int = 1
) -> None:
    """Raise UserError if a batch cannot fit, and name one that would.

    Parameters are held three times (weights, gradients, velocities) and every activation about
    `COPIES_OF_ACTIVATIONS` times, in float32 on CPUs and half of that on GPUs. A mesh shares both; `num_sharing` of
    its ranks use this device.
    """
    rows = describe(config, num_classes)
    width = 4 if device.type == "cpu" else 2
    activations = prod(IMAGE_SHAPE) + COPIES_OF_ACTIVATIONS * sum(prod(row.output_shape) for row in rows)
    per_image = activations * width * num_sharing / dims.num_ranks
    fixed = 3 * 4 * sum(row.parameters for row in rows) * num_sharing / dims.mp
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


def available_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU or, for the CPU, what this process may still use."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else hardware.memory()[0]
