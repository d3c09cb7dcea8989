"""`alexnet bench-loader` as a user types it."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from runs import invoke

from alexnet.cli import main
from alexnet.console import tables
from alexnet.console.options import LoadingOptions
from alexnet.pipeline.bench.sweep import candidates
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.loader import Batch
from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet
from alexnet.train.step import TrainStep

pytestmark = pytest.mark.usefixtures("quiet_machine")


BENCH = ("--seconds", 0.05, "--rounds", 1, "--batch-size", 6, "--threads", 1)


def test_bench_loader_measures_the_step_and_draws(colour_tree: Path, tmp_path: Path) -> None:
    result = invoke(
        "bench-loader",
        colour_tree,
        *BENCH,
        *"--step --width 0.02 --preset one-gpu --prefetch 1 --readers 2".split(),
        "--plot",
        tmp_path / "loader.png",
    )
    assert "training step, cached batch" in result.stdout
    assert "oading is" in result.stdout or "It is unclear" in result.stdout
    assert (tmp_path / "loader.png").read_bytes().startswith(b"\x89PNG")
    for what in ("stages: 8/8", "from the disk: 2/2", "training step: 6/6"):
        assert what in result.stderr


def test_bench_loader_takes_the_trainers_own_step(colour_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the network that was asked for, on the batches of the loader."""
    steps: list[tuple[str, int, tuple[int, ...]]] = []

    def train_step(self: TrainStep, batch: Batch) -> None:
        logits = self.model(batch.images)
        steps.append((self.config.preset, sum(p.numel() for p in self.model.parameters()), tuple(logits.shape)))

    monkeypatch.setattr(TrainStep, "__call__", train_step)
    invoke("bench-loader", colour_tree, *BENCH, "--step", "--width", 0.02, "--preset", "owt")
    network = AlexNet(Config.from_preset("owt", width=0.02), 3)
    assert set(steps) == {("owt", sum(p.numel() for p in network.parameters()), (6, 3))}


def test_bench_loader_draws_images_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))
    monkeypatch.setattr("alexnet.console.commands.bench.DEFAULT_DATA", tmp_path / "nothing")
    monkeypatch.setattr("alexnet.console.commands.bench.NUM_GENERATED", 6)
    result = invoke("bench-loader", *BENCH)
    assert "No data set was given: measuring on generated JPEGs of ImageNet's sizes" in result.stderr
    assert "drawing: 6/6 images" in result.stderr
    assert result.stdout.startswith("6 images")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--width", "0.5"], "--preset and --width describe the network that --step trains: add --step."),
        (["--preset", "owt"], "add --step."),
        (["--sweep", "--rounds", "2"], "--sweep needs 5 or more --rounds to tell differences from noise."),
        (["--hw-decoder-load", "0.5", "--device", "cpu"], "but the CPU decodes: leave it out."),
        (["--plot", "loader.txt"], "'loader.txt' must end in one of .png, .pdf, .svg."),
        (["--plot", "loader"], "must end in one of"),
        (["--compare", "tensorflow"], "'tensorflow' is not 'torch'"),
        (["--step", "--width", "0"], "0.0 is not in the range"),
        (["--readers", "0"], "0 is not in the range"),
        (["--prefetch", "0"], "0 is not in the range"),
        (["--hw-decoder-load", "1.5"], "1.5 is not in the range"),
    ],
)
def test_bench_loader_refuses_what_makes_no_sense(colour_tree: Path, options: list[str], says: str) -> None:
    message = invoke("bench-loader", colour_tree, *options, code=2).stderr
    assert says in message
    assert message.strip().splitlines()[-1].startswith("Error: ")


def test_loading_options_reach_the_settings() -> None:
    usual = LoadingOptions(
        threads=3,
        device="cpu",
        decode_on=None,
        decode="exact",
        readers=4,
        prefetch=2,
        hw_decoder_load=None,
        max_bad=0.01,
        max_pixels=100,
    )
    assert usual.settings() == Settings(threads=3, readers=4, max_pixels=100)
    changed = replace(usual, readers=1, prefetch=7).settings()
    assert (changed.readers, changed.prefetch) == (1, 7)
    shared = replace(usual, threads=16).settings(num_ranks=2)
    assert (shared.threads, shared.readers) == (8, 4)
    assert usual.settings(num_ranks=8).threads == 1
    gpu, elsewhere = torch.device("cuda:1"), replace(usual, decode_on="cpu")
    placed = [how.settings(gpu) for how in (usual, replace(usual, decode_on="gpu"), elsewhere)]
    assert [(s.device_id, s.upload_to, s.gpu_id) for s in placed] == [(1, None, 1), (1, None, 1), (None, 1, 1)]
    assert elsewhere.settings() == usual.settings()
    with pytest.raises(click.UsageError, match="--decode-on gpu needs a GPU that computes too"):
        replace(usual, decode_on="gpu").settings()


def test_every_command_that_loads_takes_the_recommended_options() -> None:
    for command in ("pca-stats", "train", "evaluate", "predict", "bench-loader"):
        names = {name for parameter in main.commands[command].params for name in parameter.opts}
        assert {f"--{option.replace('_', '-')}" for option in candidates(Settings(device_id=0))} <= names


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_numbers_stay_whole_on_a_narrow_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    header = ("stage", "images a second", "slowest and fastest window", "", "what it is")
    rows = [("loader", "1,234,567", "1,000,000..2,000,000", "*", "words " * 20), ("read", "7", "1..2", "", "few")]
    tables.print_table("A table", header, rows)
    printed = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)  # bold
    assert all(number in printed for number in ("1,234,567", "1,000,000..2,000,000"))
    assert max(map(len, printed.splitlines())) <= columns
    assert ("images a second" in printed) == (columns == 200)
    tables.print_table("No rows", header, [])
    assert "stage" in capsys.readouterr().out


def test_sentences_that_begin_with_a_number_wrap(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is measured of symptoms on a GPU: unwrapped, it would leave no room for the other columns."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    measured = ("1,234 against 2,345 images/s; in every epoch, as memory is too small", "0.3 of 16 cores idle")
    tables.print_table("Symptoms", ("where", "measured", "options"), [("disk", text, "readers") for text in measured])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("where", "disk", "options", "readers", "2,345", "small"))
