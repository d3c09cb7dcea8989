"""What a run writes for TensorBoard: with a stand-in for its writer, and read back by the package where installed."""

import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from runs import interrupted_at, records, trainer

from alexnet.cli import main
from alexnet.train import tensorboard
from alexnet.train.checkpoint import load

pytestmark = pytest.mark.usefixtures("quiet_machine")

Scalars = dict[tuple[str, int], float]


class StandIn:
    """SummaryWriter, as far as it is used, on a list of what is visible: (tag, step) and value, in order."""

    visible: list[tuple[tuple[str, int], float]] = []  # noqa: RUF012  # of all writers, as files are

    def __init__(self, log_dir: str, *, purge_step: int, flush_secs: int) -> None:
        Path(log_dir).mkdir(exist_ok=True)
        (Path(log_dir) / "events").touch()
        self.visible[:] = [point for point in self.visible if point[0][1] < purge_step]

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *error: Any) -> None: ...

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.visible.append(((tag, step), value))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    StandIn.visible.clear()
    return StandIn


def scalars_of(run: Path) -> Scalars:
    """What TensorBoard should show of `metrics.jsonl`, at four steps an epoch."""
    return {
        (f"{r['kind']}/{key}", 4 * r["epoch"] + r["step"]): value
        for r in records(run)
        for key, value in r.items()
        if key in ("loss", "top1_error", "top5_error", "lr", "images_per_second", "waiting", "dead_fc6", "dead_fc7")
    }


def check(found: list[tuple[tuple[str, int], float]], run: Path) -> None:
    expected, places = scalars_of(run), [place for place, _ in found]
    assert len(places) == len({*places}), "nothing twice"
    assert expected.keys() <= {*places}
    assert not {tag for tag, _ in places} & {"train/epoch", "train/step", "train/seconds_left"}
    for place, value in found:
        if place in expected:
            assert math.isclose(value, expected[place], rel_tol=1e-6)


def resume_at_an_earlier_step(tree: Path, run: Path, **later: Any) -> None:
    """A run that is stopped after six of its eight steps, goes on to its end, and again from the sixth."""
    path = interrupted_at((1, 2), tree, run, {}, keep=9, **later)
    saved = load(path)
    assert saved.step == 6
    for log_every in (1, 2):
        trainer(tree, run, {}, resume=saved, keep=9, tensorboard=True, log_every=log_every).fit()


@pytest.mark.parametrize("from_the_start", [True, False])
def test_scalars_are_those_of_the_metrics(
    colour_tree: Path, tmp_path: Path, stand_in: type[StandIn], from_the_start: bool
) -> None:
    resume_at_an_earlier_step(colour_tree, tmp_path, tensorboard=from_the_start)
    check(stand_in.visible, tmp_path)
    assert max(step for (_, step), _ in stand_in.visible) == 8
    trainer(colour_tree, tmp_path, {"epochs": 1}, tensorboard=True).fit()  # another run in the same folder
    check(stand_in.visible, tmp_path)
    assert max(step for (_, step), _ in stand_in.visible) == 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_package_reads_them_back(colour_tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    resume_at_an_earlier_step(colour_tree, tmp_path, tensorboard=True)
    shown = EventAccumulator(str(tmp_path / tensorboard.FOLDER)).Reload()
    check([((t, e.step), e.value) for t in shown.Tags()["scalars"] for e in shown.Scalars(t)], tmp_path)


def test_the_command_says_where_to_look(colour_tree: Path, tmp_path: Path, stand_in: type[StandIn]) -> None:
    run = tmp_path / "a run"
    small = ["--width", "0.02", "--batch-size", "4", "--epochs", "1", "--threads", "1", "--run", str(run)]
    result = CliRunner().invoke(main, ["train", str(colour_tree), *small, "--tensorboard"])
    assert result.exit_code == 0, result.output
    assert f"tensorboard --logdir '{run}/tensorboard'" in result.stderr
    check(stand_in.visible, run)


def test_a_missing_package_is_one_line(colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written."""
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = CliRunner().invoke(main, ["train", str(colour_tree), "--run", str(tmp_path / "run"), "--tensorboard"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "pip install --editable '.[tensorboard]'" in result.stderr
    assert not (tmp_path / "run").exists()
