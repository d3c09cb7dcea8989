"""Figure 1: curves and the race against plain Python, runs that are killed, and what the command leaves behind."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from drawn_cifar import write_binary
from PIL import Image
from runs import ALEXNET, invoke

from alexnet.pipeline.errors import CheckpointError, UserError
from alexnet.pipeline.files import only_writer
from alexnet.train.cifar.curve import epochs_to, error_curve, window_sizes
from alexnet.train.cifar.images import Cifar, read_cifar
from alexnet.train.cifar.normalisation import VARIANTS, Normalisation
from alexnet.train.cifar.race import fastest, race
from alexnet.train.cifar.run import Outcome, Run, one_thread
from alexnet.train.cifar.settings import Settings
from alexnet.train.cifar.workers import Task, Workers
from alexnet.train.figures.drawing import rendered
from alexnet.train.figures.figure1 import Lines, draw_figure1

pytestmark = pytest.mark.usefixtures("own_cache")

SETTINGS = Settings(network="small", neuron="tanh", rate=0.002, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_binary(tmp_path_factory.mktemp("cifar"), num_train=20, num_test=10)


@pytest.fixture(scope="module")
def cifar(folder: Path) -> Cifar:
    return read_cifar(folder)


# -- curves and races --------------------------------------------------------------------------------------


def test_the_curve_is_a_sliding_mean_over_one_epoch() -> None:
    wrong, num_images = [3, 2, 2, 1, 1, 1, 0, 1], 13  # windows of 2, 3, 2, 3, 3 images
    assert window_sizes(num_images).tolist() == [2, 3, 2, 3, 3]
    at, error = error_curve(wrong, num_images)
    np.testing.assert_allclose(at, [0.5, 0.7, 0.9, 1.1])
    np.testing.assert_allclose(error, [9 / 13, 7 / 13, 5 / 13, 4 / 13])
    assert error_curve(wrong[:4], num_images)[0].size == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ([0.5, 0.3, 0.2, 0.1], 2.5),
        ([0.5, 0.25, 0.3], 2.0),
        ([0.2, 0.1], 1.0),
        ([0.5, 0.4], None),
        ([], None),
    ],
)
def test_epochs_to_the_target(error: list[float], expected: float | None) -> None:
    found = epochs_to(np.arange(1.0, len(error) + 1), np.array(error), 0.25)
    assert found == (None if expected is None else pytest.approx(expected))


def outcome(rate: float, errors: Sequence[float], *, diverged: bool = False) -> Outcome:
    """A run on a million images, whose error is constant within each epoch."""
    wrong = [round(200_000 * error) for error in errors for _ in range(5)]
    return Outcome(Settings(network="small", rate=rate, seed=0), 1_000_000, wrong, diverged)


def test_the_slow_leave_the_race() -> None:
    """Seven rates, the faster the higher, but the highest diverges; 6 comes to 25% within the twelfth epoch."""
    asked: list[tuple[int, list[float]]] = []

    def advance(rates: Sequence[float], epoch: int) -> dict[float, Outcome]:
        asked.append((epoch, list(rates)))
        return {
            rate: outcome(rate, [0.9 - 0.01 * rate * i for i in range(epoch)], diverged=rate == 7) for rate in rates
        }

    found = race([1, 2, 3, 4, 5, 6, 7], advance, most_epochs=100)
    assert asked == [
        (2, [1, 2, 3, 4, 5, 6, 7]),
        (4, [2, 3, 4, 5, 6]),
        (6, [3, 4, 5, 6]),
        (8, [4, 5, 6]),
        (10, [5, 6]),
        (12, [5, 6]),
    ]
    assert fastest(found) == 6
    assert [found[rate].epochs for rate in range(1, 8)] == [2, 4, 6, 8, 12, 12, 2]
    asked.clear()
    assert fastest(race([1, 2], advance, most_epochs=5)) is None
    assert [epoch for epoch, _ in asked] == [2, 4, 5]
    asked.clear()
    assert fastest(race([7], advance, most_epochs=9)) is None
    assert [epoch for epoch, _ in asked] == [2]


# -- runs --------------------------------------------------------------------------------------------------


def trained(path: Path, cifar: Cifar, *stops: int, settings: Settings = SETTINGS) -> dict[str, Any]:
    """Train to each of these epochs, by a new `Run` each time; return what is in the file."""
    with one_thread():
        for epoch in stops:
            Run(path, settings, cifar).advance(epoch, until_target=False, report=lambda outcome: None)
    return contents(path)


def contents(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        return {name: archive[name].tobytes() for name in archive.files}


def test_a_run_in_parts_has_the_same_bits(tmp_path: Path, cifar: Cifar) -> None:
    views = Settings(
        network="local", rate=0.001, seed=1, cropped=True, normalisation=True, decay={"fc10": 1}, drops=(1,)
    )
    for settings in (SETTINGS, views):
        whole = trained(tmp_path / "a.npz", cifar, 2, settings=settings)
        assert trained(tmp_path / "b.npz", cifar, 1, 2, 2, settings=settings) == whole
        (tmp_path / "a.npz").unlink()
        (tmp_path / "b.npz").unlink()


def test_a_run_learns_and_stops_at_the_target(tmp_path: Path, cifar: Cifar) -> None:
    run, seen = Run(tmp_path / "a.npz", Settings(network="small", rate=0.001, seed=0), cifar), list[float]()
    run.advance(20, until_target=True, report=lambda outcome: seen.append(outcome.epochs))
    at = run.outcome.epochs_to_target()
    assert at is not None
    assert at < run.outcome.epochs < 20
    assert run.outcome.curve()[1][-2] > 0.25 >= run.outcome.last_error()
    assert seen == list(range(1, int(run.outcome.epochs) + 1))


def test_divergence_ends_a_run(tmp_path: Path, cifar: Cifar) -> None:
    run = Run(tmp_path / "a.npz", Settings(network="small", rate=1e30, seed=0), cifar)
    run.advance(50, until_target=True, report=lambda outcome: None)
    assert run.outcome.diverged
    assert run.outcome.last_error() == 1
    assert run.outcome.epochs < 50
    again = Run(run.path, run.settings, cifar)
    again.advance(50, until_target=True, report=lambda outcome: None)
    assert again.outcome == run.outcome


def test_a_test_does_not_hide_divergence(tmp_path: Path, folder: Path, cifar: Cifar) -> None:
    """Nor does it let the run go on, with weights that are no numbers, when the experiment is repeated."""
    settings = Settings(network="small", rate=1e30, seed=0, cropped=True)
    task = {"13pct": Task(tmp_path / "a.npz", settings, epochs=50, test=True)}
    found, again = (Workers(folder, cifar, 1, lambda name, outcome: None).carry_out(task)["13pct"] for _ in range(2))
    assert found.diverged
    assert found.test_wrong.keys() == {"1 view", "9 views"}
    assert again == found
    remark = Normalisation(1, 10, "", {"13pct": [found]}).remark()
    assert remark == "Diverged, and no better than guessing: 13pct with seed 0."


def test_the_test_error_is_of_the_mean_of_nine_views(tmp_path: Path, cifar: Cifar) -> None:
    settings = Settings(network="local", rate=0.001, seed=0, cropped=True)
    run = Run(tmp_path / "a.npz", settings, cifar)
    run.advance(1, until_target=False, report=lambda outcome: None)
    run.test()
    wrong = {"1 view": 0, "9 views": 0}
    for i, label in enumerate(cifar.test_labels.tolist()):
        probabilities = {}
        for top in (0, 4, 8):
            for left in (0, 4, 8):
                view = cifar.test[i, :, top : top + 24, left : left + 24] - cifar.mean[:, 4:28, 4:28]
                logits = run.model(torch.from_numpy(view)[None]).detach().double().numpy()[0]
                probabilities[top, left] = np.exp(logits) / np.exp(logits).sum()
        wrong["1 view"] += int(probabilities[4, 4].argmax() != label)
        wrong["9 views"] += int(np.mean(list(probabilities.values()), axis=0).argmax() != label)
    assert run.outcome.test_wrong == wrong


def test_workers_end_killed_and_go_on(tmp_path: Path, folder: Path, cifar: Cifar) -> None:
    """Two processes; one is killed with its first epoch behind it, which is an error; afterwards bits are the same."""

    def tasks(where: str) -> dict[str, Task]:
        runs = {f"seed{seed}": Settings(network="small", rate=0.001, seed=seed) for seed in (0, 1)}
        return {name: Task(tmp_path / where / f"{name}.npz", settings, epochs=3) for name, settings in runs.items()}

    def kill(name: str, outcome: Outcome) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    alone = Workers(folder, cifar, 1, lambda name, outcome: None).carry_out(tasks("a"))
    with pytest.raises(UserError, match="was killed by signal 9; the same command goes on"):
        Workers(folder, cifar, 2, kill).carry_out(tasks("b"))
    assert [*(tmp_path / "b").glob("seed*.npz")], "nothing was done in the processes"
    assert Workers(folder, cifar, 1, lambda name, outcome: None).carry_out(tasks("b")) == alone
    for name in alone:
        assert contents(tmp_path / f"a/{name}.npz") == contents(tmp_path / f"b/{name}.npz")


def test_a_run_is_judged_at_the_end_of_its_task(tmp_path: Path, folder: Path, cifar: Cifar) -> None:
    """A race that is repeated meets files that are further than they were when it was decided who leaves."""
    workers, path = Workers(folder, cifar, 1, lambda name, outcome: None), tmp_path / "a.npz"
    early = workers.carry_out({"a": Task(path, SETTINGS, epochs=1)})
    late = workers.carry_out({"a": Task(path, SETTINGS, epochs=2)})
    assert late["a"].epochs == 2
    assert workers.carry_out({"a": Task(path, SETTINGS, epochs=1)}) == early


def test_files_of_other_runs_are_refused(tmp_path: Path, folder: Path, cifar: Cifar) -> None:
    path = tmp_path / "a.npz"
    trained(path, cifar, 1)
    other = Settings(network="small", neuron="tanh", rate=0.002, seed=4)
    with pytest.raises(CheckpointError, match=r"a\.npz is a run with other settings\. Use another --out"):
        Run(path, other, cifar)
    images = read_cifar(write_binary(tmp_path / "other", num_train=30, num_test=10))
    with pytest.raises(CheckpointError, match=r"a\.npz is a run on other images"):
        Run(path, SETTINGS, images)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"a\.npz is no run on CIFAR-10, or is damaged"):
        Run(path, SETTINGS, cifar)


# -- the command -------------------------------------------------------------------------------------------

SMALL = ("--rates", "0.0003,0.0005", "--seeds", "2", "--epochs", "25")


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a command that nothing interrupted; `told.json` is what it printed."""
    out = tmp_path_factory.mktemp("finished")
    (out / "told.json").write_text(invoke("figure1", folder, *SMALL, "--out", out, "--json").stdout)
    return out


def test_a_killed_command_goes_on_to_the_same_bits(tmp_path: Path, folder: Path, finished: Path) -> None:
    """Killed in the middle of the race, at a moment that the machine chooses."""
    command = ["figure1", str(folder), *SMALL, "--out", str(tmp_path)]
    process = warm.Popen([*ALEXNET, *command], stderr=warm.DEVNULL, stdout=warm.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("runs/small-*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "figure1-small.json").exists(), "it was killed too late to prove anything"
    invoke(*command)
    for name in ("figure1-small.json", "figure1-small.md", "figure1-small.png"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


def test_what_figure1_tells(folder: Path, finished: Path) -> None:
    told = json.loads((finished / "told.json").read_text())
    assert told == json.loads((finished / "figure1-small.json").read_text())
    relu, tanh = told["neurons"]["relu"], told["neurons"]["tanh"]
    for neuron in (relu, tanh):
        times = {tried["rate"]: tried["epochs_to_25"] for tried in neuron["sweep"] if tried["epochs_to_25"]}
        assert neuron["rate"] == min(times, key=lambda rate: times[rate])
        assert [run["seed"] for run in neuron["runs"]] == [0, 1]
        assert neuron["runs"][0]["epochs_to_25"] == times[neuron["rate"]]
        for run in neuron["runs"]:
            curve = run["curve"]
            found = epochs_to(np.array(curve["epochs"]), np.array(curve["training_error"]))
            assert found == pytest.approx(run["epochs_to_25"], abs=1e-3)
    assert told["ratio"] == pytest.approx(tanh["mean"] / relu["mean"])
    assert told["paper_ratio"] == 6
    page = (finished / "figure1-small.md").read_text()
    assert f"tanh takes {told['ratio']:.2f} times as many epochs as ReLU" in page
    assert "in the paper 6 times" in page
    assert "Fastest at an end of the rates tried" in page, "there are only two"
    with Image.open(finished / "figure1-small.png") as image:
        assert image.width == 1360
    printed = invoke("figure1", folder, *SMALL, "--out", finished).stdout
    assert "Epochs to 25% training error" in printed
    assert "The race of the rates" in printed


def test_normalisation(tmp_path: Path, folder: Path) -> None:
    options = ("--experiment", "normalisation", "--scale", "0.005", "--out", tmp_path)
    printed = invoke("figure1", folder, *options).stdout
    told = json.loads(invoke("figure1", folder, *options, "--json").stdout)
    assert [variant["epochs"] for variant in told["variants"].values()] == [3, 4, 3]
    assert [variant["paper"] for variant in told["variants"].values()] == [0.13, 0.11, None]
    assert "Normalisation alone" in printed
    assert (tmp_path / "normalisation.md").exists()


def test_the_gain_of_normalisation_has_an_error() -> None:
    def runs(name: str, *wrong: int) -> list[Outcome]:
        settings = Settings(network="local", rate=0.001, **VARIANTS[name].settings, seed=0)
        return [Outcome(settings, 50, [1] * 10, test_wrong={"1 view": n, "9 views": n}) for n in wrong]

    found = Normalisation(
        1, 1000, "", {"a": runs("13pct", 130, 140, 138), "b": runs("13pct-normalised", 120, 124, 119)}
    )
    gain, error = found.gain("a", "b")
    assert gain == pytest.approx(0.015)  # of 10, 16, 19
    assert error == pytest.approx(np.std([0.010, 0.016, 0.019], ddof=1) / 3**0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "0.1"], "--scale is for --experiment normalisation"),
        (["--experiment", "normalisation", "--rates", "0.1"], "--rates is for --experiment figure1"),
        (["--rates", "0.1,-1"], "--rates must be positive"),
        (["--rates", "nan"], "--rates must be positive"),
        (["--experiment", "normalisation", "--scale", "nan"], "'nan' is not a finite number"),
        (["--experiment", "normalisation", "--scale", "inf"], "'inf' is not a finite number"),
        (["--rates", "0.1,0.1"], "each given once"),
    ],
)
def test_usage(tmp_path: Path, folder: Path, options: list[str], message: str) -> None:
    assert message in invoke("figure1", folder, "--out", tmp_path, *options, code=2).stderr


def test_one_process_at_a_time(tmp_path: Path, folder: Path) -> None:
    with only_writer(tmp_path, UserError("")):
        failed = invoke("figure1", folder, "--out", tmp_path, code=1)
    assert "Another process works in" in failed.stderr


# -- the figure --------------------------------------------------------------------------------------------


def test_the_figure_is_the_papers() -> None:
    """ReLU solid and tanh dashed, a line a seed, the target's line, and where the means come down to it."""
    at = np.linspace(0.5, 9.5, 10)
    relu, tanh = Lines(0.004, [(at, 0.8 / at), (at, 0.9 / at)], 3.5), Lines(None, [(at, 0.8 - 0.02 * at)], None)
    figure = draw_figure1({"relu": relu, "tanh": tanh}, 0.25, "a note")
    (axes,) = figure.axes
    lines = [(line, *np.asarray(line.get_data())) for line in axes.lines]
    drawn = [(line.get_linestyle(), y) for line, x, y in lines if len(x) == 10]
    assert [style for style, _ in drawn] == ["-", "-", "--"]
    np.testing.assert_allclose(drawn[1][1], 90 / at)
    assert [(*x, *y) for line, x, y in lines if line.get_marker() == "o"] == [(3.5, 25)]
    assert [line.get_linestyle() for line, _, y in lines if y.tolist() == [25, 25]] == [":"]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["ReLU, rate 0.004", "tanh: no rate reached 25%"]
    assert rendered(figure, ".svg").startswith(b"<?xml")
