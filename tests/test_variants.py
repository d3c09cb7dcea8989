"""Networks beside the paper's: with a sixth layer, as Caffe has it, with a layer less, with towers apart."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import images, small
from torch import nn

from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet
from alexnet.train.network.size import describe

# -- a sixth layer, and Caffe's ------------------------------------------------------------------------------


def test_the_sixth_layer_and_what_follows_it() -> None:
    """Beside `original`, only one layer more: 3x3 over 256 maps of 6x6."""
    rows, others = (describe(Config.from_preset(name), 1000) for name in ("conv6", "original"))
    assert [row for row in rows if row.layer != "conv6"] == others
    (conv6,) = (row for row in rows if row.layer == "conv6")
    assert conv6[1:] == ((256, 6, 6), 256 * 256 * 9 + 256, 256 * 256 * 9 * 36, 256 * 36)


def caffe(convs: list[int], units: int, num_classes: int) -> nn.Sequential:
    """bvlc_alexnet as its prototxt lists it, of torch's own layers; dropout and the names of layers are left out."""

    def norm_pool() -> list[nn.Module]:
        return [nn.ReLU(), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1), nn.MaxPool2d(3, 2)]

    c1, c2, c3, c4, c5 = convs
    return nn.Sequential(
        *(nn.Conv2d(3, c1, 11, 4), *norm_pool()),
        *(nn.Conv2d(c1, c2, 5, padding=2, groups=2), *norm_pool()),
        *(nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(c3, c4, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(c4, c5, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Linear(36 * c5, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()),
        nn.Linear(units, num_classes),
    )


def test_caffe_is_its_prototxt() -> None:
    """With conv1 large enough for normalisation to bite: by towers, or with the paper's offset, it would be off."""
    model = small("caffe", width=1 / 8).double()
    with torch.no_grad():
        model.conv1.weight *= 20
        theirs = caffe([12, 32, 48, 48, 32], 512, 10).double()
        for name, ours in zip(theirs.state_dict(), model.state_dict().values(), strict=True):
            theirs.state_dict()[name].copy_(ours)
        x = images(2, torch.float64, 227)
        expected = theirs(x)
        torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=0)
        for norm, wrong in ((model.norm1, {"groups": 2}), (model.norm2, {"k": 2.0})):
            right = {name: getattr(norm, name) for name in wrong}
            vars(norm).update(wrong)
            assert (model(x) - expected).abs().max() > 1e-5 * expected.abs().max()
            vars(norm).update(right)


def test_caffe_has_the_published_shapes() -> None:
    """Those of bvlc_alexnet.caffemodel: biases apart, in its order of layers."""
    with torch.device("meta"):
        model = AlexNet(Config.from_preset("caffe"), 1000)
    assert [tuple(p.shape) for p in model.parameters() if p.ndim > 1] == [
        (96, 3, 11, 11),
        (256, 48, 5, 5),
        (384, 256, 3, 3),
        (384, 192, 3, 3),
        (256, 192, 3, 3),
        (4096, 9216),
        (4096, 4096),
        (1000, 4096),
    ]
    shapes = {row.layer: row.output_shape for row in describe(model.config, 1000)}
    assert shapes == {row.layer: row.output_shape for row in describe(Config(), 1000)}


@pytest.mark.parametrize(("padding", "crop"), [((0, 3, 0, 3), 224), ((0, 0, 0, 0), 227), ((1, 2, 0, 3), 227)])
def test_conv1_makes_55_of_either_crop(padding: tuple[int, ...], crop: Any) -> None:
    rows = describe(Config(width=0.1, crop=crop, conv1_padding=padding), 10)
    assert rows[0].output_shape[1:] == (55, 55)


# -- a layer less --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "conv_shapes"),
    [
        (("conv3",), [(24, 8, 3, 3), (16, 12, 3, 3)]),
        (("conv4",), [(24, 16, 3, 3), (16, 12, 3, 3)]),
        (("conv5",), [(24, 16, 3, 3), (16, 12, 3, 3)]),
        (("conv3", "conv4"), [(16, 8, 3, 3)]),
        (("conv4", "conv3", "conv5"), []),
        (("conv2",), [(24, 8, 3, 3), (24, 12, 3, 3), (16, 12, 3, 3)]),
        (("conv2", "conv3"), [(24, 4, 3, 3), (16, 12, 3, 3)]),
        (("conv2", "conv3", "conv4", "conv5"), []),
    ],
)
def test_without_middle_layers(without: tuple[str, ...], conv_shapes: list[tuple[int, ...]]) -> None:
    model = small(without=without)
    shapes = [
        tuple(p.shape)
        for name, p in model.named_parameters()
        if name in ("conv3.weight", "conv4.weight", "conv5.weight")
    ]
    assert shapes == conv_shapes
    assert model.fc6.weight.shape == small().fc6.weight.shape
    assert model(images()).shape == (2, 10)
    assert not set(without) & set(model.forward_features(images()))


@pytest.mark.parametrize(
    ("without", "parameters"),
    [  # of 60,965,224 less the layer's own and what its neighbour no longer sees
        ("conv2", 60_965_224 - (256 * 48 * 25 + 256) - 384 * (256 - 96) * 9),
        ("conv3", 60_965_224 - (384 * 256 * 9 + 384) - 384 * (192 - 128) * 9),
        ("conv4", 60_965_224 - (384 * 192 * 9 + 384)),
        ("conv5", 60_965_224 - (256 * 192 * 9 + 256) - (384 - 256) * (192 * 9 + 1)),
    ],
)
def test_a_layer_less(without: str, parameters: int) -> None:
    whole = {row.layer: row.output_shape for row in describe(Config(), 1000)}
    rows = describe(Config.from_dict({"without": [without]}), 1000)
    assert sum(row.parameters for row in rows) == parameters
    gone = {without} | ({"norm2"} if without == "conv2" else set())
    assert [row.layer for row in rows] == [name for name in whole if name not in gone]
    assert all(row.output_shape[1:] == whole[row.layer][1:] for row in rows), "maps keep their sizes"


def test_without_conv2_its_normalisations_go_but_its_pooling_stays() -> None:
    model = small("original", without=("conv2",))
    features = model.forward_features(images())
    assert [name for name in features if "2" in name] == ["pool2"]
    torch.testing.assert_close(features["pool2"], F.max_pool2d(features["pool1"], 3, 2))
    weight, bias = (model.get_parameter(f"conv3.{kind}") for kind in ("weight", "bias"))
    torch.testing.assert_close(features["conv3"], F.conv2d(features["pool2"], weight, bias, padding=1).relu())


def test_parameters_without_cross_talk() -> None:
    """conv3, fc6 and fc7 see half as much."""
    paper, apart = (sum(row.parameters for row in describe(Config(cross_talk=on), 1000)) for on in (True, False))
    assert paper - apart == (384 * 256 * 9 + 4096 * 9216 + 4096 * 4096) // 2
