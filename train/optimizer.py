"""The paper's update, and the schedules that set its learning rates.

`step.py` asks a schedule for the `Rates` of each step, gives them to `set_rates` and steps the optimizer; `trainer.py`
tells the schedule each validation error. The update (paper s5), g the mean gradient of a batch:

    v <- momentum v - rate (g + decay w);  w <- w + v

torch's SGD keeps u = -v / rate instead, which is equivalent while the rate is constant; `set_rates` rescales u when the
rate changes. Rate 0 freezes a layer: weights and velocities stay as they are, without decay ([O] weights.cu).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..pipeline.errors import UserError
from .config import LAYERS, Config


@dataclass(frozen=True)
class Rates:
    """Learning rates of one step, and whether its images get colour noise.

    `groups` are those of the optimizer: "weights" and "biases", and for each layer with rates of its own, such as
    conv1, "conv1_weights" and "conv1_biases".
    """

    groups: Mapping[str, float]
    lighting: bool

    @property
    def weights(self) -> float:
        """The rate of most weights."""
        return self.groups["weights"]


def layers_apart(config: Config) -> list[str]:
    """Return the layers whose rates are not always those of the others; they have groups of their own."""
    apart = {"conv1", *config.rate_factors, *(("fc8",) if config.schedule == "fine-tune" else ())}
    return [name for name in LAYERS if name in apart]


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.SGD:
    """Return SGD over the groups of `Rates`, without empty ones, at the schedule's first rates.

    Velocities exist from the start, as zeros. Parameters must already be on their device.
    """
    apart, rates = layers_apart(config), build_schedule(config).rates(0)
    parameters: dict[str, list[nn.Parameter]] = {name: [] for name in rates.groups}
    for name, parameter in model.named_parameters():
        layer, kind = name.split(".")[0], "biases" if name.endswith("bias") else "weights"
        parameters[f"{layer}_{kind}" if layer in apart else kind].append(parameter)
    groups = [
        {
            "name": name,
            "params": members,
            "lr": rates.groups[name],
            "weight_decay": config.weight_decay if config.decay_biases or name.endswith("weights") else 0.0,
        }
        for name, members in parameters.items()
        if members
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
        rate = rates.groups[group["name"]]
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
    """Rates by epoch and step in it (from 0); after each epoch `observe` takes the validation error, 0..1."""

    def rates(self, epoch: int, step: int = 0) -> Rates: ...
    def observe(self, epoch: int, val_error: float) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def build_schedule(config: Config) -> Schedule:
    """Return the schedule that the configuration names, at its start."""
    schedules: dict[str, Callable[[Config], Schedule]] = {
        "plateau": PlateauSchedule,
        "epochs": EpochSchedule,
        "stages": StageSchedule,
        "steps": StepSchedule,
        "fine-tune": FineTuneSchedule,
    }
    return schedules[config.schedule](config)


def _rates(config: Config, weights: float, *, lighting: bool = True, **layers: float) -> Rates:
    """Derive all rates from that of the weights, from which some `layers` may depart; 0 freezes a layer.

    The user's factors multiply what the schedule gives a layer; biases follow by their own factor and floor.
    """

    def biases(rate: float) -> float:
        return max(rate * config.bias_lr_factor, config.bias_lr_floor) if rate else 0.0

    groups = {"weights": weights, "biases": biases(weights)}
    for name in layers_apart(config):
        rate = layers.get(name, weights) * config.rate_factors.get(name, 1.0)
        groups |= {f"{name}_weights": rate, f"{name}_biases": biases(rate)}
    return Rates(groups, lighting and config.lighting != "off")


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

    def reached(self, log: Sequence[int], epoch: int) -> list[bool]:
        """Return which entries of a log of epochs lie behind, stretched so that the last is the end of the run."""
        stretch = self.config.epochs / log[-1]
        return [epoch >= max(1, round(e * stretch)) for e in log]


class EpochSchedule(_FixedSchedule):
    """The authors' log of #145 ([O] layer-params-145.cfg), its epochs stretched by epochs / 91."""

    def rates(self, epoch: int, step: int = 0) -> Rates:
        config = self.config
        first, second, noise_off, freeze, third, _ = self.reached(config.epoch_log, epoch)
        weights = config.lr / config.drop_factor ** (first + second + third)
        conv1 = config.lr / config.drop_factor**3 if noise_off else weights
        return _rates(config, weights, conv1=0 if freeze else conv1, lighting=not noise_off)


class FineTuneSchedule(_FixedSchedule):
    """The authors' log of #146, trained on other classes before ([O] layer-params-146-2012-2011.cfg), stretched.

    fc8 has to begin anew, so it learns faster, but not at once: only after `fc8_wait` batches, or the first epoch. That
    it falls in line with the others at the first drop is inferred.
    """

    def rates(self, epoch: int, step: int = 0) -> Rates:
        config = self.config
        freeze, first, noise_off, second, _ = self.reached(config.fine_tune_log, epoch)
        weights = config.lr / config.drop_factor ** (1 + first + second)
        eager = not first and (epoch > 0 or step >= config.fc8_wait)
        conv1 = 0 if freeze else weights / config.drop_factor
        return _rates(config, weights, lighting=not noise_off, conv1=conv1, fc8=config.lr if eager else weights)


class StageSchedule(_FixedSchedule):
    """Equal stages, each slower by the same factor ([O] #170); no colour noise in the last, from epoch 68 of 90."""

    def rates(self, epoch: int, step: int = 0) -> Rates:
        config = self.config
        last = config.num_stages - 1
        stage = min(epoch * config.num_stages // config.epochs, last)
        weights = config.lr / config.stage_factor ** (stage / last) if stage else config.lr
        return _rates(config, weights, lighting=stage < last or not last)


class StepSchedule(_FixedSchedule):
    """Drops of all rates at given epochs, stretched; nothing else changes."""

    def rates(self, epoch: int, step: int = 0) -> Rates:
        *drops, _ = self.reached(self.config.step_log, epoch)
        return _rates(self.config, self.config.lr / self.config.drop_factor ** sum(drops))


class PlateauSchedule:
    """The paper's rule: divide the rate by ten when the validation error stalls, three times in all."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.best: float | None = None  # lowest error so far
        self.stalled = 0  # epochs since it fell, or since the last drop
        self.drops = 0

    def rates(self, epoch: int, step: int = 0) -> Rates:
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
