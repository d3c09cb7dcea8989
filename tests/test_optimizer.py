"""The update against the paper's formula in plain numpy, and the schedules against the authors' log."""

import json
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alexnet.train.config import Config
from alexnet.train.optimizer import Rates, build_optimizer, build_schedule, set_rates


class Tiny(nn.Module):
    """One parameter of each kind, and a loss whose gradients depend on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fc8 = nn.Linear(4, 3), nn.Linear(3, 2)

    def loss(self, x: Tensor) -> Tensor:
        return self.fc8(torch.tanh(self.conv1(x))).square().sum()


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny().double()


def rates_of(weights: float, biases: float, conv1_weights: float, conv1_biases: float, lighting: bool) -> Rates:
    groups = {"weights": weights, "biases": biases, "conv1_weights": conv1_weights, "conv1_biases": conv1_biases}
    return Rates(groups, lighting)


class PaperUpdate:
    """v <- momentum v - rate (g + decay w); w <- w + v; nothing moves at rate 0. Section 5, word by word."""

    def __init__(self, config: Config, model: Tiny) -> None:
        self.config = config
        self.w = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
        self.v = {name: np.zeros_like(w) for name, w in self.w.items()}

    def step(self, gradients: dict[str, Any], rates: Rates) -> None:
        for name, w in self.w.items():
            kind = "biases" if name.endswith("bias") else "weights"
            rate = rates.groups[f"conv1_{kind}" if name.startswith("conv1") else kind]
            if rate == 0:
                continue
            decay = self.config.weight_decay if kind == "weights" or self.config.decay_biases else 0
            self.v[name] = self.config.momentum * self.v[name] - rate * (gradients[name] + decay * w)
            self.w[name] = w + self.v[name]


@pytest.mark.parametrize("overrides", [{}, {"decay_biases": True, "weight_decay": 0.1}, {"momentum": 0.0}])
def test_update_is_the_papers(overrides: dict[str, Any]) -> None:
    """Over drops, rises, a freeze and a thaw, and with momentum still in flight at each."""
    model, config = tiny(), Config.from_dict({"weight_decay": 0.05, **overrides})
    optimizer, paper = build_optimizer(model, config), PaperUpdate(config, model)
    phases = [
        rates_of(0.01, 0.02, 0.01, 0.02, True),
        rates_of(1e-3, 0.002, 1e-4, 0.002, True),
        rates_of(1e-3, 0.002, 0, 0, False),
        rates_of(1e-4, 0.002, 0, 0, False),
        rates_of(0.005, 0.005, 0.003, 0.004, False),
        rates_of(0.005, 0, 0.003, 0.004, False),
    ]
    for rates in phases:
        set_rates(optimizer, rates)
        for _ in range(7):
            x = torch.randn(5, 4, dtype=torch.float64)
            optimizer.zero_grad()
            model.loss(x).backward()
            gradients = {name: 0 if p.grad is None else p.grad.numpy().copy() for name, p in model.named_parameters()}
            optimizer.step()
            paper.step(gradients, rates)
        for name, p in model.named_parameters():
            np.testing.assert_allclose(p.detach().numpy(), paper.w[name], rtol=1e-12, atol=1e-14)


def test_plain_sgd_would_be_wrong_at_a_drop() -> None:
    """What `set_rates` is for: torch alone scales the velocity down with the rate."""
    weights = []
    for rescale in (True, False):
        model = tiny()
        optimizer = build_optimizer(model, Config())
        for step in range(6):
            if step == 3 and rescale:
                set_rates(optimizer, rates_of(1e-3, 1e-3, 1e-3, 1e-3, True))
            elif step == 3:
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3
            optimizer.zero_grad()
            model.loss(torch.ones(5, 4, dtype=torch.float64)).backward()
            optimizer.step()
        weights.append(model.fc8.weight.detach())
    assert (weights[0] - weights[1]).abs().max() > 1e-3


def test_frozen_layer_wants_no_gradient_and_comes_back() -> None:
    model = tiny()
    optimizer = build_optimizer(model, Config())
    model.loss(torch.ones(1, 4, dtype=torch.float64)).backward()
    set_rates(optimizer, rates_of(0.01, 0.01, 0, 0, True))
    assert model.conv1.weight.grad is None
    assert not model.conv1.weight.requires_grad
    assert model.fc8.weight.requires_grad
    set_rates(optimizer, rates_of(0.01, 0.01, 0.01, 0.01, True))
    assert model.conv1.weight.requires_grad


def test_groups_and_first_rates() -> None:
    optimizer = build_optimizer(tiny(), Config.from_preset("original"))
    assert {g["name"]: (g["lr"], g["weight_decay"], g["momentum"]) for g in optimizer.param_groups} == {
        "weights": (0.01, 5e-4, 0.9),
        "biases": (0.02, 0, 0.9),
        "conv1_weights": (0.01, 5e-4, 0.9),
        "conv1_biases": (0.02, 0, 0.9),
    }


def approx(rates: Rates) -> Any:
    return pytest.approx((*rates.groups.values(), rates.lighting))


def test_epochs_is_the_authors_log() -> None:
    """Run #145 on ILSVRC-2012: fidelity 4.3."""
    schedule = build_schedule(Config.from_preset("original"))
    expected = {
        (0, 24): (1e-2, 0.02, 1e-2, 0.02, True),
        (25, 50): (1e-3, 0.002, 1e-3, 0.002, True),
        (51, 66): (1e-4, 0.002, 1e-4, 0.002, True),
        (67, 71): (1e-4, 0.002, 1e-5, 0.002, False),
        (72, 78): (1e-4, 0.002, 0, 0, False),
        (79, 90): (1e-5, 0.002, 0, 0, False),
    }
    for (first, last), rates in expected.items():
        for epoch in (first, last):
            assert rates == approx(schedule.rates(epoch))


def test_fine_tune_is_the_authors_log() -> None:
    """Run #146 on ILSVRC-2012: fidelity 6. Columns: others, conv1, fc8, colour noise."""
    schedule = build_schedule(Config.from_preset("conv6", schedule="fine-tune", epochs=54, bias_lr_floor=0))
    expected = {
        (0, 0): (1e-3, 1e-4, 1e-3, True),
        (0, 299): (1e-3, 1e-4, 1e-3, True),
        (0, 300): (1e-3, 1e-4, 1e-2, True),
        (1, 0): (1e-3, 1e-4, 1e-2, True),
        (6, 9999): (1e-3, 1e-4, 1e-2, True),
        (7, 0): (1e-3, 0, 1e-2, True),
        (21, 0): (1e-3, 0, 1e-2, True),
        (22, 0): (1e-4, 0, 1e-4, True),
        (38, 0): (1e-4, 0, 1e-4, False),
        (42, 0): (1e-5, 0, 1e-5, False),
        (53, 0): (1e-5, 0, 1e-5, False),
    }
    for place, (others, conv1, fc8, lighting) in expected.items():
        rates = schedule.rates(*place)
        weights = {"weights": others, "conv1_weights": conv1, "fc8_weights": fc8}
        biases = {"biases": 2 * others, "conv1_biases": 2 * conv1, "fc8_biases": 2 * fc8}
        assert rates.groups == pytest.approx(weights | biases), place
        assert rates.lighting == lighting, place


def test_caffe_drops_every_twenty_epochs() -> None:
    """solver.prototxt: 0.01, a tenth of it every 100,000 of 450,000 batches of 256 from 1,281,167 images."""
    schedule = build_schedule(Config.from_preset("caffe"))
    for epoch in range(90):
        rate = 0.01 * 0.1 ** int((epoch + 0.5) * 1_281_167 / 256 / 100_000)
        assert schedule.rates(epoch).groups == pytest.approx(
            {"weights": rate, "biases": 2 * rate, "conv1_weights": rate, "conv1_biases": 2 * rate}
        )
        assert not schedule.rates(epoch).lighting
    short = build_schedule(Config.from_preset("caffe", epochs=9))
    assert [e for e in range(1, 9) if short.rates(e) != short.rates(e - 1)] == [2, 4, 6, 8]


@pytest.mark.parametrize(("epochs", "changes"), [(6, [1, 2, 4, 5]), (108, [1, 14, 44, 76, 84])])
def test_fine_tune_stretches(epochs: int, changes: list[int]) -> None:
    schedule = build_schedule(Config(schedule="fine-tune", epochs=epochs))
    rates = [schedule.rates(epoch) for epoch in range(epochs)]
    assert [e for e in range(1, epochs) if rates[e] != rates[e - 1]] == changes


def test_single_layers_have_rates_of_their_own() -> None:
    """Against the update word by word: fc8 ten times as fast, its bias by the floor; conv1 as it was."""
    model, config = tiny(), Config(layer_lr=("fc8=10",), freeze=("conv1",), bias_lr_floor=0.02, momentum=0.5)
    optimizer, before = build_optimizer(model, config), {name: p.clone() for name, p in model.named_parameters()}
    assert [group["name"] for group in optimizer.param_groups] == [
        *("conv1_weights", "conv1_biases", "fc8_weights", "fc8_biases")
    ]
    w, v = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}, {"weight": 0.0, "bias": 0.0}
    for _ in range(3):
        set_rates(optimizer, build_schedule(config).rates(0))
        optimizer.zero_grad()
        model.loss(torch.ones(5, 4, dtype=torch.float64)).backward()
        for kind, rate, decay in (("weight", 0.1, 5e-4), ("bias", 0.1, 0)):
            gradient = getattr(model.fc8, kind).grad.numpy()
            v[kind] = 0.5 * v[kind] - rate * (gradient + decay * w[f"fc8.{kind}"])
            w[f"fc8.{kind}"] = w[f"fc8.{kind}"] + v[kind]
        optimizer.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach(), w[name], rtol=1e-12)
        assert torch.equal(parameter, before[name]) == name.startswith("conv1"), name


@pytest.mark.parametrize("epochs", [1, 2, 5, 9, 45, 182])
def test_epochs_stretches(epochs: int) -> None:
    config = Config.from_preset("original", epochs=epochs)
    rates = [build_schedule(config).rates(epoch) for epoch in range(epochs)]
    assert (rates[0].weights, rates[0].groups["conv1_weights"], rates[0].lighting) == (0.01, 0.01, True)
    assert all(a.weights >= b.weights > 0 for a, b in pairwise(rates))
    if epochs == 182:
        assert [e for e in range(1, 182) if rates[e] != rates[e - 1]] == [50, 102, 134, 144, 158]


def test_stages_is_run_170() -> None:
    schedule = build_schedule(Config(schedule="stages", bias_lr_factor=2, bias_lr_floor=0.002))
    rates = [schedule.rates(epoch) for epoch in (0, 22, 23, 44, 45, 67, 68, 89, 200)]
    assert [r.weights for r in rates] == pytest.approx(
        [0.01, 0.01, 0.001587, 0.001587, 0.000252, 0.000252, 0.00004, 0.00004, 0.00004], rel=1e-3
    )
    assert [r.lighting for r in rates] == [True] * 6 + [False] * 3
    assert rates[0].groups["biases"] == 0.02
    assert rates[-1].groups["biases"] == 0.002


def test_owt_is_torchvisions_steps() -> None:
    schedule = build_schedule(Config.from_preset("owt"))
    assert [schedule.rates(e).weights for e in (0, 29, 30, 59, 60, 89)] == pytest.approx(
        [0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4]
    )
    assert not schedule.rates(0).lighting
    single = build_schedule(Config(schedule="stages", num_stages=1))
    assert single.rates(89).weights == 0.01
    assert single.rates(89).lighting


def test_plateau_drops_three_times() -> None:
    schedule = build_schedule(Config(plateau_patience=2))
    errors = [0.9, 0.8, 0.8, 0.7995, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    seen = []
    for epoch, error in enumerate(errors):
        seen.append(schedule.rates(epoch).weights)
        schedule.observe(epoch, error)
    assert seen == pytest.approx([1e-2] * 4 + [1e-3] * 3 + [1e-4] * 2 + [1e-5] * 3)
    rates = schedule.rates(99)
    assert approx(rates) == (rates.weights,) * 4 + (True,)


@pytest.mark.parametrize("name", ["plateau", "epochs", "stages", "fine-tune", "steps"])
def test_schedule_resumes_from_json(name: str) -> None:
    """At any epoch, what is saved gives the same rates for the rest of the run."""
    config, rng = Config.from_dict({"schedule": name, "plateau_patience": 2, "epochs": 20}), random.Random(0)
    errors = [rng.random() for _ in range(20)]
    whole = build_schedule(config)
    for epoch, error in enumerate(errors):
        resumed = build_schedule(config)
        resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
        assert resumed.state_dict() == whole.state_dict()
        assert resumed.rates(epoch) == whole.rates(epoch)
        whole.observe(epoch, error)


def test_another_schedules_state_is_refused() -> None:
    plateau, epochs = (build_schedule(Config.from_dict({"schedule": name})) for name in ("plateau", "epochs"))
    with pytest.raises(ValueError, match="another schedule"):
        epochs.load_state_dict(plateau.state_dict())
    with pytest.raises(ValueError, match="another schedule"):
        plateau.load_state_dict({})
