"""What a run is told of its rate, and the signs of one that is stuck."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import records, trainer
from scipy.stats import entropy

from alexnet.train.config import Config
from alexnet.train.health import LiveUnits, Watch, loss_of_guessing, rate_note
from alexnet.train.parallel.axis import Axis

TEN = np.repeat(np.arange(10, dtype=np.int32), 100)
GUESS = math.log(10)


def watch(past: list[dict[str, Any]] | None = None, **numbers: Any) -> Watch:
    """Of a run of 40 epochs of 50 steps: 200 steps of patience."""
    config = Config.from_preset("paper", **{"epochs": 40, "batch_size": 16, **numbers})
    return Watch(config, TEN, 50, past or [])


def windows(losses: list[float], steps: int = 10, **more: Any) -> list[dict[str, Any]]:
    """Records of windows of `steps` steps each, from the start of a run on."""
    ends = [steps * (i + 1) for i in range(len(losses))]
    return [
        {"kind": "train", "epoch": (end - 1) // 50, "step": (end - 1) % 50 + 1, "loss": loss, **more}
        for end, loss in zip(ends, losses, strict=True)
    ]


def told(judge: Watch, shown: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """The number of the window and the sign of each warning."""
    return [(i, warning["sign"]) for i, record in enumerate(shown) for warning in judge.look(record)]


# -- the note on the rate ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "parts"),
    [
        ({"batch_size": 16}, ["--lr 0.01 ", "batches of 128", "--batch-size 16", "8 times", "--lr 0.0013 to 0.0035"]),
        ({"batch_size": 1024}, ["1/8 of", "--lr 0.028 to 0.08"]),
        ({"preset": "owt", "batch_size": 128}, ["batches of 256", "2 times", "--lr 0.005 to 0.0071"]),
    ],
    ids=["small", "large", "another preset"],
)
def test_another_batch_with_the_rate_left_alone_is_noted(numbers: dict[str, Any], parts: list[str]) -> None:
    note = rate_note(Config.from_preset(numbers.pop("preset", "paper"), **numbers))
    assert note is not None
    assert "\n" not in note
    for part in parts:
        assert part in note


@pytest.mark.parametrize("numbers", [{}, {"batch_size": 16, "lr": 0.003}, {"lr": 0.02}])
def test_nothing_is_noted_where_the_rate_was_chosen(numbers: dict[str, Any]) -> None:
    assert rate_note(Config.from_preset("paper", **numbers)) is None
    assert rate_note(Config.from_preset("owt")) is None


# -- the watch -----------------------------------------------------------------------------------------------


def test_guessing_costs_the_entropy_of_the_labels() -> None:
    assert loss_of_guessing(TEN) == pytest.approx(GUESS)
    labels = np.random.default_rng(0).choice(5, 1000, p=[0.6, 0.2, 0.1, 0.1, 0.0]).astype(np.int32)
    assert loss_of_guessing(labels) == pytest.approx(entropy(np.bincount(labels)))


def test_a_run_that_learns_is_left_in_peace() -> None:
    falling = [GUESS * 0.995**i for i in range(200)]
    assert told(watch(), windows(falling, dead_fc6=0.5, dead_fc7=0.9)) == []


def test_a_loss_at_chance_is_told_once_patience_is_over() -> None:
    judge = watch(lr=0.01)
    assert told(judge, windows([GUESS] * 40)) == [(19, "at chance")]
    (warning,) = watch(windows([GUESS] * 19)).look(windows([GUESS] * 20)[-1])
    assert (warning["kind"], warning["epoch"], warning["step"]) == ("warning", 3, 50)
    assert "After 200 steps the loss is 2.303, and guessing reaches 2.303" in warning["text"]
    json.dumps(warning)


def test_patience_has_an_end_however_long_the_run() -> None:
    assert told(watch(epochs=10_000), windows([GUESS] * 201)) == [(199, "at chance")]


def test_short_windows_are_judged_together() -> None:
    alone = windows([GUESS * (0.5 if i % 2 else 1.6) for i in range(400)], steps=1)
    assert told(watch(), alone) == [(199, "at chance")]
    assert told(watch(), windows([GUESS] * 19, steps=1)) == []


def test_a_loss_that_jumps_back_is_told_each_time_it_does() -> None:
    """Halfway to guessing is a jump: 1.65 here. What comes and goes below that is noise."""
    losses = [2.3] * 4 + [1.0] * 4 + [2.2] * 4 + [1.2, 1.6] * 2 + [9.0] * 4
    assert told(watch(), windows(losses)) == [(9, "jumped back"), (16, "jumped back")]


def test_dead_units_are_told_by_layer() -> None:
    shown = windows([2.0] * 3, dead_fc6=1.0, dead_fc7=0.2) + windows([2.0] * 6, dead_fc6=1.0, dead_fc7=0.96)[3:]
    assert told(watch(), shown) == [(1, "dead_fc6"), (4, "dead_fc7")]


def test_a_resumed_run_goes_on_where_it_was() -> None:
    """It neither repeats what was told, nor forgets how low the loss was."""
    losses = [2.3] * 2 + [1.0] * 4 + [2.2] * 4 + [1.1] * 2 + [2.31] * 24
    whole = told(watch(), windows(losses))
    for cut in (3, 7, 8, 20):
        past, rest = windows(losses)[:cut], windows(losses)[cut:]
        resumed = [(i + cut, sign) for i, sign in told(watch(past), rest)]
        assert resumed == [w for w in whole if w[0] >= cut]


@pytest.mark.parametrize(
    ("numbers", "remedy"),
    [
        ({"lr": 0.01}, "start again with --lr 0.0013 (now 0.01; in proportion to batches of 128)"),
        ({"lr": 0.00125}, "start again with a lower --lr, such as 0.00042 (now 0.00125), or with --preset original"),
        ({"lr": 1e-5}, "start again with a higher --lr, such as 0.0013 (now 1e-05)"),
    ],
    ids=["high", "as proportion says", "low"],
)
def test_the_remedy_fits_the_rate(numbers: dict[str, Any], remedy: str) -> None:
    (warning,) = watch(windows([GUESS] * 19), **numbers).look(windows([GUESS] * 20)[-1])
    assert remedy in warning["text"]


# -- live units ----------------------------------------------------------------------------------------------


def test_live_units_are_those_that_any_image_of_the_window_switched_on() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 50)
    with torch.no_grad():
        layer.bias.copy_(torch.linspace(-4, 1, 50))
    units = LiveUnits({"fc6": layer}, Axis())
    live = torch.zeros(50, dtype=torch.bool)
    for _ in range(3):
        images = torch.randn(4, 8)
        layer.zero_grad()
        layer(images).relu().square().sum().backward()
        units.add()
        live |= (layer(images) > 0).any(dim=0)
    assert 0 < int(live.sum()) < 50
    assert units.flush() == {"dead_fc6": pytest.approx(1 - int(live.sum()) / 50)}
    layer.zero_grad()
    (layer(torch.zeros(1, 8)).relu() * 0).sum().backward()
    units.add()
    assert units.flush() == {"dead_fc6": 1.0}


def test_the_other_towers_units_are_counted() -> None:
    class Pair(Axis):
        def sum(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tensor([4.0, 6.0], dtype=x.dtype)  # 4 of its 6 units live

    layer = torch.nn.Linear(1, 4)
    units = LiveUnits({"fc6": layer}, Pair())
    layer(torch.ones(1, 1))[:, :3].sum().backward()
    units.add()
    assert units.flush() == {"dead_fc6": 0.3}


def test_a_run_whose_units_die_says_so_in_its_metrics(colour_tree: Path, tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = []
    numbers = {"epochs": 8, "init_bias": (0, 1, 0, 1, 1, -9, 1, 0)}
    trainer(colour_tree, tmp_path, numbers, listener=shown.append).fit()
    assert {r["dead_fc6"] for r in shown if r["kind"] == "train"} == {1.0}
    assert [(r["sign"], r["epoch"]) for r in records(tmp_path) if r["kind"] == "warning"] == [("dead_fc6", 4)]
    assert [r for r in shown if r["kind"] == "warning"] == [r for r in records(tmp_path) if r["kind"] == "warning"]
