"""cuda-convnet's layers against loops in float64, its parameter counts, and the paper's update in plain numpy."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet.train.cifar.layers import CrossMapNorm, LocallyConnected2d, Pool
from alexnet.train.cifar.networks import Network, Neuron, build_network, pooled
from alexnet.train.cifar.run import update


def test_locally_connected_against_a_loop() -> None:
    torch.manual_seed(0)
    layer = LocallyConnected2d(2, 3, (2, 3), 3).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    y = layer(x)

    weight = layer.weight.detach().numpy().reshape(2, 3, 3, 3, 2, 3)  # place, place in the kernel, maps
    padded = np.pad(x.detach().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.empty((2, 3, 2, 3))
    for row, column in product(range(2), range(3)):
        patch = padded[:, :, row : row + 3, column : column + 3]
        expected[:, :, row, column] = np.einsum("bcij,ijco->bo", patch, weight[row, column])
        expected[:, :, row, column] += layer.bias.detach().numpy()[row, column]
    np.testing.assert_allclose(y.detach(), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(layer, {"weight": w}, (x,)), (layer.weight,))


@pytest.mark.parametrize("size", [32, 16, 8, 24, 12, 6])
@pytest.mark.parametrize("kind", ["max", "mean"])
def test_pooling_against_a_loop(kind: str, size: int) -> None:
    """Windows start at every second pixel, as long as one adds pixels; the last may be cut by the edge."""
    x = np.random.default_rng(size).normal(size=(2, 3, size, size))
    starts = range(0, size - 1, 2)
    expected = np.array(
        [
            [(np.max if kind == "max" else np.mean)(x[:, :, a : a + 3, b : b + 3], axis=(2, 3)) for b in starts]
            for a in starts
        ]
    ).transpose(2, 3, 0, 1)
    np.testing.assert_allclose(Pool(kind)(torch.from_numpy(x)), expected, rtol=1e-12)
    assert pooled(size) == size // 2


def test_cross_map_norm_against_a_loop() -> None:
    x = np.random.default_rng(0).normal(size=(2, 20, 3, 3)) * 50
    expected = np.empty_like(x)
    for i in range(20):
        around = x[:, max(0, i - 4) : i + 5]
        expected[:, i] = x[:, i] / (1 + 0.001 / 9 * (around**2).sum(1)) ** 0.75
    np.testing.assert_allclose(CrossMapNorm()(torch.from_numpy(x)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("network", "size", "extra", "parameters"),
    [
        ("small", 32, {}, 2_432 + 25_632 + 51_264 + 10_250),  # conv1..3, fc10
        ("local", 32, {}, 4_864 + 102_464 + (64 * 288 * 64 + 2_048) + (64 * 288 * 32 + 2_048) + 20_490),
        ("local", 24, {"normalisation": True}, 4_864 + 102_464 + 36 * 32 * (577 + 289) + 11_530),
        ("local", 24, {"local3": 64}, 4_864 + 102_464 + 36 * 64 * 577 + 36 * 32 * 577 + 11_530),
    ],
)
@pytest.mark.parametrize("neuron", ["relu", "tanh"])
def test_networks(network: Network, neuron: Neuron, size: int, extra: dict, parameters: int) -> None:
    if network == "local" and not extra:
        parameters = 1_901_386
    model = build_network(network, neuron, size=size, seed=3, **extra)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.randn(2, 3, size, size)).shape == (2, 10)
    names = [type(layer).__name__ for layer in model]
    assert names.count({"relu": "ReLU", "tanh": "Tanh"}[neuron]) == (3 if network == "small" else 4)
    assert names.count("CrossMapNorm") == (2 if extra.get("normalisation") else 0)
    stds = {name: float(p.detach().std()) for name, p in model.named_parameters() if name.endswith("weight")}
    assert stds["conv1.weight"] == pytest.approx(1e-4, rel=0.1)
    assert stds["fc10.weight"] == pytest.approx(0.01, rel=0.1)
    assert stds["local3.weight" if network == "local" else "conv3.weight"] == pytest.approx(
        0.04 if network == "local" else 0.01, rel=0.1
    )
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_neurons_start_from_the_same_weights() -> None:
    relu, tanh = (build_network("local", neuron, size=32, seed=1).state_dict() for neuron in ("relu", "tanh"))
    assert all(torch.equal(relu[name], tanh[name]) for name in relu)


def test_the_update_is_the_papers() -> None:
    """Two steps, with the rate divided by ten between them: the velocity stays as it was."""
    model = build_network("small", "tanh", size=8, seed=0).double()
    velocities = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    decay, rng = {"conv2": 0.5}, np.random.default_rng(0)
    w: dict[str, NDArray] = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    v = {name: np.zeros_like(a) for name, a in w.items()}
    for rate in (0.1, 0.01):
        for name, parameter in model.named_parameters():
            g = rng.normal(size=parameter.shape)
            parameter.grad = torch.from_numpy(g)
            own = 2 * rate if name.endswith("bias") else rate
            v[name] = 0.9 * v[name] - own * g - own * (0.5 if name == "conv2.weight" else 0) * w[name]
            w[name] = w[name] + v[name]
        update(model, velocities, rate, decay)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach(), w[name], rtol=1e-12)
        assert parameter.grad is None
