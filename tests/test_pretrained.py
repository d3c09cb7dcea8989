"""A new run begins with the layers that fit of a trained network, once; a resumed one with its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import CPU, SMALL, interrupted_at, invoke, outcome, trainer

from alexnet.pipeline.errors import CheckpointError
from alexnet.pipeline.treatment import Treatment
from alexnet.train.checkpoint import load, saved_checkpoints
from alexnet.train.classifier import Classifier, load_classifier
from alexnet.train.config import Config
from alexnet.train.features import fingerprint
from alexnet.train.network.model import AlexNet, initialise
from alexnet.train.parallel.mesh import Mesh
from alexnet.train.pretrained import take_layers
from alexnet.train.starts import read_starts
from alexnet.train.step import build_model

pytestmark = pytest.mark.usefixtures("quiet_machine")

NAMES = ("ant", "bee", "cat", "dog")
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def source(classes: tuple[str, ...] = NAMES, **changes: Any) -> Classifier:
    """A network that is not the one of seed 0."""
    model = AlexNet(Config(**{"width": 0.02, **changes}), len(classes))
    initialise(model, 7)
    return Classifier(model.eval(), Treatment(mean=np.zeros(3, np.float32)), classes)


def begun(found: Classifier, classes: tuple[str, ...], **changes: Any) -> tuple[AlexNet, tuple[str, ...]]:
    """The network that a run begins with, and the layers that it took."""
    config = Config.from_preset(changes.pop("preset", "paper"), **{"width": 0.02, **changes})
    taken = take_layers(found, "there", config, classes)
    return build_model(config, len(classes), Mesh(), taken.parameters).eval(), taken.taken


def test_classes_in_another_order_keep_their_rows() -> None:
    """Each class has the logit that the network gave to its name."""
    there, order = source(), (2, 0, 3, 1)
    model, taken = begun(there, tuple(NAMES[i] for i in order))
    assert taken == LAYERS
    x = 50 * torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(x), there.model(x)[:, order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [("ant", "bee", "cat", "eel"), NAMES[:3], (*NAMES, "eel")])
def test_other_classes_get_an_fc8_of_their_own(classes: tuple[str, ...]) -> None:
    there, drawn = source(), AlexNet(Config(width=0.02), len(classes))
    initialise(drawn, 0)
    model, taken = begun(there, classes)
    assert taken == LAYERS[:-1]
    for name, parameter in model.named_parameters():
        expected = drawn if name.startswith("fc8") else there.model
        assert torch.equal(parameter, expected.get_parameter(name)), name


@pytest.mark.parametrize(
    ("changes", "fresh"),
    [
        ({"preset": "conv6"}, {"conv6": "not there"}),
        ({"fc": 2048}, {"fc6": r"80x144 there, 40x144 here", "fc7": "80x80 there", "fc8": "4x80 there, 4x40 here"}),
        ({"cross_talk": False}, {"conv3": "8x4x3x3 there, 8x2x3x3 here", "fc6": "80x144 there", "fc7": "80x80 there"}),
        ({"without": ("conv5",)}, {"conv4": "8x4x3x3 there, 4x4x3x3 here"}),
    ],
)
def test_layers_that_do_not_fit_are_new(changes: dict[str, Any], fresh: dict[str, str]) -> None:
    config = Config.from_preset(changes.pop("preset", "paper"), width=0.02, **changes)
    found = take_layers(source(), "there", config, NAMES)
    assert found.fresh.keys() == fresh.keys()
    assert all(found.fresh[layer].startswith(why) for layer, why in fresh.items()), found.fresh
    assert {*found.taken} == {*config.layers} - {*fresh}


def test_published_weights_know_imagenets_synsets_by_their_order() -> None:
    synsets = ("n01440764", *(f"n0{1500000 + i}" for i in range(998)), "n15075141")
    numbered = source(tuple(map(str, range(1000))))
    assert "fc8" not in begun(numbered, synsets)[1]
    assert "fc8" in begun(replace(numbered, published=True), synsets)[1]


def test_what_would_make_the_same_layers_compute_something_else_is_said() -> None:
    found = take_layers(source(scaling="imagenet", lighting="off"), "there", Config(width=0.02), NAMES)
    assert found.report() == (
        f"Weights of {', '.join(LAYERS)} come from there. No layer is new. "
        "Note: that network had --scaling imagenet, not raw."
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "unused"),
    [({"conv6": True}, {}, "conv6"), ({}, {"without": ("conv4",)}, "conv4"), ({}, {"conv6": True}, "")],
)
def test_layers_that_the_new_network_lacks_are_said(theirs: dict[str, Any], ours: dict[str, Any], unused: str) -> None:
    """The layers behind them fit, and yet see something else."""
    found = take_layers(source(**theirs), "there", Config(width=0.02, **ours), NAMES)
    assert {"conv5", "fc6"} <= {*found.taken}
    assert found.unused == tuple(unused.split())
    assert ("Left out" in found.report()) == bool(unused)
    assert f"this network lacks it: {unused}." in found.report() or not unused


def test_a_network_of_other_shapes_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no layer of there fits this network \(conv1: 4x3x11x11 there, 8x"):
        take_layers(source(), "there", Config(width=0.08), ("other",))


def test_a_resumed_run_goes_on_from_its_own_weights(colour_tree: Path, tmp_path: Path) -> None:
    """Begun from another network, interrupted and resumed, it ends with the bits of a run that was not."""
    config = Config(**SMALL)
    runs = []
    for name in ("whole", "parted"):
        found = take_layers(source(("blue", "green", "red")), "there", config, ("blue", "green", "red"))
        assert found.taken == LAYERS
        if name == "whole":
            trainer(colour_tree, tmp_path / name, {}, pretrained=found).fit()
        else:
            path = interrupted_at((0, 3), colour_tree, tmp_path / name, {}, pretrained=found)
            trainer(colour_tree, tmp_path / name, {}, resume=load(path)).fit()
        runs.append(outcome(tmp_path / name))
    assert runs[0] == runs[1]
    trainer(colour_tree, tmp_path / "own", {}).fit()
    assert outcome(tmp_path / "own") != runs[0]


def test_the_command_says_and_keeps_what_it_took(colour_tree: Path, tmp_path: Path) -> None:
    usual = ("--width", 0.02, "--batch-size", 6, "--epochs", 1, "--device", "cpu")
    first, second = tmp_path / "first", tmp_path / "second"
    invoke("train", colour_tree, "--run", first, *usual)
    said = invoke("train", colour_tree, "--run", second, *usual, "--preset", "conv6", "--init-from", first).stderr
    path = saved_checkpoints(first)[-1]
    assert f"Weights of conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8 come from {path}. New: conv6 (not th" in said
    (start,) = read_starts(second)
    assert start.pretrained == {
        "source": str(path),
        "fingerprint": fingerprint(load_classifier(path, CPU)),
        "taken": list(LAYERS),
        "fresh": ["conv6"],
    }
    said = invoke("train", colour_tree, "--run", second, "--resume", "--init-from", tmp_path / "gone").stderr
    assert "--init-from has no effect: the run goes on from its own weights." in said
    assert [start.pretrained is None for start in read_starts(second)] == [False, True]


@pytest.mark.parametrize(
    ("given", "message"), [("gone", "There is no checkpoint or run folder"), ("empty", "no whole checkpoint")]
)
def test_where_there_is_no_network(given: str, message: str, colour_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = invoke("train", colour_tree, "--run", tmp_path / "run", "--init-from", tmp_path / given, code=1)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
