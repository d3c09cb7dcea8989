"""Faster versions of layers: the same functions of the same parameters, so checkpoints do not change.

`use_fast_layers` swaps them into a network of `model.py`; on a mesh, after `parallel/split.py` has cut out this rank's
part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from .lrn import LocalResponseNorm, SpatialResponseNorm
from .model import AlexNet

log = logging.getLogger("alexnet")


class SpaceToDepthConv(nn.Module):
    """conv1 for GPUs: its 11x11 kernel on 3 channels with stride 4, computed as 3x3 on 48 with stride 1.

    Tensor cores want many channels, and windows that do not overlap save memory traffic. Blocks of 4x4 pixels become
    channels, in the padded image and in the kernel, which a row and a column of zeros extend to 12x12. The parameters
    are the given layer's own.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.kernel, self.stride, self.groups = conv.kernel_size[0], conv.stride[0], conv.groups

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, h, w) as `nn.Conv2d` does; H and W are at least the kernel's size."""
        blocks = -(-self.kernel // self.stride)  # per side of the kernel: 3
        height, width = (((n - self.kernel) // self.stride + blocks) * self.stride for n in x.shape[2:])
        x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))  # negative padding crops: 227 and 230 become 228
        missing = blocks * self.stride - self.kernel
        weight = F.pad(self.weight, (0, missing, 0, missing))
        return F.conv2d(space_to_depth(x, self.stride), space_to_depth(weight, self.stride), self.bias)


def space_to_depth(x: Tensor, size: int) -> Tensor:
    """Turn (B, C, H, W) into (B, size x size x C, H / size, W / size), channels last in memory.

    Within a block the order is row, column, channel, so that a channels_last image is copied in long runs.
    """
    blocks = x.permute(0, 2, 3, 1).unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, h, size, w, size, C)
    return blocks.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


class FusedResponseNorm(LocalResponseNorm):
    """`LocalResponseNorm` in one kernel each way: `lrn_triton.py` on GPUs, `lrn_cpu.py` for float32 on CPUs.

    The kernels are imported where they are used, as Triton may be missing. By a statement: torch.compile follows it,
    but gives up a whole network for a call of `import_module`.
    """

    def __init__(self, config: Config, groups: int) -> None:
        super().__init__(config)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype != torch.float32:
            return super().forward(x)
        constants = self.groups, self.size, self.alpha, self.beta, self.k
        if x.is_cuda:
            from .lrn_triton import response_norm as by_triton

            return by_triton(x, *constants)
        from .lrn_cpu import response_norm

        return response_norm(x, *constants)


class FusedSpatialNorm(SpatialResponseNorm):
    """`SpatialResponseNorm` in one kernel each way for float32 on CPUs, by `lrn_cpu.py`."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        from .lrn_cpu import response_norm

        return response_norm(x, None, self.size, self.alpha, self.beta, self.k)


def use_fast_layers(model: AlexNet, *, conv1: bool = True, norms: bool = True) -> None:
    """Swap in the layers asked for, in place; warn about a kernel that does not work here, and leave it out."""
    if conv1:
        model.add_module("conv1", SpaceToDepthConv(model.conv1))
    if norms:
        problems = [_use_fused_norm(model, name) for name in ("norm1", "norm2", "spatial2")]
        if problem := next(filter(None, problems), None):
            log.warning("Response normalisation falls back to torch's operations, several times slower: %s", problem)


def _use_fused_norm(model: AlexNet, name: str) -> str | None:
    """Try the fused form of a norm, if it has one, and swap it in; return the reason if that fails, else None.

    Much can be missing: Triton compiles for the device that it finds, with the machine's C compiler.
    """
    plain, device = getattr(model, name), model.conv1.weight.device
    if isinstance(plain, LocalResponseNorm):
        fused: FusedResponseNorm | FusedSpatialNorm = FusedResponseNorm(model.config, plain.groups)
    elif isinstance(plain, SpatialResponseNorm) and device.type == "cpu":
        fused = FusedSpatialNorm()
    else:
        return None
    channels = len((model.conv1 if name == "norm1" else model.conv2).weight)
    try:
        wrong = not _agree(plain, fused, channels, device)
    except Exception as error:  # compilers raise anything
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if wrong:
        return "the kernel's results are wrong on this device; please report it, with the output of alexnet doctor"
    model.add_module(name, fused)
    return None


def _agree(
    plain: Callable[[Tensor], Tensor], fused: Callable[[Tensor], Tensor], channels: int, device: torch.device
) -> bool:
    """Whether outputs and gradients agree as closely as training needs, on numbers as large as activations."""
    precision = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    x, g = (100 * torch.randn(2, channels, 5, 5, generator=generator) for _ in range(2))

    def output_and_gradient(norm: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
        given = x.bfloat16().to(device, dtype, memory_format=torch.channels_last).requires_grad_()
        y = norm(given)
        return [y.detach(), *torch.autograd.grad(y, given, g.bfloat16().to(device, dtype))]

    pairs = zip(output_and_gradient(fused, precision), output_and_gradient(plain, torch.float32), strict=True)
    return all(bool((found - expected).abs().max() <= 0.01 * expected.abs().max()) for found, expected in pairs)
