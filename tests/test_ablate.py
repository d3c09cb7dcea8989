"""`alexnet ablate`: it trains what it says, goes on after any end, and refuses what cannot be run before it starts."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import warm
from click.testing import CliRunner
from runs import ALEXNET, interrupted_at, invoke, outcome, trainer

from alexnet.cli import main
from alexnet.console import processes
from alexnet.console.commands import ablate
from alexnet.console.processes import Job, Processes
from alexnet.pca.stats import RgbStats
from alexnet.pipeline.errors import UserError
from alexnet.pipeline.files import only_writer
from alexnet.train.figures.curves import read_curves
from alexnet.train.history import read_records
from alexnet.train.report.facts import read_run

pytestmark = pytest.mark.usefixtures("quiet_machine")

BUDGET = ["--width", "0.02", "--batch-size", "4", "--epochs", "1", "--threads", "1", "--device", "cpu"]


class Ended:
    """A process that has ended."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Those that were started, which run in this process."""
    started = list[Job]()

    def run(job: Job, num: int) -> Ended:
        started.append(job)
        result = CliRunner().invoke(main, job.arguments)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_text(result.stderr)
        if job.output:
            processes._draft(job.output).write_text(result.stdout)
        return Ended(result.exit_code)

    monkeypatch.setattr(processes, "start", run)
    return started


def test_an_experiment_from_the_first_run_to_the_table(colour_tree: Path, tmp_path: Path, jobs: list[Job]) -> None:
    """Three variations, one of which diverges; then nothing is left to do, and then another seed."""
    out = tmp_path / "out"
    command = ["ablate", colour_tree, "--out", out, "--only", "no-lrn", "--vary", "lr=1e12", *BUDGET]
    found = json.loads(invoke(*command, "--seeds", 1, "--json").stdout)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["base", "no-lrn", "lr=1000000000000.0", "one-view"]
    assert (found["complete"], found["num_images"]) == (True, 9)
    assert [row["num_diverged"] for row in rows.values()] == [0, 0, 1, 0]
    assert [job.arguments[0] for job in jobs] == ["train", "evaluate", "train", "evaluate", "train"]

    run = out / "no-lrn/seed-0"
    trainer(colour_tree, tmp_path / "same", {"epochs": 1, "lrn": False}).fit()
    expected, ours = outcome(tmp_path / "same")[0], outcome(run)[0]
    assert [key for key in expected if expected[key] != ours[key]] == [], "it is what `train` does"
    measured = json.loads(invoke("evaluate", run, colour_tree, "--views", 10, "--json", "--threads", 1).stdout)
    assert rows["no-lrn"]["errors"][0] == pytest.approx(100 * measured["top1_error"])
    assert read_run(run).finished
    assert len(read_curves(run).top1_error) == 1
    last = read_run(out / "base/seed-0").validations[-1]
    assert rows["one-view"]["errors"][0] == pytest.approx(100 * last["top1_error"])
    assert "diverged" in (out / "ablation.md").read_text()
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "ablation.json").read_text())["rows"] == found["rows"]

    jobs.clear()
    assert json.loads(invoke(*command, "--seeds", 1, "--json").stdout) == found
    assert jobs == []
    again = json.loads(invoke("ablate", colour_tree, "--out", out, "--only", "base", *BUDGET, "--json").stdout)
    assert [job.name for job in jobs] == ["base, seed 1"] * 2
    assert [row["num_planned"] for row in again["rows"]] == [2, 1, 1, 2]
    assert again["complete"] is True


def test_on_a_gpu_all_is_done_by_other_processes(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics too: what this process allocated there would be missing to the runs, and an exclusive GPU closed."""
    commands = list[list[str]]()

    def run(command: list[str], **how: Any) -> Any:
        commands.append(command[3:])
        result = CliRunner().invoke(main, [*command[3:], "--device", "cpu"])
        return subprocess.CompletedProcess(command, result.exit_code)

    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))  # with no statistics
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", None)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(Processes, "work_off", lambda *given: 3)
    arguments = ["ablate", str(colour_tree), "--out", str(tmp_path), *BUDGET[:-2], "--only", "tanh", "--decode", "fast"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3, result.output
    ((name, data, *words),) = commands
    assert (name, data) == ("pca-stats", str(colour_tree))
    assert {"--decode", "fast", "--threads", "1"} <= {*words}
    assert RgbStats.load(tmp_path / "stats.json").complete


def test_the_mesh_is_chosen_as_train_does(colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices do not split a network that is normalised across its towers; they share the batch."""
    monkeypatch.setattr(ablate, "only_writer", Mock(side_effect=UserError("all was checked")))
    command = ["ablate", colour_tree, "--preset", "caffe", "--only", "base", "--out", tmp_path, *BUDGET]
    assert "all was checked" in invoke(*command, "--devices", "cpu,cpu", code=1).stderr


def test_a_failure_ends_it_in_one_line_and_the_same_command_goes_on(
    colour_tree: Path, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["ablate", colour_tree, "--out", out, "--only", "no-dropout", "--seeds", 1, "--views", 1, *BUDGET]
    real = processes.start

    def fail_in_no_dropout(job: Job, num: int) -> Any:
        if "no-dropout" not in job.name:
            return real(job, num)
        job.log.parent.mkdir(parents=True)
        job.log.write_text("Training\nError: The disk is full. Free some space.\n")
        return Ended(1)

    monkeypatch.setattr(processes, "start", fail_in_no_dropout)
    last = invoke(*command, code=1).stderr.splitlines()[-1]
    assert last.startswith("Error: no-dropout, seed 0: The disk is full. Free some space. The same command goes on")
    assert "**Incomplete: 1 of 2 runs are over.**" in (out / "ablation.md").read_text()
    monkeypatch.setattr(processes, "start", real)
    jobs.clear()
    assert "no-dropout" in invoke(*command).stdout
    assert [job.name for job in jobs] == ["no-dropout, seed 0"]


def test_a_run_that_was_stopped_goes_on(colour_tree: Path, tmp_path: Path, jobs: list[Job]) -> None:
    """From its checkpoint, to the bits of one that was never stopped."""
    budget = {"epochs": 1, "views": 1}
    run = tmp_path / "out/base/seed-0"
    interrupted_at((0, 2), colour_tree, run, budget)
    command = ["ablate", colour_tree, "--out", tmp_path / "out", "--only", "base", "--seeds", 1, "--views", 1, *BUDGET]
    invoke(*command)
    (job,) = jobs
    assert "--resume" in job.arguments
    trainer(colour_tree, tmp_path / "whole", budget).fit()
    expected, found = outcome(tmp_path / "whole")[0], outcome(run)[0]
    assert [key for key in expected if expected[key] != found[key]] == []


def test_no_run_outlives_it(colour_tree: Path, tmp_path: Path) -> None:
    """kill -9, while a run is under way."""
    command = ["ablate", colour_tree, "--out", tmp_path, "--only", "base", *BUDGET, "--epochs", "1000"]
    parent = warm.Popen([*ALEXNET, *command], stderr=warm.DEVNULL)
    while parent.poll() is None and not list(read_records(tmp_path / "base/seed-0/metrics.jsonl")):
        time.sleep(0.02)
    (child,) = map(int, Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())
    parent.kill()
    assert parent.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    outlived = is_running(child)
    if outlived:
        os.kill(child, signal.SIGKILL)
    assert not outlived


def test_ctrl_c_waits_for_the_runs_and_starts_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "trap 'exit 130' INT; : > ready; while :; do sleep 0.01; done"
    started = list[subprocess.Popen[bytes]]()

    def start(job: Job, num: int) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sh", "-c", script], cwd=tmp_path, start_new_session=True))
        return started[-1]

    def interrupt() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(processes, "start", start)
    thread = Thread(target=interrupt)
    thread.start()
    assert Processes[str](1).work_off("ab", lambda task: Job(task, ["train"], tmp_path / "log")) == 130
    thread.join()
    assert [process.returncode for process in started] == [130]


def test_a_signal_reaches_a_run_that_is_being_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[subprocess.Popen[bytes]]()

    def start(job: Job, num: int) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "5"], start_new_session=True))
        os.kill(os.getpid(), signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(processes, "start", start)
    code = Processes[str](1).work_off("ab", lambda task: Job(task, ["train"], tmp_path / "log"))
    assert (code, [process.returncode for process in started]) == (128 + signal.SIGTERM, [-signal.SIGTERM])


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--vary", "lightning=off"], "unknown setting 'lightning': the nearest known one is 'lighting'", 2),
        (["--vary", "lighting"], "'lighting' is not FIELD=VALUE, such as lighting=eigenvalue", 2),
        (["--vary", "lighting=disco"], "lighting: 'disco' is not one of", 2),
        (["--vary", "lrn-k=many"], "lrn_k: 'many' is not a valid float", 2),
        (["--only", "no-relu"], "'no-relu' is not one of", 2),
        (["--vary", "dropout=2"], "dropout = 2.0: choose a number from 0 to 0.99", 1),
        (["--vary", "seed=3"], "--vary seed=3: seed is the same for all runs of an experiment", 1),
        (["--vary", "lrn=yes"], "--vary lrn=on: the base has this value already", 1),
        (["--preset", "owt", "--only", "one-gpu"], "one-gpu cannot be ablated: the base has only one tower", 1),
        (
            ["--mesh", "1x2", "--only", "one-gpu"],
            "one-gpu: --mesh 1x2 splits the network in 2, but preset paper has 1",
            1,
        ),
        (["--vary", "batch_size=19"], "batch_size=19: The training set has 18 images, fewer than a batch of 19", 1),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(
    colour_tree: Path, tmp_path: Path, jobs: list[Job], arguments: list[str], message: str, code: int
) -> None:
    text = invoke("ablate", colour_tree, "--out", tmp_path / "out", *BUDGET, *arguments, code=code).stderr
    assert message in " ".join(text.split())
    assert text.splitlines()[-1].startswith("Error: ")
    assert jobs == []
    assert not (tmp_path / "out").exists()


def test_another_experiment_or_another_writer_is_refused(colour_tree: Path, tmp_path: Path, jobs: list[Job]) -> None:
    command = ["ablate", colour_tree, "--only", "base", "--seeds", 1, "--views", 1, *BUDGET, "--out", tmp_path]
    invoke(*command)
    text = invoke(*command, "--lr", 0.5, code=1).stderr
    assert f"{tmp_path} holds another experiment: lr is 0.01 there, 0.5 was asked for. Choose another --out." in text
    with only_writer(tmp_path, AssertionError()):
        assert "is writing into" in invoke(*command, code=1).stderr


@pytest.mark.parametrize("num", [1, 2])
def test_jobs_are_started_as_many_at_a_time_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int) -> None:
    """Each task's jobs one after the other, and its next before those of the next task."""
    running, most, order = set[str](), list[int](), list[str]()

    class Slow:
        returncode = 0

        def __init__(self, job: Job) -> None:
            self.job, self.looks = job, 0

        def poll(self) -> int | None:
            self.looks += 1
            if self.looks < 3:
                return None
            running.discard(self.job.name)
            done.setdefault(self.job.name, []).append(self.job.arguments[0])
            return 0

    done = dict[str, list[str]]()

    def start(job: Job, of: int) -> Slow:
        assert of == num
        running.add(job.name)
        most.append(len(running))
        order.append(f"{job.name} {job.arguments[0]}")
        return Slow(job)

    def next_job(task: str) -> Job | None:
        left = [kind for kind in ("train", "evaluate") if kind not in done.get(task, [])]
        return Job(task, left[:1], tmp_path / "log") if left else None

    monkeypatch.setattr(processes, "start", start)
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_LOOKS", 0)
    assert Processes[str](num).work_off("abc", next_job) == 0
    assert max(most) == num
    assert all(kinds == ["train", "evaluate"] for kinds in done.values())
    assert order[:3] == (["a train", "a evaluate", "b train"] if num == 1 else ["a train", "b train", "a evaluate"])
    assert np.unique(order).size == 6
