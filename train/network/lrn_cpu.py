"""Response normalisation on CPUs, in one pass each way by `lrn_cpu.c`.

`fast_layers.py` chooses it. Tests compare it with `lrn.py`, the same in plain torch, which takes four times as long: a
quarter of a whole training step.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...pipeline.compiled import load
from ...pipeline.plan import share

SMALL = 1 << 16  # numbers; one thread is done with so few before another could start
BYTES = 4  # of a float32


def response_norm(x: Tensor, groups: int | None, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Apply `lrn.response_norm` to float32 (B, C, H, W); the result is channels_last."""
    return _ResponseNorm.apply(x, groups, size, alpha, beta, k)


class _ResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *constants: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.constants = constants
        return _run(x, None, *constants)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _run(x, g, *ctx.constants), None, None, None, None, None


def _run(x: Tensor, g: Tensor | None, groups: int | None, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Return the output for `x` or, given the output's gradient `g`, the gradient of `x`. Threads share the work."""
    x = x.contiguous(memory_format=torch.channels_last)
    g = None if g is None else g.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    _, channels, height, width = x.shape
    if groups is None:
        function, part = _library().spatial_norm, [height, width, channels]  # an image
    else:
        function, part = _library().response_norm, [channels // groups]  # a tower's channels at one pixel
    part_size = prod(part)
    num_threads = torch.get_num_threads() if x.numel() > SMALL else 1

    def run(thread: int) -> None:
        parts = share(x.numel() // part_size, thread, num_threads)

        def address(tensor: Tensor | None) -> int | None:
            return None if tensor is None else tensor.data_ptr() + parts.start * part_size * BYTES

        count = parts.stop - parts.start
        if function(count, *part, size // 2, alpha, beta, k, address(x), address(g), address(out)):
            raise MemoryError("There is no memory left for response normalisation.")

    if num_threads == 1:
        run(0)
        return out
    with ThreadPoolExecutor(num_threads, thread_name_prefix="alexnet-norm") as pool:
        list(pool.map(run, range(num_threads)))  # raises what a thread raised
    return out


@cache
def _library() -> Any:
    library = load(Path(__file__).with_name("lrn_cpu.c"))
    for function, num_sizes in ((library.response_norm, 3), (library.spatial_norm, 5)):
        function.argtypes = [*[ctypes.c_int64] * num_sizes, *[ctypes.c_float] * 3, *[ctypes.c_void_p] * 3]
    return library
