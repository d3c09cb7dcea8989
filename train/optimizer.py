"""The paper's update, and the schedules that set its learning rates.

`step.py` asks a schedule for the `Rates` of each epoch, gives them to `set_rates` and steps the optimizer; `trainer.py`
tells the schedule each validation error. The update (paper s5), g the mean gradient of a batch:

    v <- momentum v - rate (g + decay w);  w <- w + v

torch's SGD keeps u = -v / rate instead, which is equivalent while the rate is constant; `set_rates` rescales u when the
rate changes. Rate 0 freezes a layer: weights and velocities stay as they are, without decay ([O] weights.cu).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..pipeline.errors import UserError
from .config import Config


@dataclass(frozen=True)
class Rates:
    """Learning rates of one epoch, and whether its images get colour noise."""

    weights: float
    biases: float
    conv1_weights: float
    conv1_biases: float
    lighting: bool


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.SGD:
    """Return SGD over four named groups of parameters, one for each rate of `Rates`, at the schedule's first rates.

    Velocities exist from the start, as zeros. Parameters must already be on their device.
    """
    parameters: dict[str, list[nn.Parameter]] = {"weights": [], "biases": [], "conv1_weights": [], "conv1_biases": []}
    for name, parameter in model.named_parameters():
        kind = "biases" if name.endswith("bias") else "weights"
        parameters[f"conv1_{kind}" if name.startswith("conv1.") else kind].append(parameter)
    rates = build_schedule(config).rates(0)
    groups = [
        {
            "name": name,
            "params": members,
            "lr": getattr(rates, name),
            "weight_decay": config.weight_decay if config.decay_biases or name.endswith("weights") else 0.0,
        }
        for name, members in parameters.items()
    ]
    fused = all(p.device.type in ("cpu", "cuda", "mps", "xpu") for p in model.parameters())
    optimizer = torch.optim.SGD(groups, momentum=config.momentum, fused=fused)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


@torch.no_grad()
def set_rates(optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    """Use `rates` from the next step on, with the paper's velocity unchanged.

    The parameters of a frozen group get no gradient, so SGD does not update them. The group's `lr` stays at its last
    positive rate, the unit of its velocities.
    """
    for group in optimizer.param_groups:
        rate = getattr(rates, group["name"])
        for parameter in group["params"]:
            parameter.requires_grad_(rate > 0)
            if rate == 0:
                parameter.grad = None
        if rate not in (0, group["lr"]):
            torch._foreach_mul_(velocities(optimizer, group), group["lr"] / rate)
            group["lr"] = rate


def velocities(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> list[Tensor]:
    """Return -v / lr of each parameter of a group: the tensors that SGD itself uses."""
    return [optimizer.state[parameter]["momentum_buffer"] for parameter in group["params"]]


def momentum_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return SGD's own buffer for each parameter of `model`; write into it to restore it."""
    return {name: optimizer.state[parameter]["momentum_buffer"] for name, parameter in model.named_parameters()}


def rates_by_group(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the `lr` of each group, the unit of its velocities."""
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


class Schedule(Protocol):
    """Rates by epoch (from 0); after each epoch `observe` takes the validation error, 0..1."""

    def rates(self, epoch: int) -> Rates: ...
    def observe(self, epoch: int, val_error: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def build_schedule(config: Config) -> Schedule:
    """Return the schedule that the configuration names, at its start."""
    schedules: dict[str, type[PlateauSchedule] | type[EpochSchedule] | type[StageSchedule]] = {
        "plateau": PlateauSchedule,
        "epochs": EpochSchedule,
        "stages": StageSchedule,
    }
    return schedules[config.schedule](config)


def _rates(config: Config, weights: float, *, conv1: float | None = None, lighting: bool = True) -> Rates:
    """Derive all rates from that of the weights: biases by factor and floor. conv1 may differ; 0 freezes it."""

    def biases(rate: float) -> float:
        return max(rate * config.bias_lr_factor, config.bias_lr_floor) if rate else 0.0

    conv1 = weights if conv1 is None else conv1
    return Rates(weights, biases(weights), conv1, biases(conv1), lighting and config.lighting != "off")


class _FixedSchedule:
    """A schedule that ignores the validation error."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def observe(self, epoch: int, val_error: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise UserError(f"schedule state {dict(state)} belongs to another schedule")


class EpochSchedule(_FixedSchedule):
    """The authors' log of #145 ([O] layer-params-145.cfg), its epochs stretched by epochs / 91."""

    def rates(self, epoch: int) -> Rates:
        config = self.config
        stretch = config.epochs / config.epoch_log[-1]
        reached = [epoch >= max(1, round(e * stretch)) for e in config.epoch_log]
        first, second, noise_off, freeze, third, _ = reached
        weights = config.lr / config.drop_factor ** (first + second + third)
        conv1 = config.lr / config.drop_factor**3 if noise_off else weights
        return _rates(config, weights, conv1=0 if freeze else conv1, lighting=not noise_off)


class StageSchedule(_FixedSchedule):
    """Equal stages, each slower by the same factor ([O] #170); no colour noise in the last, from epoch 68 of 90."""

    def rates(self, epoch: int) -> Rates:
        config = self.config
        last = config.num_stages - 1
        stage = min(epoch * config.num_stages // config.epochs, last)
        weights = config.lr / config.stage_factor ** (stage / last) if stage else config.lr
        return _rates(config, weights, lighting=stage < last or not last)


class PlateauSchedule:
    """The paper's rule: divide the rate by ten when the validation error stalls, three times in all."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.best: float | None = None  # lowest error so far
        self.stalled = 0  # epochs since it fell, or since the last drop
        self.drops = 0

    def rates(self, epoch: int) -> Rates:
        return _rates(self.config, self.config.lr / self.config.drop_factor**self.drops)

    def observe(self, epoch: int, val_error: float) -> None:
        if self.best is None or val_error < self.best - self.config.plateau_min_delta:
            self.best, self.stalled = val_error, 0
            return
        self.stalled += 1
        if self.stalled >= self.config.plateau_patience and self.drops < self.config.num_drops:
            self.drops, self.stalled = self.drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "stalled": self.stalled, "drops": self.drops}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.keys() != self.state_dict().keys():
            raise UserError(f"schedule state {dict(state)} belongs to another schedule")
        self.best, self.stalled, self.drops = state["best"], state["stalled"], state["drops"]
