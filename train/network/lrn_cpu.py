"""Local response normalisation on CPUs in one pass each way: `model.LocalResponseNorm` is the same in plain torch, and
what it is tested against.

`fused.py` chooses it. The work is done by `lrn.c`; torch's operations take four times as long, a quarter of a whole
training step.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...pipeline.compiled import load
from ...pipeline.plan import share

SMALL = 1 << 16  # numbers that one thread is done with before another has begun


def response_norm(x: Tensor, groups: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """`model.LocalResponseNorm` of float32 (B, C, H, W), channels_last."""
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


def _run(x: Tensor, g: Tensor | None, groups: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    g = None if g is None else g.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    tower = x.shape[1] // groups
    threads = torch.get_num_threads() if x.numel() > SMALL else 1

    def run(thread: int) -> None:
        part = share(x.numel() // tower, thread, threads)
        x_part, g_part, out_part = (None if t is None else t.data_ptr() + part.start * tower * 4 for t in (x, g, out))
        if _library()(part.stop - part.start, tower, size // 2, alpha, beta, k, x_part, g_part, out_part):
            raise MemoryError("There is no memory left to normalise.")

    with ThreadPoolExecutor(threads, thread_name_prefix="alexnet-norm") as pool:
        for _ in pool.map(run, range(threads)) if threads > 1 else map(run, (0,)):
            pass  # but errors are raised
    return out


@cache
def _library() -> Any:
    function = load(Path(__file__).with_name("lrn_cpu.c")).response_norm
    function.argtypes = [*[ctypes.c_int64] * 3, *[ctypes.c_float] * 3, *[ctypes.c_void_p] * 3]
    return function
