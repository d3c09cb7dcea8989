"""Response normalisation (paper s3.3) in plain torch, the reference for `lrn_cpu.py` and `lrn_triton.py`.

`model.py` builds its norm1, norm2 and spatial2 from it; `fast_layers.py` replaces them where a kernel works.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..config import Config


class LocalResponseNorm(nn.Module):
    """Divide each unit of (B, C, H, W) by (k + alpha x sum of squares over neighbouring channels) ** beta.

    The window of `lrn_size` channels is clipped at the edges of each of the `groups` towers (paper s3.3); with
    `lrn_across_towers` they count as one.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.groups = 1 if config.lrn_across_towers else config.towers
        self.size, self.beta, self.k = config.lrn_size, config.lrn_beta, config.lrn_k
        self.alpha = config.lrn_alpha / (config.lrn_size if config.lrn_alpha_over_n else 1)

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, self.groups, self.size, self.alpha, self.beta, self.k)


class SpatialResponseNorm(nn.Module):
    """Divide each unit of (B, C, H, W) by (1 + 0.001 x mean of squares over 5x5 places of its channel) ** 0.75.

    Beyond the edge are zeros. The second norm of layer 2 in the authors' code ([O] layers-145.cfg rnorm2); its constant
    1 is inferred.
    """

    size, alpha, beta, k = 5, 0.001 / 25, 0.75, 1.0

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, None, self.size, self.alpha, self.beta, self.k)


def response_norm(x: Tensor, groups: int | None, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Normalise any floating-point (B, C, H, W) over `size` channels of each tower; without groups, over size x size.

    It is `LocalResponseNorm` or `SpatialResponseNorm` as a function.
    """
    return _ResponseNorm.apply(x, groups, size, alpha, beta, k)


class _ResponseNorm(torch.autograd.Function):
    """y = x r with r = s ** -beta, s = k + alpha W(x x), and W the window sum.

    W is its own transpose, so dx = g r - 2 alpha beta x W(g x r / s). Memory traffic is the cost, hence the operations
    in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int | None, size: int, alpha: float, beta: float, k: float) -> Tensor:
        s = _window_sum(x * x, groups, size, alpha).add_(k)
        r = inverse_power(s, beta).to(x.dtype)  # autocast takes roots in float32
        ctx.save_for_backward(x, s, r)
        ctx.constants = groups, size, -2 * alpha * beta
        return x * r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, s, r = ctx.saved_tensors
        groups, size, scale = ctx.constants
        g = g * r
        dx = _window_sum((g * x).div_(s), groups, size, scale).mul_(x).add_(g)
        return dx, None, None, None, None, None


def _window_sum(x: Tensor, groups: int | None, size: int, scale: float) -> Tensor:
    """Return `scale` x the sum of (B, C, H, W) over `size` neighbouring channels, within each of `groups` towers.

    Adding shifted copies is as fast in either memory format as a product with a band matrix, and more exact. Without
    groups the sum is over size x size places of a channel.
    """
    if groups is None:
        return F.avg_pool2d(x, size, 1, size // 2).mul_(scale * size * size)
    total = x * scale
    x_towers, total_towers = (t.unflatten(1, (groups, -1)) for t in (x, total))  # views (B, groups, C', H, W)
    for shift in range(1, min(size // 2, x_towers.shape[2] - 1) + 1):
        total_towers[:, :, shift:].add_(x_towers[:, :, :-shift], alpha=scale)
        total_towers[:, :, :-shift].add_(x_towers[:, :, shift:], alpha=scale)
    return total


def inverse_power(x: Tensor, beta: float) -> Tensor:
    """Return x ** -beta of positive x. Square roots give the paper's 3/4 several times faster than pow."""
    if beta != 0.75:
        return x.pow(-beta)
    root = x.rsqrt()
    return root * root.sqrt()
