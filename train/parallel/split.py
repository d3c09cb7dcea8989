"""The split of the network over a mesh: the only place that knows both.

    model.py (whole, on one device) -> `parallelize` -> this rank's part, which `step.py` runs as if it were whole

A rank keeps its part of every parameter along dimension 0: with the paper's 1x2, one tower. The towers meet where the
paper's GPUs do (s3.5): the inputs of conv3, conv6, fc6, fc7 and fc8 are gathered from both. The concatenated parts are
the one-device network, and any mesh computes the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...pipeline.errors import UserError
from ...pipeline.plan import share
from ..config import Config
from ..network.lrn import LocalResponseNorm
from ..network.model import AlexNet, Dropout
from ..network.shapes import empty_parameters
from .axis import Axis
from .dims import ParallelDims
from .mesh import Mesh


def check_split(config: Config, num_classes: int, dims: ParallelDims) -> None:
    """Raise UserError if a mesh cannot share a network or its batch."""
    if config.separable < config.towers and dims.mp > 1:
        raise UserError(
            f"--mesh {dims} splits the network in {dims.mp}, but its normalisation reaches across the towers. "
            f"Use --mesh {dims.num_ranks}x1, or --no-lrn-across-towers."
        )
    if config.towers % dims.mp:
        raise UserError(
            f"--mesh {dims} splits the network in {dims.mp}, but preset {config.preset} has {config.towers} "
            f"tower{'s' * (config.towers > 1)}. Use --mesh {dims.num_ranks}x1."
        )
    if num_classes < dims.mp:
        raise UserError(
            f"--mesh {dims} splits the classes in {dims.mp}, but there is only {num_classes}. "
            f"Use --mesh {dims.num_ranks}x1."
        )
    if config.batch_size < dims.num_ranks:
        raise UserError(
            f"A batch of {config.batch_size} cannot be shared by {dims.num_ranks} ranks: raise --batch-size."
        )


def parallelize(model: AlexNet, mesh: Mesh) -> None:
    """Cut a whole network down to this rank's part, in place; a mesh of one rank changes nothing.

    The part takes the images of its dp rank, the same on all mp ranks, and returns the logits of all classes.
    """
    if mesh.mp.size > 1:
        _split_towers(model, mesh.mp)
    if mesh.dims.num_ranks > 1:
        model.dropout6 = DropoutPart(model.dropout6, model.config.batch_size, mesh)
        model.dropout7 = DropoutPart(model.dropout7, model.config.batch_size, mesh)


def _split_towers(model: AlexNet, mp: Axis) -> None:
    check_split(model.config, model.num_classes, ParallelDims(1, mp.size))
    for name in model.config.layers:
        layer = getattr(model, name)
        for kind in ("weight", "bias"):
            setattr(layer, kind, nn.Parameter(mp.own(getattr(layer, kind).detach()).clone()))
        if layer.groups > 1:
            layer.groups //= mp.size
        elif name != "conv1":  # both towers see the whole image
            layer.register_forward_pre_hook(partial(_exchange_input, mp))
    model.fc8.register_forward_hook(partial(_gather_output, mp, model.num_classes))
    for norm in (model.norm1, model.norm2):
        if isinstance(norm, LocalResponseNorm):
            norm.groups //= mp.size


def _exchange_input(mp: Axis, layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return _Exchange.apply(inputs[0], mp)


def _gather_output(mp: Axis, num_classes: int, layer: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
    return _GatherLogits.apply(logits, mp, num_classes)


class _Exchange(torch.autograd.Function):
    """(B, C, ...) of each tower -> (B, size x C, ...), tower after tower; channels last in memory, both ways.

    Every tower uses every channel, so a channel's gradient is the sum of the towers' gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mp: Axis) -> Tensor:
        ctx.mp = mp
        return torch.cat(tuple(mp.gather(x.movedim(1, -1))), -1).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        parts = g.movedim(1, -1).unflatten(-1, (ctx.mp.size, -1)).movedim(-2, 0)
        return ctx.mp.scatter_sum(parts).movedim(-1, 1), None


class _GatherLogits(torch.autograd.Function):
    """(B, a tower's classes) -> (B, num_classes).

    Every tower computes the same loss from all logits, so each has the complete gradient and takes its own part.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, mp: Axis, num_classes: int) -> Tensor:
        ctx.mp = mp
        return mp.gather_rows(logits.T, num_classes).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return ctx.mp.own(g, 1), None, None


class DropoutPart(Dropout):
    """Dropout for one rank's images and units: each rank draws the same whole mask and cuts out its part."""

    def __init__(self, whole: Dropout, batch_size: int, mesh: Mesh) -> None:
        super().__init__(1 - whole.keep, whole.inverted)
        self.keep = whole.keep  # 1 - (1 - keep) may differ in the last bit
        self.batch_size, self.mp = batch_size, mesh.mp
        self.rows = share(batch_size, mesh.dp.index, mesh.dp.size)

    def mask(self, x: Tensor) -> Tensor:
        units = x.shape[1] * self.mp.size
        whole = torch.rand((self.batch_size, units), device=x.device) < self.keep
        return self.mp.own(whole[self.rows], 1)


class GradientSum:
    """Sums each gradient over the data-parallel ranks as soon as the backward pass has it.

    Losses must be this rank's share of the batch's mean. Buckets would gain nothing: the network has 16 or 18
    parameters, and those of fc6..fc8, nearly all of the bytes, come first.
    """

    def __init__(self, model: nn.Module, dp: Axis) -> None:
        self._dp = dp
        self._pending: list[Callable[[], None]] = []
        if dp.size > 1:
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(self._start)

    def _start(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._pending.append(self._dp.start_sum(parameter.grad))

    def finish(self) -> None:
        """Wait for all sums; then the optimizer may step."""
        for wait in self._pending:
            wait()
        self._pending.clear()


@torch.no_grad()
def make_replicas_equal(model: nn.Module, dp: Axis) -> None:
    """Give all data-parallel ranks the first one's parameters: other processors may draw other last bits."""
    for parameter in model.parameters():
        dp.copy_first(parameter)


def own_part(whole: Mapping[str, Tensor], mp: Axis) -> dict[str, Tensor]:
    """Return this rank's parts of whole parameters or velocities, by name, as views."""
    return {name: mp.own(tensor) for name, tensor in whole.items()}


def whole_state(part: Mapping[str, Tensor], model: AlexNet, mp: Axis) -> dict[str, Tensor]:
    """Return whole parameters or velocities, on the CPU, from the parts of the ranks of `mp`; all ranks get them."""
    shapes = empty_parameters(model.config, model.num_classes)
    return {name: mp.gather_rows(tensor.detach().cpu(), len(shapes[name])) for name, tensor in part.items()}
