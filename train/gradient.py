"""Forward and backward of one step, and ways to make a GPU run them faster.

`build_gradient` alone chooses between them; `step.py` runs what it returns, and adds the update. The update is neither
recorded nor compiled: rates change, layers freeze, and it takes only a few kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pipeline.errors import UserError
from .network.fast_layers import use_fast_layers
from .network.model import AlexNet
from .network.precision import autocast, suited

log = logging.getLogger("alexnet")

Gradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images (B, 3, crop, crop), labels (B,)) -> (loss, logits), detached. Leaves the loss's gradient in `.grad`."""


class Recorder(Protocol):
    """Runs functions without arguments, and records them."""

    def run(self, function: Callable[[], Any]) -> Any:
        """Call the function and return its result, in the place where it will be recorded."""

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Return the function's result and `replay`, which runs it again in the same memory."""


WARM_UP = 3  # steps before a recording: libraries choose their algorithms and allocate


@dataclass(frozen=True)
class Speedups:
    """Ways to be faster on a GPU. None changes the function; all may reorder sums, and so change last bits."""

    conv1: bool = False  # by space to depth
    norms: bool = False  # fused, by Triton
    graph: bool = False  # one CUDA graph of forward and backward: launches cost the host nothing
    compile: bool = False  # torch.compile, with the same dropout masks as without it

    @property
    def need_one_rank(self) -> bool:
        return self.graph or self.compile


EXECUTIONS = {
    "plain": Speedups(),
    "fused": Speedups(conv1=True, norms=True),
    "graphed": Speedups(conv1=True, norms=True, graph=True),
    "compiled": Speedups(conv1=True, norms=True, graph=True, compile=True),
}
DEFAULT_EXECUTION = "fused"  # plain moves 12 GB a step of 128 images in normalisation alone; graphs are unmeasured


def chosen_execution(wanted: str | None, device: torch.device) -> str:
    """Return the name in `EXECUTIONS` of how a device runs a step; None is the default. A CPU has only one way."""
    return (wanted or DEFAULT_EXECUTION) if device.type == "cuda" else "plain"


def build_gradient(
    model: AlexNet, batch_size: int, device: torch.device, num_ranks: int, execution: str | None
) -> Gradient:
    """Return the gradient of a network that is already on its device; layers may be swapped in place.

    `execution` is as for `chosen_execution`. cuDNN may only use algorithms
    that give the same bits every time, so that a resumed run repeats them. UserError if several ranks ask for what
    needs a single rank.
    """
    if device.type != "cuda":
        if execution not in (None, "plain"):
            log.warning("--execution %s is for GPUs and has no effect on a CPU.", execution)
        use_fast_layers(model, conv1=False)
        return plain_gradient(model, batch_size)
    speedups = EXECUTIONS[chosen_execution(execution, device)]
    if num_ranks > 1 and speedups.need_one_rank:
        raise UserError(f"--execution {execution} needs a single rank, not {num_ranks}: use fused or --mesh 1x1.")
    torch.backends.cudnn.deterministic = True
    use_fast_layers(model, conv1=speedups.conv1, norms=speedups.norms)
    return speed_up(model, batch_size, speedups)


def speed_up(model: nn.Module, batch_size: int, speedups: Speedups) -> Gradient:
    """Return the gradient of any network of images, compiled and recorded as asked."""
    forward = None
    if speedups.compile:  # not dynamic: a second size of batch, even of another network, would get slower kernels
        forward = torch.compile(model, dynamic=False, options={"fallback_random": True})
    gradient = plain_gradient(model, batch_size, forward)
    return Recorded(gradient, list(model.parameters()), CudaGraphs()) if speedups.graph else gradient


def plain_gradient(model: nn.Module, batch_size: int, forward: Callable[[Tensor], Tensor] | None = None) -> Gradient:
    """Return a gradient whose loss is these images' share of the mean over `batch_size`, as `precision.py` has it.

    `forward` computes the same as `model` and runs in its place.
    """
    if forward is None:  # not `forward or model`: a compiled model has no truth value
        forward = model

    def gradient(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        model.zero_grad(set_to_none=True)
        with autocast(images.device):
            logits = forward(suited(images))
            loss = F.cross_entropy(logits, labels, reduction="sum") / batch_size
        loss.backward()
        return loss.detach(), logits.detach()

    return gradient


class Recorded:
    """A gradient that is recorded after a few steps and then replayed, with images and labels copied in.

    Loss, logits and gradients lie in the same memory at every step: use them before the next. Dropout draws from the
    generator's state at replay, so a seed set before a step gives the same masks as without a recording. Images of
    another shape or type, and layers that freeze or thaw, start a new recording.
    """

    def __init__(self, gradient: Gradient, parameters: Sequence[nn.Parameter], recorder: Recorder) -> None:
        self.gradient, self.parameters, self.recorder = gradient, parameters, recorder
        self._key: tuple[Any, ...] = ()
        self._steps = 0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        key = (images.shape, images.stride(), images.dtype, labels.dtype, *(p.requires_grad for p in self.parameters))
        if key != self._key:
            self._key, self._steps = key, 0
            self._replay = self._outputs = None  # frees the old recording's memory
        self._steps += 1
        if self._steps <= WARM_UP:
            return self.recorder.run(lambda: self.gradient(images, labels))
        if self._replay is None:
            self._images, self._labels = images.clone(), labels.clone()
            self._outputs, self._replay = self.recorder.record(lambda: self.gradient(self._images, self._labels))
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._replay()
        return self._outputs


class CudaGraphs:
    """Records CUDA graphs of the current device, on a stream of its own.

    The steps before run there too: torch refuses to record what was last computed on another stream.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def run(self, function: Callable[[], Any]) -> Any:
        now = torch.cuda.current_stream()
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            outputs = function()
        now.wait_stream(self._stream)
        return outputs

    def record(self, function: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        graph, threads_go_on = torch.cuda.CUDAGraph(), "thread_local"  # those of the loader use the GPU meanwhile
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode=threads_go_on):
            outputs = function()
        return outputs, graph.replay
