"""Crops of 227 from the command line to the figures: what a run was trained on, all that comes after it sees."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import CPU, invoke

from alexnet.pipeline import augment
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.squares import squares
from alexnet.train.checkpoint import saved_checkpoints
from alexnet.train.classifier import load_classifier, probabilities
from alexnet.train.figures.activations import activations_of

pytestmark = pytest.mark.usefixtures("quiet_machine")

USUAL = ("--width", 0.02, "--batch-size", 6, "--device", "cpu")


@pytest.fixture(scope="module")
def run(colour_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("caffe") / "run"
    invoke("train", colour_tree, "--preset", "caffe", "--run", run, *USUAL, "--epochs", 1)
    return run


def test_a_checkpoint_knows_its_crop(run: Path, colour_tree: Path) -> None:
    """The ten views are those of the saved mean and weights, cut here by hand."""
    network = load_classifier(saved_checkpoints(run)[-1], CPU)
    assert network.treatment.mean.shape == (227, 227, 3)
    dataset = open_dataset(colour_tree, "val")
    (batch,) = squares(dataset, np.arange(4), batch_size=4, settings=Settings(threads=1, readers=1))
    pixels, total = batch.pixels.numpy(), torch.zeros(4, 3, dtype=torch.float64)
    for top, left in ((14, 14), (0, 0), (0, 29), (29, 0), (29, 29)):
        for flip in (False, True):
            crops = [augment.crop_and_flip(square, top, left, flip, 227) - network.treatment.mean for square in pixels]
            with torch.no_grad():
                logits = network.model(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))
            total = total + torch.softmax(logits.double(), 1) / 10
    torch.testing.assert_close(probabilities([network], batch.pixels, 10), total, rtol=1e-5, atol=1e-7)
    seen = activations_of(network, batch.pixels[0])
    np.testing.assert_array_equal(seen.image, pixels[0][14:241, 14:241])
    assert seen.seen.shape == (227, 227, 3)


def test_commands_after_training_see_the_same(run: Path, colour_tree: Path, tmp_path: Path) -> None:
    found = json.loads(invoke("evaluate", run, colour_tree, "--views", 10, "--device", "cpu", "--json").stdout)
    assert found["views"] == 10
    invoke("features", run, colour_tree, "--layer", "conv1", "--pool", "mean", "--out", tmp_path, "--device", "cpu")
    invoke("train", colour_tree, "--run", run, "--resume", "--device", "cpu")


def test_the_loader_is_measured_with_the_crop_of_the_step(colour_tree: Path) -> None:
    short = ("--seconds", 0.05, "--rounds", 1, "--batch-size", 4, "--device", "cpu", "--width", 0.02)
    assert invoke("bench-loader", colour_tree, "--step", "--preset", "caffe", *short).stdout
