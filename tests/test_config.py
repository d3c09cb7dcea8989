"""The configuration: its presets, its checks, its JSON, and that every field is documented."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest

from alexnet.train.config import Config
from alexnet.train.settings.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    config = Config.from_preset(name, epochs=7, without=["conv4"])
    assert config.without == ("conv4",)
    assert Config.from_json(config.to_json()) == config


def test_every_field_has_help_and_source() -> None:
    for field in fields(Config):
        assert all(field.metadata[key] for key in ("help", "source")), field.name


def test_every_preset_says_what_it_is() -> None:
    for name, preset in PRESETS.items():
        assert "error" in preset.expected
        assert "not tried" in preset.start or "steps of 128" in preset.start
        assert "Not run here" in preset.hardware
        assert f"--preset {name}" in preset.command
        assert Config.from_preset(name).preset == name


def test_the_default_is_the_paper() -> None:
    assert Config() == Config.from_preset("paper")


@pytest.mark.parametrize(
    ("preset", "asked", "padding"),
    [
        ("paper", {"crop": 227}, (0, 0, 0, 0)),
        ("owt", {"crop": 227}, (0, 0, 0, 0)),
        ("owt", {"crop": 224}, (2, 2, 2, 2)),
        ("caffe", {}, (0, 0, 0, 0)),
        ("caffe", {"crop": 224}, (0, 3, 0, 3)),
        ("paper", {"crop": 227, "conv1_padding": (1, 1, 1, 1)}, (1, 1, 1, 1)),
    ],
)
def test_another_crop_brings_its_padding(preset: str, asked: dict[str, Any], padding: tuple[int, ...]) -> None:
    assert Config.from_preset(preset, **asked).conv1_padding == padding


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().lr = 1.0  # type: ignore[misc]


def test_no_torch() -> None:
    """The command line reads options from here, so `--help` must stay quick."""
    code = "import sys, alexnet.train.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropuot": 0.5}, "unknown setting 'dropuot': the nearest known one is 'dropout'"),
        ({"preset": "papre"}, "preset = 'papre': choose one of paper, original, one-gpu, owt"),
        ({"dropout": 1.0}, "dropout = 1.0: choose a number from 0 to 0.99"),
        ({"lr": "fast"}, "lr = 'fast': expected float, found str"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"epochs": 1.5}, "epochs = 1.5: expected int, found float"),
        ({"init_seed": -1}, "init_seed = -1: choose a number from 0"),
        ({"data_seed": 1.5}, "data_seed = 1.5: expected int, found float"),
        ({"lrn": 1}, "lrn = 1: expected bool, found int"),
        ({"views": True}, "views = True: choose one of 1, 10"),
        ({"activation": "gelu"}, "activation = 'gelu': choose one of relu, tanh"),
        ({"channels": (96, 256)}, r"channels = \(96, 256\): give 5 values"),
        ({"channels": (96, 258, 384, 384, 256)}, "use multiples of 4"),
        ({"fc": 4094}, "use multiples of 4"),
        ({"groups": (1, 2, 4, 2, 2)}, "conv1 needs 1, the others 1 or the groups of conv2"),
        ({"groups": (2, 2, 1, 2, 2)}, "conv1 needs 1"),
        ({"groups": (1,) * 5, "cross_talk": False}, "there is only one tower"),
        ({"without": ["conv1"]}, "without = 'conv1': choose one of conv2, conv3, conv4, conv5"),
        ({"without": ["conv3", "conv3"]}, "name each layer once"),
        ({"lrn_size": 4}, "lrn_size = 4: use an odd number"),
        ({"conv1_padding": (0, 0, 0, 0)}, "must be 3 to 6 for crops of 224"),
        ({"crop": 227, "conv1_padding": (2, 2, 2, 2)}, "must be 0 to 3 for crops of 227"),
        ({"crop": 256}, "crop = 256: choose one of 224, 227"),
        ({"step_log": (20, 40, 40, 80, 90)}, "step_log = .* rising order"),
        ({"freeze": ["conv9"]}, "'conv9' in freeze or layer_lr: this network has the layers conv1, .*, fc8$"),
        ({"freeze": ["conv6"]}, "'conv6' in freeze"),
        ({"freeze": ["conv4"], "without": ["conv4"]}, "'conv4' in freeze"),
        ({"freeze": ["fc8"], "layer_lr": ["fc8=2"]}, "name each layer once"),
        ({"freeze": ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]}, "leave one to learn"),
        (
            {"freeze": ["conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"], "schedule": "epochs"},
            "freeze leaves conv1 alone, and --schedule epochs freezes it too",
        ),
        ({"layer_lr": ["fc8"]}, "layer_lr = 'fc8': give a layer and a factor above 0, as in fc8=10"),
        ({"layer_lr": ["fc8=0"]}, "layer_lr = 'fc8=0'"),
        ({"layer_lr": ["fc8=x"]}, "layer_lr = 'fc8=x'"),
        ({"layer_lr": ["fc8=inf"]}, "layer_lr = 'fc8=inf'"),
        ({"layer_lr": ["conv0=2"]}, "'conv0' in freeze or layer_lr"),
        ({"fine_tune_log": (7, 22, 22, 42, 54)}, "fine_tune_log = .* rising order"),
        ({"epoch_log": (25, 51, 51, 72, 79, 91)}, "list the epochs in rising order"),
    ],
)
def test_wrong_values_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.from_dict(values)


def test_wrong_presets_and_json_are_explained() -> None:
    with pytest.raises(ValueError, match="choose one of paper"):
        Config.from_preset("vgg")
    with pytest.raises(ValueError, match="not JSON"):
        Config.from_json("{")
    with pytest.raises(ValueError, match="expected a JSON object, found list"):
        Config.from_json("[]")


def test_width_keeps_towers_equal() -> None:
    quarter = Config(width=0.25)
    assert [quarter.scaled(c) for c in (*quarter.channels, quarter.fc)] == [24, 64, 96, 96, 64, 1024]
    assert Config(width=0.001).scaled(96) == 4
    assert Config.from_preset("one-gpu", width=0.1).scaled(48) == 4
    assert all(Config(width=w / 100).scaled(c) % 4 == 0 for w in range(1, 200) for c in (96, 256, 384))


def test_both_seeds_follow_seed() -> None:
    old = {name: value for name, value in asdict(Config(seed=5)).items() if name not in ("init_seed", "data_seed")}
    assert Config.from_dict(old) == Config(seed=5)
    assert Config(seed=5).seeds == (5, 5)
    assert Config(seed=5, data_seed=0).seeds == (5, 0)
    assert Config(seed=5, init_seed=0).seeds == (0, 5)
    assert replace(Config(seed=5), seed=6).seeds == (6, 6)


def test_whole_numbers_become_floats() -> None:
    config = Config.from_dict({"lr": 1, "init_bias": [0, 1, 0, 1, 1, 1, 1, 0]})
    assert type(config.lr) is float
    assert config.init_bias == Config().init_bias
