"""Layers of cuda-convnet that torch has not: locally connected ones, and its overlapping pooling.

`networks.py` builds its networks of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network.lrn import response_norm

POOL, STRIDE = 3, 2  # overlapping, as in the paper


class LocallyConnected2d(nn.Module):
    """A convolution whose weights and biases differ from place to place (cuda-convnet's type `local`).

    Maps (B, in_channels, H, W) to (B, out_channels, H, W), with zeros beyond the edge. The weight is (H, W, K x K x
    in_channels, out_channels) and the bias (H, W, out_channels). All places are one batched matrix product, and the
    output is a view of its (H, W, B, out_channels), so that layers in a row copy little.
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int], kernel_size: int) -> None:
        super().__init__()
        self.size, self.kernel_size = size, kernel_size
        self.weight = nn.Parameter(torch.empty(*size, kernel_size**2 * in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(*size, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        (height, width), border = self.size, self.kernel_size // 2
        x = F.pad(x.permute(2, 3, 0, 1), (0, 0, 0, 0, *(border,) * 4))  # (H + K - 1, W + K - 1, B, in_channels)
        shifts = [(top, left) for top in range(self.kernel_size) for left in range(self.kernel_size)]
        patches = torch.cat([x[top : top + height, left : left + width] for top, left in shifts], dim=3)
        bias, weight = self.bias.flatten(0, 1).unsqueeze(1), self.weight.flatten(0, 1)
        outputs = torch.baddbmm(bias, patches.flatten(0, 1), weight)  # (H x W, B, out_channels)
        return outputs.unflatten(0, self.size).permute(2, 3, 0, 1)


class Pool(nn.Module):
    """3x3 windows, stride 2, in cuda-convnet's geometry: the count of windows is rounded up, 32 -> 16 -> 8 -> 4.

    The last window may lie one pixel beyond the right and lower edges; an average is over the pixels that are there.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        pool = F.max_pool2d if self.kind == "max" else F.avg_pool2d
        return pool(x, POOL, STRIDE, ceil_mode=True)


class CrossMapNorm(nn.Module):
    """The response normalisation of cuda-convnet's 11% network: 9 maps, alpha 0.001 (over 9), beta 0.75, k 1."""

    SIZE, ALPHA, BETA, K = 9, 0.001, 0.75, 1.0

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, 1, self.SIZE, self.ALPHA / self.SIZE, self.BETA, self.K)
