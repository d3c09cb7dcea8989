"""Local response normalisation on NVIDIA GPUs, as one Triton kernel each way.

`fast_layers.py` chooses it. Tests compare it with `lrn.py`, the same in plain torch. It reads each number once and
writes each result once, computes in float32, and keeps only its input for the backward pass. A window sum is a product
with a band of ones on tensor cores: a block holds some pixels of one tower, so no neighbours are fetched from other
threads.
"""
# ruff: noqa: N803

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64  # pixels of a block, the least for Hopper's tensor cores
WIDEST = 64  # channels of a block: 128 need more registers than a program has (ptxas for sm_90)
# Programs that a multiprocessor runs at once, forward and backward: 65,536 registers, 128 threads a program, 138 and up
# to 191 registers a thread (ptxas for sm_90). Each program makes one band for many blocks, so more would only wait.
PROGRAMS_AT_ONCE = {False: 3, True: 2}


@triton.jit
def _window_sum(x, band, PARTS: tl.constexpr):
    """Multiply float32 (ROWS, BLOCK) by a band of ones, to float32's precision: as a sum of PARTS in bfloat16."""
    total = tl.zeros(x.shape, tl.float32)
    for _ in tl.static_range(PARTS):
        part = x.to(tl.bfloat16)
        total = tl.dot(part.to(band.dtype), band, total, input_precision="ieee")
        x -= part.to(tl.float32)
    return total


@triton.jit
def _inverse_power(s, BETA: tl.constexpr):
    if BETA == 0.75:
        root = tl.rsqrt(s)
        power = root * tl.sqrt(root)
    else:
        power = tl.exp2(-BETA * tl.log2(s))
    return power


@triton.jit
def _norm(
    x_ptr,
    g_ptr,
    out_ptr,
    num_rows,
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOWER: tl.constexpr,
    HALF: tl.constexpr,
    TILES: tl.constexpr,
    HALO: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    FACTOR: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """out (num_rows, CHANNELS) = x r, or with BACKWARD g r - 2 alpha beta x W(g x r / s): see `lrn.py`.

    A program computes one tile of one tower: the channels of its block except HALO at both ends, which only serve as
    neighbours. Beyond the tower there are zeros.
    """
    tower, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    places = tl.arange(0, BLOCK)
    channels = tile * (BLOCK - 2 * HALO) - HALO + places
    inside = (channels >= 0) & (channels < TOWER)
    own = inside & (places >= HALO) & (places < BLOCK - HALO)
    distance = places[:, None] - places[None, :]
    band = ((distance <= HALF) & (distance >= -HALF)).to(FACTOR)
    for start in range(tl.program_id(1) * ROWS, num_rows, tl.num_programs(1) * ROWS):
        rows = start + tl.arange(0, ROWS)[:, None]
        offsets = rows.to(tl.int64) * CHANNELS + tower * TOWER + channels[None, :]
        mask = (rows < num_rows) & inside[None, :]
        x = tl.load(x_ptr + offsets, mask, 0.0).to(tl.float32)
        s = K + ALPHA * _window_sum(x * x, band, PARTS)
        r = _inverse_power(s, BETA)
        if BACKWARD:
            g = tl.load(g_ptr + offsets, mask, 0.0).to(tl.float32) * r
            out = g - (2 * ALPHA * BETA) * x * _window_sum(g * x / s, band, PARTS)
        else:
            out = x * r
        tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), (rows < num_rows) & own[None, :])


def _launch(x: Tensor, g: Tensor | None, groups: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    backward = g is not None
    g = x if g is None else g.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    num_rows, tower = len(x) * x.shape[2] * x.shape[3], x.shape[1] // groups
    block, halo, tiles = blocks(tower, size)
    parts = groups * tiles
    grid = (
        parts,
        min(triton.cdiv(PROGRAMS_AT_ONCE[backward] * _multiprocessors(x.device), parts), triton.cdiv(num_rows, ROWS)),
    )
    with torch.cuda.device_of(x):
        _norm[grid](
            x,
            g,
            out,
            num_rows,
            ALPHA=alpha,
            BETA=beta,
            K=k,
            CHANNELS=x.shape[1],
            TOWER=tower,
            HALF=size // 2,
            TILES=tiles,
            HALO=halo,
            BLOCK=block,
            ROWS=ROWS,
            PARTS=2 if x.dtype == torch.bfloat16 else 3,  # a square of bfloat16 has 16 bits
            FACTOR=tl.bfloat16 if x.is_cuda else tl.float32,  # Triton's interpreter has no bfloat16 dot
            BACKWARD=backward,
            num_warps=4,
            num_stages=2,
        )
    return out


def _multiprocessors(device: torch.device) -> int:
    """Return how many a GPU has; 1 for Triton's interpreter, which runs on the CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def blocks(tower: int, size: int) -> tuple[int, int, int]:
    """Cut a tower's channels: return block width (a power of two, at least 16 for tensor cores), halo, tiles.

    A gradient needs the sums of its neighbours' windows, hence a halo of two half windows on each side, rounded up to
    a multiple of eight to align loads.
    """
    halo = triton.cdiv(2 * (size // 2), 8) * 8
    whole = max(16, triton.next_power_of_2(tower))
    if whole <= WIDEST:
        return whole, 0, 1
    block = max(WIDEST, triton.next_power_of_2(4 * halo))
    return block, halo, triton.cdiv(tower, block - 2 * halo)


@torch.library.custom_op("alexnet::response_norm", mutates_args=())
def response_norm(x: Tensor, groups: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Apply `lrn.response_norm` to (B, C, H, W), float32 or bfloat16; channels_last, and opaque to torch.compile."""
    return _launch(x, None, groups, size, alpha, beta, k)


@torch.library.custom_op("alexnet::response_norm_backward", mutates_args=())
def response_norm_backward(g: Tensor, x: Tensor, groups: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Return the gradient with respect to `x`, in the precision of `x`."""
    return _launch(x, g, groups, size, alpha, beta, k)


@response_norm.register_fake
def _(x: Tensor, groups: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@response_norm_backward.register_fake
def _(g: Tensor, x: Tensor, groups: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return response_norm_backward(g, *ctx.saved_tensors, *ctx.constants), None, None, None, None, None


response_norm.register_autograd(_backward, setup_context=_setup_context)
