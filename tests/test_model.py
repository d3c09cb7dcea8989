"""The network: the paper's numbers, its towers, its normalisation, and what every switch changes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import TheirAlexNet, images, small
from torch import Tensor

from alexnet.train.config import Config
from alexnet.train.network import lrn
from alexnet.train.network.lrn import LocalResponseNorm, SpatialResponseNorm, response_norm
from alexnet.train.network.model import AlexNet, Dropout, initialise
from alexnet.train.network.size import describe
from alexnet.train.published import from_torchvision
from alexnet.train.settings.presets import PRESETS

# -- the paper's numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("paper", 60_965_224),
        ("original", 60_965_224),
        ("one-gpu", 59_798_312),
        ("owt", 61_100_840),
        ("conv6", 61_555_304),
        ("caffe", 60_965_224),
    ],
)
def test_parameters(preset: str, parameters: int) -> None:
    assert sum(row.parameters for row in describe(Config.from_preset(preset), 1000)) == parameters


def test_macs_neurons_and_maps() -> None:
    rows = describe(Config(), 1000)
    assert sum(row.macs for row in rows) == 724_406_816
    assert sum(row.neurons for row in rows) == 659_272
    assert {row.layer: row.output_shape for row in rows if row.layer.startswith("pool")} == {
        "pool1": (96, 27, 27),
        "pool2": (256, 13, 13),
        "pool5": (256, 6, 6),
    }
    assert [row.macs for row in rows if row.macs][:3] == [105_415_200, 223_948_800, 149_520_384]


# -- normalisation ------------------------------------------------------------------------------------------


def naive_norm(x: Tensor, groups: int, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """The formula of s3.3, unit by unit, in each tower."""
    channels = x.shape[1]
    tower = channels // groups
    out = torch.empty_like(x)
    for i in range(channels):
        low = max(i // tower * tower, i - size // 2)
        high = min((i // tower + 1) * tower, i + size // 2 + 1)
        out[:, i] = x[:, i] / (k + alpha * (x[:, low:high] ** 2).sum(1)) ** beta
    return out


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "groups", "size", "beta"),
    [(12, 2, 5, 0.75), (12, 1, 5, 0.75), (4, 2, 5, 0.75), (6, 3, 3, 0.5), (8, 2, 1, 1.0), (2, 2, 5, 0.75)],
)
def test_norm_and_its_gradient(
    channels: int, groups: int, size: int, beta: float, memory_format: torch.memory_format
) -> None:
    x = 10 * torch.randn(2, channels, 3, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    constants = groups, size, 0.02, beta, 2.0
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = response_norm(ours, *constants), naive_norm(theirs, *constants)
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=0)
    g = torch.randn_like(x)
    y.backward(g)
    expected.backward(g)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-13)
    assert torch.autograd.gradcheck(lambda x: response_norm(x, *constants), ours, fast_mode=True)


def test_norm_conventions_of_alpha() -> None:
    """Divided by the window it is torch's with the same alpha, plain it is torch's with five times that."""
    x = 100 * torch.randn(2, 16, 5, 5)
    for over_n, alpha in ((True, 1e-4), (False, 5e-4)):
        norm = LocalResponseNorm(Config(lrn_alpha_over_n=over_n, groups=(1,) * 5))
        torch.testing.assert_close(norm(x), F.local_response_norm(x, 5, alpha, 0.75, 2.0))


def test_norm_keeps_towers_apart() -> None:
    norm = LocalResponseNorm(Config())
    x = 1000 * torch.randn(2, 96, 5, 5)
    both = torch.cat([F.local_response_norm(half, 5, 5e-4, 0.75, 2.0) for half in x.chunk(2, 1)], 1)
    torch.testing.assert_close(norm(x), both)
    assert (norm(x) - F.local_response_norm(x, 5, 5e-4, 0.75, 2.0)).abs().max() > 1e-2


@pytest.mark.parametrize("function", [lambda x: response_norm(x, 2, 5, 1e-4, 0.75, 2.0), SpatialResponseNorm()])
def test_a_norm_keeps_its_inputs_precision(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where roots come in float32, as they do under a GPU's autocast."""
    power = lrn.inverse_power
    monkeypatch.setattr(lrn, "inverse_power", lambda s, beta: power(s.float(), beta))
    x = torch.randn(2, 8, 6, 6).bfloat16().requires_grad_()
    y = function(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_spatial_norm() -> None:
    x = 100 * torch.randn(1, 2, 7, 6, dtype=torch.float64)
    squares = F.pad(x**2, (2, 2, 2, 2)).unfold(2, 5, 1).unfold(3, 5, 1).sum((-1, -2))
    torch.testing.assert_close(SpatialResponseNorm()(x), x / (1 + 0.001 / 25 * squares) ** 0.75)
    assert torch.autograd.gradcheck(SpatialResponseNorm(), x.requires_grad_())


# -- towers -------------------------------------------------------------------------------------------------


def tower_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The paper's figure 2 as two explicit halves that talk before conv3, conv6, fc6, fc7 and fc8. Test mode."""

    def half(name: str, tower: int) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"].chunk(2)[tower], state[f"{name}.bias"].chunk(2)[tower]

    def norm_pool(y: Tensor) -> Tensor:
        return F.max_pool2d(F.local_response_norm(y.relu(), 5, 5e-4, 0.75, 2.0), 3, 2)

    ys = [norm_pool(F.conv2d(F.pad(x, (0, 3, 0, 3)), *half("conv1", t), stride=4)) for t in (0, 1)]
    ys = [norm_pool(F.conv2d(ys[t], *half("conv2", t), padding=2)) for t in (0, 1)]
    both = torch.cat(ys, 1)
    ys = [F.conv2d(both, *half("conv3", t), padding=1).relu() for t in (0, 1)]
    ys = [F.conv2d(ys[t], *half("conv4", t), padding=1).relu() for t in (0, 1)]
    ys = [F.max_pool2d(F.conv2d(ys[t], *half("conv5", t), padding=1).relu(), 3, 2) for t in (0, 1)]
    if "conv6.weight" in state:
        both = torch.cat(ys, 1)
        ys = [F.conv2d(both, *half("conv6", t), padding=1).relu() for t in (0, 1)]
    for name in ("fc6", "fc7"):
        both = torch.cat([y.flatten(1) for y in ys], 1)
        ys = [0.5 * F.linear(both, *half(name, t)).relu() for t in (0, 1)]
    return F.linear(torch.cat(ys, 1), state["fc8.weight"], state["fc8.bias"])


@pytest.mark.parametrize("conv6", [False, True])
def test_grouped_network_is_two_towers(conv6: bool) -> None:
    """With conv1 large enough for normalisation to bite; over all channels it would be off by far more."""
    model = small(width=1 / 8, conv6=conv6, conv6_init=(0.05, 1)).double()
    with torch.no_grad():
        model.conv1.weight *= 20
        x = images(2, torch.float64)
        expected = tower_logits(model.state_dict(), x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=0)
        model.norm1.groups = 1
        assert (model(x) - expected).abs().max() > 1e-5 * expected.abs().max()


def test_no_cross_talk_towers_meet_at_the_logits_only() -> None:
    model, talking = small(cross_talk=False), small()
    assert [model.get_submodule(name).groups for name in ("conv3", "fc6", "fc7")] == [2, 2, 2]
    assert [small(cross_talk=talk, conv6=True).conv6.groups for talk in (False, True)] == [2, 1]
    assert model.fc6.weight.shape == (256, 16 * 36 // 2)
    assert model.fc8.weight.shape == talking.fc8.weight.shape
    for net, alone in ((model, True), (talking, False)):
        before = net.forward_features(images())
        with torch.no_grad():
            net.conv1.weight[len(net.conv1.weight) // 2 :] *= -1  # of tower 1
        after = net.forward_features(images())
        same = {name: torch.equal(before[name].chunk(2, 1)[0], after[name].chunk(2, 1)[0]) for name in before}
        assert [same[name] for name in ("conv2", "conv3", "fc6", "fc7", "fc8")] == [True, *[alone] * 3, False]


# -- switches -----------------------------------------------------------------------------------------------


def test_memory_format_does_not_matter() -> None:
    model = small()
    expected = model(images())
    model.to(memory_format=torch.channels_last)
    features = model.forward_features(images().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(features["fc8"], expected, rtol=1e-4, atol=1e-3)
    assert features["conv5"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own doing
@pytest.mark.parametrize("preset", ["original", "owt"])
def test_network_compiles_whole(preset: str) -> None:
    """torch.compile traces it without a break, normalisation and its gradient included."""
    model = small(preset)
    logits = torch.compile(model, backend="aot_eager", fullgraph=True)(images())
    torch.testing.assert_close(logits, model(images()))
    logits.sum().backward()
    compiled = model.conv1.weight.grad
    model.zero_grad()
    model(images()).sum().backward()
    torch.testing.assert_close(model.conv1.weight.grad, compiled)


@pytest.mark.parametrize("preset", PRESETS)
def test_features_are_named_and_forward_gives_the_last(preset: str) -> None:
    model = small(preset)
    x = images(crop=model.config.crop)
    features = model.forward_features(x)
    rows = describe(model.config, 10)
    assert list(features) == [row.layer for row in rows]
    assert [tuple(f.shape[1:]) for f in features.values()] == [row.output_shape for row in rows]
    assert torch.equal(model(x), features["fc8"])
    assert all(f.isfinite().all() for f in features.values())


def test_layer_names_by_preset() -> None:
    names = {preset: [row.layer for row in describe(Config.from_preset(preset), 10)] for preset in PRESETS}
    paper = "conv1 norm1 pool1 conv2 norm2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8".split()
    assert names["paper"] == names["one-gpu"] == names["caffe"] == paper
    assert names["original"] == [*paper[:5], "spatial2", *paper[5:]]
    assert names["conv6"] == [*names["original"][:-3], "conv6", *paper[-3:]]
    assert names["owt"] == [name for name in paper if "norm" not in name]
    assert [row.layer for row in describe(Config.from_preset("original", lrn=False), 10)] == names["owt"]


def test_original_normalises_before_the_activation() -> None:
    features = small("original").forward_features(images())
    assert features["conv1"].min() < 0
    assert features["norm1"].min() < 0
    assert features["pool1"].min() == 0
    assert small().forward_features(images())["conv1"].min() == 0
    torch.testing.assert_close(features["pool1"], F.max_pool2d(features["norm1"].relu(), 3, 2))


def test_conv1_padding_is_right_and_bottom() -> None:
    """The first window starts at the image's first pixel, the last overhangs by 3."""
    model = small()
    x = images(1)
    patch = F.conv2d(x[:, :, :11, :11], model.conv1.weight, model.conv1.bias).relu()
    torch.testing.assert_close(model.forward_features(x)["conv1"][:, :, :1, :1], patch)


@pytest.mark.parametrize(
    ("switch", "layers", "first_change"),
    [
        ({"activation": "tanh"}, 13, "conv1"),
        ({"lrn": False}, 11, "pool1"),
        ({"lrn_size": 3}, 13, "norm1"),
        ({"lrn_alpha": 1e-3}, 13, "norm1"),
        ({"lrn_beta": 0.5}, 13, "norm1"),
        ({"lrn_k": 1.0}, 13, "norm1"),
        ({"lrn_alpha_over_n": True}, 13, "norm1"),
        ({"lrn_across_towers": True}, 13, "norm1"),
        ({"spatial_norm": True}, 14, "pool2"),
        ({"lrn_before_activation": True}, 13, "conv1"),
        ({"overlapping_pooling": False}, 13, "pool1"),
        ({"conv1_padding": (2, 2, 2, 2)}, 13, "conv1"),
        ({"dropout": 0.25}, 13, "fc7"),
    ],
)
def test_switch_changes_behaviour_but_no_parameters(
    switch: dict[str, Any],
    layers: int,
    first_change: str,
) -> None:
    plain, changed = small(), small(**switch)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), changed.parameters(), strict=True))
    a, b = plain.forward_features(images()), changed.forward_features(images())
    assert len(b) == layers
    assert next(name for name in a if name in b and not torch.equal(a[name], b[name])) == first_change


# -- dropout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverted", [False, True])
def test_dropout_scales(inverted: bool) -> None:
    dropout = Dropout(0.25, inverted)
    x = torch.ones(1000, 100)
    y = dropout(x)
    assert set(y.unique().tolist()) == ({0.0, torch.tensor(1 / 0.75).item()} if inverted else {0.0, 1.0})
    assert abs((y > 0).float().mean() - 0.75) < 0.01
    assert torch.equal(dropout.eval()(x), x if inverted else 0.75 * x)


def test_dropout_mask_is_the_same_in_every_precision() -> None:
    masks = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.manual_seed(3)
        masks.append(Dropout(0.5, False).mask(torch.zeros(8, 33, dtype=dtype)))
    assert all(torch.equal(masks[0], mask) for mask in masks)


@pytest.mark.parametrize(
    ("style", "dropped"), [("mask", {"fc7"}), ("inverted-outputs", {"fc7"}), ("inverted", {"fc6", "fc7"})]
)
def test_dropout_placement(style: str, dropped: set[str]) -> None:
    """fc6 itself differs between two masks only if its input is dropped."""
    model = small(dropout_style=style).train()
    a, b = model.forward_features(images()), model.forward_features(images())
    assert {name for name in ("pool5", "fc6", "fc7") if not torch.equal(a[name], b[name])} == dropped
    off = small(dropout=0.0)
    assert torch.equal(off(images()), off.train()(images()))


# -- initial weights ----------------------------------------------------------------------------------------


def test_initialise_is_deterministic_and_per_layer() -> None:
    a, b, other = small(), small(), small()
    initialise(other, 1)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.fc6.weight, other.fc6.weight)
    double = AlexNet(a.config, 10).double()
    initialise(double, 0)
    assert torch.equal(double.fc6.weight.float(), a.fc6.weight)


def test_initial_sizes() -> None:
    model = AlexNet(Config.from_preset("conv6", width=0.25), 100)
    initialise(model, 0)
    stds = {name: p.std().item() for name, p in model.named_parameters() if name.endswith("weight")}
    for name, std in (("conv1", 0.01), ("conv2", 0.02), ("conv3", 0.06), ("conv6", 0.06), ("fc6", 0.02), ("fc8", 0.02)):
        assert stds[f"{name}.weight"] == pytest.approx(std, rel=0.05)
    biases = [p.unique().item() for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases == [0, 1, 0, 1, 1, 1, 1, 1, 0]
    owt = small("owt")
    bound = owt.fc6.weight.shape[1] ** -0.5
    assert 0.9 * bound < owt.fc6.bias.abs().max() <= bound >= owt.fc6.weight.abs().max() > 0.99 * bound


# -- torchvision --------------------------------------------------------------------------------------------


def test_published_weights_give_the_published_network() -> None:
    """Against torchvision's alexnet said again, in test mode."""
    theirs = TheirAlexNet(1000).eval()
    ours = AlexNet(Config.from_preset("owt"), 1000).eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
