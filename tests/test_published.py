"""torchvision's published weights: read as our own network, and every other file refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet.pipeline.errors import CheckpointError
from alexnet.train.classifier import load_classifier
from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet
from alexnet.train.published import from_torchvision, load_published


def test_weights_with_and_without_names_of_classes(tmp_path: Path) -> None:
    ours, path, names = AlexNet(Config.from_preset("owt"), 5), tmp_path / "alexnet-owt.pth", tmp_path / "classes.txt"
    layers = {
        "conv1": "features.0",
        "conv2": "features.3",
        "conv3": "features.6",
        "conv4": "features.8",
        "conv5": "features.10",
        "fc6": "classifier.1",
        "fc7": "classifier.4",
        "fc8": "classifier.6",
    }
    named = ((name.split("."), parameter) for name, parameter in ours.state_dict().items())
    torch.save({f"{layers[layer]}.{kind}": parameter for (layer, kind), parameter in named}, path)
    found = load_classifier(path)
    assert found.model.config.preset == "owt"
    assert found.classes == ("0", "1", "2", "3", "4")
    assert all(torch.equal(p, ours.state_dict()[name]) for name, p in found.model.state_dict().items())
    names.write_text("ant\nbee\ncat\ndog\nelk\n")
    assert load_published(path).classes == ["ant", "bee", "cat", "dog", "elk"]
    names.write_text("ant\nbee\n")
    with pytest.raises(CheckpointError, match=r"classes.txt has 2 names for the 5 classes of alexnet-owt.pth"):
        load_published(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1.weight": torch.zeros(1)}, "not torchvision's alexnet: classifier.1.bias is missing"),
        (torch.nn.Linear(2, 2), "save only the model's state_dict\\(\\)"),
        ({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, "save only the model's state_dict\\(\\)"),
        ([1], "it holds more than tensors"),
        (b"junk", "cut short, or not a torch file"),
        (b"<!DOCTYPE html>", "cut short, or not a torch file"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, zipped: bool, message: str) -> None:
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_published(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 120
    assert str(caught.value).isprintable(), "torch's advice has several lines, and colours"


@pytest.mark.parametrize("zipped", [True, False])
def test_published_weights_cut_short(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save({"features.0.weight": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    intact = path.read_bytes()
    for end in (0, 1, 100, len(intact) // 2, len(intact) - 1):
        path.write_bytes(intact[:end])
        with pytest.raises(CheckpointError, match=r"cut short, or not a torch file: copy it again$"):
            load_published(path)


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not torchvision's alexnet: classifier.1.bias is missing"):
        from_torchvision({"features.0.weight": torch.zeros(1)})
