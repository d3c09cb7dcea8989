"""Ways to run a step: whatever is done for speed, the same loss, gradients, masks and rates."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alexnet.console.options import execution_option
from alexnet.train.config import Config
from alexnet.train.gradient import (
    DEFAULT_EXECUTION,
    EXECUTIONS,
    WARM_UP,
    Gradient,
    Recorded,
    Speedups,
    build_gradient,
    chosen_execution,
    plain_gradient,
    speed_up,
)
from alexnet.train.network.model import AlexNet, initialise
from alexnet.train.optimizer import Rates, build_optimizer, set_rates

BATCH = 4
SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks/step.py"
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def network(preset: str = "original") -> AlexNet:
    model = AlexNet(Config.from_preset(preset, width=0.25, batch_size=BATCH), 10)
    initialise(model, 0)
    return model


class TinyNetwork(nn.Module):
    """Of images 8x8; named as the optimizer's groups want it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.dropout, self.fc8 = nn.Conv2d(3, 4, 4, 4), nn.Dropout(), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc8(self.dropout(self.conv1(x).tanh().flatten(1)))


def batch(step: int, side: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(size, 3, side, side, generator=generator)
    return images.contiguous(memory_format=torch.channels_last), torch.randint(10, (size,), generator=generator)


@dataclass
class OnCpu:
    """Does as CUDA graphs do: recording computes nothing, a replay computes in the recording's memory."""

    parameters: list[nn.Parameter]
    recordings: list[int]

    def run(self, function: Callable[[], Any]) -> Any:
        return function()

    def record(self, function: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Any, Callable[[], None]]:
        parameters = self.parameters
        self.recordings.append(len(self.recordings))
        with torch.random.fork_rng():
            outputs = function()
        gradients = [p.grad for p in parameters]
        memory = [t for t in (*outputs, *gradients) if t is not None]
        for static in memory:
            static.fill_(torch.nan)

        def replay() -> None:
            held = [p.grad for p in parameters]
            results = [*function(), *(p.grad for p in parameters)]
            for static, new in zip(memory, (t for t in results if t is not None), strict=True):
                static.copy_(new)
            for p, gradient in zip(parameters, held, strict=True):
                p.grad = gradient

        return outputs, replay


def train(gradient: Gradient, model: nn.Module, steps: int, side: int, device: torch.device = CPU) -> list[float]:
    """Losses of steps as the trainer takes them: a seed for each, a drop of the rate, then conv1 freezes and thaws."""
    optimizer = build_optimizer(model, Config())
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        rate = 0.01 if step < steps // 3 else 0.002
        conv1 = 0.0 if steps // 2 <= step < steps - WARM_UP else rate
        set_rates(
            optimizer, Rates({"weights": rate, "biases": rate, "conv1_weights": conv1, "conv1_biases": conv1}, False)
        )
        model.train()
        images, labels = batch(step, side)
        loss, logits = gradient(images.to(device), labels.to(device))
        optimizer.step()
        assert logits.shape == (BATCH, 10)
        assert not loss.requires_grad
        losses.append(loss.item())
    return losses


def test_a_recorded_step_keeps_its_meaning() -> None:
    """Bit for bit, with dropout; a recording for each set of layers that learn."""
    steps, recordings = 4 * (WARM_UP + 2), list[int]()
    plain = TinyNetwork()
    twin = deepcopy(plain)
    parameters = list(twin.parameters())
    recorded = Recorded(plain_gradient(twin, BATCH), parameters, OnCpu(parameters, recordings))
    expected = train(plain_gradient(plain, BATCH), plain, steps, 8)
    assert train(recorded, twin, steps, 8) == expected
    assert len(set(expected)) == steps
    assert len(recordings) == 2  # conv1 learns; it is frozen; then too few steps are left
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), parameters, strict=True))


def test_another_shape_is_recorded_anew() -> None:
    plain, recordings = TinyNetwork().eval(), list[int]()
    twin = deepcopy(plain)
    parameters = list(twin.parameters())
    recorded = Recorded(plain_gradient(twin, BATCH), parameters, OnCpu(parameters, recordings))
    for size in (4, 2, 4):
        for step in range(WARM_UP + 2):
            found, expected = recorded(*batch(step, 8, size)), plain_gradient(plain, BATCH)(*batch(step, 8, size))
            assert all(map(torch.equal, found, expected))
            for a, b in zip(parameters, plain.parameters(), strict=True):
                assert a.grad is not None
                assert b.grad is not None
                assert torch.equal(a.grad, b.grad)
    assert len(recordings) == 3


def test_a_compiled_network_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the compiler's own kernels, which take minutes here and are for GPUs."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain = TinyNetwork()
    twin = deepcopy(plain)
    compiled = speed_up(twin, BATCH, Speedups(compile=True))
    assert train(compiled, twin, 4, 8) == train(plain_gradient(plain, BATCH), plain, 4, 8)


def test_kernels_are_compiled_for_the_size_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for any size, as the compiler would do for the second size that it meets, also in another network."""
    given: list[Any] = []

    def compiler(graph: Any, inputs: list[Any], **options: Any) -> Callable[..., Any]:
        given.extend(inputs)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compiler))
    for size in (BATCH, 2 * BATCH):
        speed_up(TinyNetwork(), size, Speedups(compile=True))(*batch(0, 8, size))
    assert {len(x) for x in given if x.ndim == 4} >= {BATCH, 2 * BATCH}
    assert all(isinstance(x, Tensor) for x in given)


def test_names_are_those_of_the_command_line() -> None:
    command: Any = execution_option(lambda: None)
    choice = command.__click_params__[0].type
    assert list(choice.choices) == list(EXECUTIONS)
    assert DEFAULT_EXECUTION in EXECUTIONS
    assert chosen_execution(None, torch.device("cuda")) == DEFAULT_EXECUTION
    assert chosen_execution("graphed", torch.device("cuda")) == "graphed"
    assert chosen_execution("graphed", torch.device("cpu")) == "plain"


def test_cpus_compute_alike_whatever_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    models = network(), network()
    for model, execution in zip(models, (None, "compiled"), strict=True):
        build_gradient(model, BATCH, CPU, 1, execution)
    assert repr(models[0]) == repr(models[1])
    assert [r.message for r in caplog.records] == ["--execution compiled is for GPUs and has no effect on a CPU."]


@pytest.mark.parametrize("execution", ["graphed", "compiled"])
def test_graphs_are_for_one_rank(execution: str) -> None:
    with pytest.raises(ValueError, match=f"--execution {execution} needs a single rank, not 2: use fused"):
        build_gradient(network(), BATCH, torch.device("cuda"), 2, execution)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")  # those of the compiler
@pytest.mark.parametrize("execution", ["fused", "graphed", "compiled"])
def test_on_the_device(execution: str) -> None:
    """Against the plain form in bfloat16: the same masks, and losses that agree as far as its precision goes."""
    device, steps = torch.device("cuda"), 4 * (WARM_UP + 2)
    losses = []
    for name in ("plain", execution):
        model = network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        losses.append(train(build_gradient(model, BATCH, device, 1, name), model, steps, 224, device))
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=0.03, atol=0.03)


@pytest.mark.gpu
def test_a_graph_draws_the_masks_of_the_seed() -> None:
    device = torch.device("cuda")
    model = network().to(device)
    graphed = speed_up(model, BATCH, Speedups(graph=True))
    images, labels = (t.to(device) for t in batch(0, 224))
    logits = []
    for seed in (*range(WARM_UP + 1), 7, 8, 7):
        torch.manual_seed(seed)
        logits.append(graphed(images, labels)[1].clone())
    torch.manual_seed(7)
    expected = plain_gradient(model, BATCH)(images, labels)[1]
    torch.testing.assert_close(logits[-1], expected)
    assert torch.equal(logits[-1], logits[-3])
    assert (logits[-1] - logits[-2]).abs().max() > 1e-3 * expected.abs().max()


def test_the_benchmark_runs(tmp_path: Path) -> None:
    names = ["eager", "space-to-depth"]
    options = [f"--contestant={name}" for name in names]
    options += ["--batch-size=2", "--width=0.0625", "--steps=1", "--rounds=3", f"--out={tmp_path / 'found.json'}"]
    subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [r["contestant"] for r in results] == names
    assert all(r["images_per_second"] == sorted(r["windows"])[1] > 0 for r in results)
