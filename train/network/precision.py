"""In which precision a device computes the network: bfloat16 beside float32 weights on GPUs that have it, else float32.

`gradient.py` and `classifier.py` run the forward pass under `autocast`, on images from `suited`.
"""

from __future__ import annotations

import torch
from torch import Tensor

BFLOAT16_SINCE = 8, 0  # compute capability: cuDNN and Triton have none for older cards, such as V100 and T4


def has_bfloat16(device: torch.device) -> bool:
    """Whether the network runs in bfloat16 on a device. CPUs compute in the precision of the weights."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= BFLOAT16_SINCE


def autocast(device: torch.device) -> torch.autocast:
    """Return the context for a forward pass on a device."""
    return torch.autocast("cuda", torch.bfloat16, enabled=has_bfloat16(device))


def suited(images: Tensor) -> Tensor:
    """Return images as a forward pass takes them: loaders send float16, which nothing computes in without autocast."""
    return images.float() if images.dtype == torch.float16 and not has_bfloat16(images.device) else images
