"""Curves of runs against plain numpy, what a figure shows of them, and records that cannot be read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import invoke

from alexnet.pipeline.errors import UserError
from alexnet.train.config import Config
from alexnet.train.figures.curves import curves_of, draw_curves, read_curves, thinned
from alexnet.train.figures.drawing import DOTS_PER_INCH, PALETTE, rendered, save_figure

STEPS = 20  # an epoch


def records(epochs: int, rates: dict[int, float], first: int = 0) -> list[dict[str, Any]]:
    """Two windows an epoch; the rate changes where `rates` says so."""
    found: list[dict[str, Any]] = []
    lr = 0.01
    for epoch in range(first, epochs):
        lr = rates.get(epoch, lr)
        for step in (10, 20):
            at = epoch + step / STEPS
            window = {"epoch": epoch, "step": step, "steps_per_epoch": STEPS, "lr": lr, "loss": 3 / at}
            found.append({"kind": "train", "top1_error": 1 / (1 + at), **window})
        errors = {"top1_error": 0.9 / (epoch + 1), "top5_error": 0.3 / (epoch + 1)}
        found += [{"kind": "warning", "sign": "at chance"}, {"kind": "val", "epoch": epoch, "step": STEPS, **errors}]
    return found


def write_run(folder: Path, lines: list[dict[str, Any]], config: Config | None = None, end: str = "\n") -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + end)
    if config:
        (folder / "config.json").write_text(config.to_json())
    return folder


def test_curves_are_those_of_the_records(tmp_path: Path) -> None:
    run = read_curves(write_run(tmp_path / "run", records(4, {2: 0.001, 3: 0.0001})))
    np.testing.assert_allclose(run.train_at, np.arange(1, 9) / 2)
    np.testing.assert_allclose(run.train_loss, 6 / np.arange(1, 9))
    np.testing.assert_allclose(run.train_error, 1 / (1 + np.arange(1, 9) / 2))
    np.testing.assert_allclose(run.val_at, [1, 2, 3, 4])
    np.testing.assert_allclose(run.top1_error, 0.9 / np.arange(1, 5))
    np.testing.assert_allclose(run.top5_error, 0.3 / np.arange(1, 5))
    assert dict(zip(run.rate_at, run.rates, strict=True)) == {0: 0.01, 2: 0.001, 3: 0.0001}
    assert run.events() == [], "there is no configuration"
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((tmp_path / "run/metrics.jsonl").read_bytes())
    np.testing.assert_array_equal(read_curves(copy).train_loss, run.train_loss)


@pytest.mark.parametrize(
    ("config", "epochs", "events"),
    [
        (Config.from_preset("original", epochs=91), 91, {67: "colour noise ends", 72: "conv1 freezes"}),
        (Config.from_preset("original", epochs=91), 70, {67: "colour noise ends"}),
        (Config.from_preset("original", epochs=91, lighting="off"), 91, {72: "conv1 freezes"}),
        (Config(schedule="stages", num_stages=4, epochs=8), 8, {6: "colour noise ends"}),
        (Config(epochs=8), 8, {}),
    ],
    ids=["original", "unfinished", "no noise", "stages", "plateau"],
)
def test_the_schedule_says_when_noise_ends_and_conv1_freezes(
    config: Config, epochs: int, events: dict[float, str]
) -> None:
    """The authors' log is the configuration's `epoch_log`, as long as their run."""
    run = curves_of("run", records(epochs, {}), config)
    assert dict(run.events()) == events
    text = rendered(draw_curves([run]), ".svg").decode()
    assert [what for what in ("colour noise ends", "conv1 freezes") if what in text] == [*events.values()]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 1000])
def test_thinning_averages_neighbours(length: int) -> None:
    at, values = np.arange(1.0, length + 1), np.random.default_rng(length).normal(size=length)
    places, means = thinned(at, values, 8)
    assert len(places) == len(means) <= 8
    size = -(-length // 8)
    parts = [values[i : i + size] for i in range(0, length, size)]
    np.testing.assert_allclose(means, [part.mean() for part in parts])
    np.testing.assert_array_equal(places, np.cumsum([len(part) for part in parts]))


def test_unfinished_and_resumed_runs_are_drawn(tmp_path: Path) -> None:
    """Half a last line; a run that goes on elsewhere; one without a validation."""
    whole = write_run(tmp_path / "half", records(3, {}), end='\n{"kind": "train", "epo')
    assert len(read_curves(whole).train_at) == 6
    later = write_run(tmp_path / "later", records(5, {4: 0.001}, first=3))
    assert read_curves(later).rate_at.tolist() == [3, 4]
    begun = write_run(tmp_path / "begun", records(1, {0: 0.02})[:1])
    text = rendered(draw_curves([read_curves(begun)]), ".svg").decode()
    assert "last validation: none yet" in text
    assert ">0.02</text>" in text, "a rate that is no power of ten is named all the same"
    found = json.loads(invoke("figure", "curves", whole, later, begun, "--out", tmp_path / "c.png", "--json").stdout)
    assert [run["epochs"] for run in found["runs"]] == [3, 5, 0.5]
    assert [run["top1_error"] for run in found["runs"]] == pytest.approx([0.3, 0.18, None])
    assert found["runs"][1]["rates"] == [{"epoch": 3, "lr": 0.01}, {"epoch": 4, "lr": 0.001}]


def test_runs_have_colours_of_their_own_and_drops_are_where_they_belong(tmp_path: Path) -> None:
    runs = [curves_of("runs/$first", records(4, {2: 0.001})), curves_of("runs/second", records(4, {3: 0.001}))]
    figure = draw_curves(runs)
    text = rendered(figure, ".svg").decode()
    assert "runs/$first: top-1 22.5%, top-5 7.5%" in text
    save_figure(figure, tmp_path / "curves.png")
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    rates = figure.axes[2]
    for epoch, colour in ((2, PALETTE[0]), (3, PALETTE[1])):
        x, y = rates.transData.transform((epoch, 0.003)) * DOTS_PER_INCH / figure.dpi
        strip = pixels[len(pixels) - round(y), round(x) - 3 : round(x) + 4]
        expected = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(strip.astype(int) - expected) < 30).all(-1).any(), "the step down is drawn there"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no record yet: its first window of steps is not complete"),
        ([{"kind": "val", "epoch": 0}], "has no record yet"),
        ([{"seed": 1}], "is not a record of `alexnet train`: a line has no 'kind'"),
        ([{"kind": "train", "epoch": 0}], "is not a record of `alexnet train`: a line has no 'lr'"),
        ([17], "is not a record of `alexnet train`"),
        ([{**records(1, {})[0], "loss": "low"}], "is not a record of `alexnet train`: could not convert"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, lines: Any, message: str) -> None:
    run = write_run(tmp_path / "run", lines)
    with pytest.raises(UserError, match=message):
        read_curves(run)


def test_a_folder_without_a_run_is_refused_in_a_line(tmp_path: Path) -> None:
    out = ["--out", tmp_path / "curves.png"]
    for folder in (tmp_path, tmp_path / "nothing"):
        message = invoke("figure", "curves", folder, *out, code=1).stderr
        assert "There is no record of a run at" in message
        assert message.count("\n") <= 1
    assert not (tmp_path / "curves.png").exists()
