"""Ranks as users start them, and what ends them: by our launcher, torchrun or SLURM; killed, hung, stopped, refused.

`ALEXNET_KILLS=20 pytest tests/test_launch.py -k killed` kills twenty times at random moments instead of once.
"""

import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import warm
from click.testing import CliRunner
from runs import ALEXNET, alexnet, alexnet_from_cold, outcome, records

from alexnet.cli import main
from alexnet.console import on_mesh
from alexnet.console.commands import train
from alexnet.train.checkpoint import latest, load, saved_checkpoints

pytestmark = pytest.mark.usefixtures("quiet_machine")

KILLS = int(os.environ.get("ALEXNET_KILLS", "1"))
EPOCHS = 5 + 2 * KILLS  # of 3 steps
SMALL = (
    f"--width 0.02 --batch-size 5 --lr 0.001 --threads 2 --log-every 1 --checkpoint-every 1 --keep 99 --epochs {EPOCHS}"
).split()


@pytest.fixture(scope="module")
def unbroken(colour_tree: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a pair that nothing disturbs."""
    run = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(cache_dir))
        patch.setenv("OMP_NUM_THREADS", "1")  # as in the other runs, for the same bits
        done = alexnet("train", colour_tree, "--run", run, *SMALL, "--devices", "cpu,cpu")
    assert done.returncode == 0, done.stderr
    assert "Starting 2 ranks, 1 data x 2 model, on cpu, cpu" in done.stderr
    assert done.stderr.count("Training paper on") == done.stderr.count("Done: top-1 error") == 1
    return run


class Launched:
    """`alexnet train` on two ranks, to be disturbed while it runs."""

    def __init__(self, tree: Path, run: Path, *options: str) -> None:
        self.run, self.log = run, run.with_suffix(".log")
        command = [*ALEXNET, "train", str(tree), "--run", str(run), "--mesh", "1x2", *SMALL, *options]
        with self.log.open("a") as log:
            self.process = warm.Popen(command, stderr=log)

    def wait_until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)

    def wait_for_steps(self, count: int) -> None:
        """Until so many more checkpoints are written."""
        before = len(saved_checkpoints(self.run))
        self.wait_until(lambda: len(saved_checkpoints(self.run)) >= before + count)

    def ranks(self) -> list[int]:
        """The process ids of both, rank 0 first."""
        found: list[int] = []

        def both() -> bool:
            found[:] = children(self.process.pid)
            return len(found) == 2

        self.wait_until(both)
        return found


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


def has_ended(pid: int) -> bool:
    """Also where nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def assert_same_bits(run: Path, unbroken: Path) -> None:
    expected, found = outcome(unbroken), outcome(run)
    assert found[1] == expected[1]
    assert [name for name in expected[0] if found[0][name] != expected[0][name]] == []


@pytest.mark.gpu
def test_two_towers_share_a_gpu(colour_tree: Path, tmp_path: Path) -> None:
    """By gloo through the host's memory, in bfloat16: the losses of one process, to its precision."""
    losses = []
    for name, mesh in (("one", "1x1"), ("two", "1x2")):
        devices = ["--devices", "cuda:0,cuda:0"] if mesh == "1x2" else []
        how = [*SMALL, "--width", 0.25, "--mesh", mesh, *devices]  # narrower groups are too few channels for cuDNN
        done = alexnet_from_cold("train", colour_tree, "--run", tmp_path / name, *how)
        assert done.returncode == 0, done.stderr
        assert ("Two ranks share a GPU" in done.stderr) == bool(devices)
        losses.append([record["loss"] for record in records(tmp_path / name)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_a_killed_rank_is_started_again(colour_tree: Path, unbroken: Path, tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    run = Launched(colour_tree, tmp_path / "run", "--max-restarts", str(KILLS))
    for kill in range(KILLS):
        if kill % 2 == 0:  # else at any moment of the start, too
            run.wait_for_steps(1)
        time.sleep(rng.uniform(0, 0.2 if kill % 2 == 0 else 6))
        os.kill(rng.choice(run.ranks()), signal.SIGKILL)
    assert run.process.wait(300) == 0, run.log.read_text()
    log = run.log.read_text()
    assert "killed by signal 9" in log or "lost contact" in log
    assert KILLS / 2 <= log.count("Starting again") <= KILLS  # two may come before it notices
    assert "Traceback" not in log
    assert_same_bits(run.run, unbroken)


def test_a_rank_that_hangs_is_named_and_a_preempted_run_goes_on(
    colour_tree: Path, unbroken: Path, tmp_path: Path
) -> None:
    """It hangs, all start again, SIGTERM comes to everyone, then `kill -9` to the launcher, and `--resume` ends with
    the bits of the unbroken run."""
    run = Launched(colour_tree, tmp_path / "run", "--timeout", "8")
    run.wait_for_steps(2)
    hung = run.ranks()[1]
    os.kill(hung, signal.SIGSTOP)
    run.wait_until(lambda: "No word from" in run.log.read_text())
    os.kill(hung, signal.SIGKILL)  # the launcher would do it, half a minute later
    message = r"Error: No word from rank 1 \(dp 0, mp 1\) in step \d of epoch \d+: it hangs, or is slower than"
    assert re.search(message, run.log.read_text())
    run.wait_for_steps(2)
    for pid in (*run.ranks(), run.process.pid):  # as systemd does, and the launcher hands it on
        os.kill(pid, signal.SIGTERM)
    assert run.process.wait(60) == 128 + signal.SIGTERM
    log = run.log.read_text()
    stopped = re.search(r"Stopped by signal 15; continue with --resume \(checkpoint (.*)\)", log)
    assert stopped is not None, log
    assert latest(run.run) == Path(stopped[1])
    assert len(saved_checkpoints(run.run)) < 3 * EPOCHS
    assert log.count("Error:") == 1
    assert "Traceback" not in log
    orphans = Launched(colour_tree, tmp_path / "run", "--resume")
    orphans.wait_for_steps(1)
    ranks = orphans.ranks()
    orphans.process.kill()
    orphans.process.wait()
    deadline = time.monotonic() + 60
    while not all(map(has_ended, ranks)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    again = Launched(colour_tree, tmp_path / "run", "--resume")
    assert again.process.wait(120) == 0, again.log.read_text()
    assert_same_bits(run.run, unbroken)


def test_two_machines(colour_tree: Path, unbroken: Path, tmp_path: Path) -> None:
    """Two launchers of two ranks each, as torchrun starts them on two machines: a 2x2 mesh. A rank is killed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    rendezvous = f"--nnodes 2 --nproc-per-node 2 --max-restarts 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port}"
    torchrun = [sys.executable, *"-m torch.distributed.run".split(), *rendezvous.split(), *"-m -- alexnet.cli".split()]
    command = [*torchrun, "train", str(colour_tree), "--run", str(tmp_path / "run"), *SMALL, "--epochs", "4"]
    machines = [warm.Popen(command, stderr=warm.PIPE) for _ in range(2)]
    while not saved_checkpoints(tmp_path / "run"):
        assert [machine.poll() for machine in machines] == [None, None]
        time.sleep(0.01)
    os.kill(children(machines[1].pid)[0], signal.SIGKILL)
    logs = [machine.communicate(timeout=180)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(logs)
    assert "".join(logs).count("Training paper on") == 2
    assert "from step " in "".join(logs)
    expected = [r["loss"] for r in records(unbroken) if r["kind"] == "train"]
    found = [r["loss"] for r in records(tmp_path / "run") if r["kind"] == "train"]
    assert len(found) == 12
    np.testing.assert_allclose(found, expected[:12], rtol=1e-4)


def tasks_of_slurm(*arguments: Any, file_size: int = resource.RLIM_INFINITY) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of the two tasks of a step, which may write files of so many bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_JOB_ID": "17",
        "MASTER_PORT": str(port),
    }
    tasks = []
    for i in "01":
        environment = os.environ | shared | {"SLURM_PROCID": i, "SLURM_LOCALID": i}
        tasks.append(warm.Popen([*ALEXNET, *arguments], stdout=warm.PIPE, stderr=warm.PIPE, env=environment))
        resource.prlimit(tasks[-1].pid, resource.RLIMIT_FSIZE, (file_size, file_size))
    outputs = [task.communicate(timeout=120) for task in tasks]
    return [(task.returncode, *output) for task, output in zip(tasks, outputs, strict=True)]


def test_evaluation_counts_every_image_once(colour_tree: Path, unbroken: Path) -> None:
    """Nine images on two ranks of SLURM, and as two towers."""
    expected = json.loads(CliRunner().invoke(main, ["evaluate", str(unbroken), str(colour_tree), "--json"]).stdout)
    assert expected["num_images"] == 9
    for mesh in ("2x1", "1x2"):
        first, second = tasks_of_slurm("evaluate", unbroken, colour_tree, "--json", "--batch-size", 4, "--mesh", mesh)
        found = json.loads(first[1])
        assert (first[0], second[0], second[1]) == (0, 0, "")
        for errors, wanted in ((found, expected), (found["networks"][0], expected["networks"][0])):
            assert errors["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
            errors["loss"] = wanted["loss"]
        assert found == expected


def test_statistics_have_the_same_bits(colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / name))
        out = tmp_path / name / "stats.json"
        command = ("pca-stats", colour_tree, "--out", out, "--threads", 1)
        codes = [alexnet(*command).returncode] if name == "one" else [code for code, *_ in tasks_of_slurm(*command)]
        assert set(codes) == {0}
        (image,) = out.parent.glob("stats*.npy")
        found.append((out.read_text(), image.read_bytes()))
    assert found[0] == found[1]


def test_training_speed(colour_tree: Path) -> None:
    """On one device; meshes of several are measured in `test_parallel.py`."""
    options = "--json --width 0.02 --batch-size 4 --seconds 0.05 --rounds 2 --device cpu".split()
    done = alexnet("bench-train", colour_tree, *options)
    result = json.loads(done.stdout)
    assert (result["mesh"], result["device"], result["batch_size"]) == ("1x1", "cpu", 4)
    assert min(result["windows"]) <= result["images_per_second"] <= max(result["windows"])
    assert 0 < result["waiting_share"] < 1
    assert set(result["sent"].values()) == set(result["expected"].values()) == {0}


def the_one_error(outcomes: list[tuple[int, str, str]]) -> str:
    """All ranks failed, and one of them said why."""
    assert all(code != 0 for code, *_ in outcomes)
    errors = "".join(stderr for *_, stderr in outcomes)
    assert errors.count("Error: ") == 1, errors
    assert "Traceback" not in errors
    return errors[errors.index("Error: ") :]


def test_a_second_run_is_refused(colour_tree: Path, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = the_one_error(tasks_of_slurm("train", colour_tree, "--run", tmp_path, *SMALL))
    assert f"Another run is writing into {tmp_path}. Choose another --run folder." in error


def test_a_full_disk(colour_tree: Path, unbroken: Path, tmp_path: Path) -> None:
    """Only the first rank writes; all end, and what was written before is intact."""
    first = saved_checkpoints(unbroken)[0]
    kept = tmp_path / "checkpoints" / first.name
    kept.parent.mkdir()
    kept.write_bytes(first.read_bytes())
    for name in ("stats.json", "stats.npy"):  # written only once, and larger than the limit
        shutil.copy(unbroken / name, tmp_path)
    limit = first.stat().st_size // 2
    error = the_one_error(
        tasks_of_slurm(
            *("train", colour_tree, "--run", tmp_path, "--resume", "--checkpoint-every", 1),
            file_size=limit,
        )
    )
    assert "cannot write" in error
    assert "earlier ones are intact" in error
    assert [path.name for path in kept.parent.iterdir()] == [first.name]
    assert load(kept).step == 1


def test_an_error_of_every_rank_is_told_once_and_not_repeated(colour_tree: Path, tmp_path: Path) -> None:
    done = alexnet("train", colour_tree, "--run", tmp_path, "--mesh", "1x2", *SMALL, "--lr", 1e12)
    error = the_one_error([(done.returncode, done.stdout, done.stderr)])
    assert done.returncode == 1
    assert "Lower --lr (now 1e+12) and start again." in error
    assert "Starting again" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mesh", "1x2", "--preset", "one-gpu"), "preset one-gpu has 1 tower. Use --mesh 2x1."),
        (("--mesh", "2"), "--mesh 2: give data x model ranks"),
        (("--devices", "cpu,cpu,cpu", "--mesh", "1x2"), "--devices names 3, but 2 ranks of the mesh 1x2 run on this"),
        (("--devices", "cpu,tpu"), "--devices cpu,tpu: give names such as cuda:0,cuda:1 or cpu,cpu."),
        (("--devices", "cuda:77,cuda:77"), "there is no cuda:77 here"),
    ],
)
def test_nothing_is_started_on_devices_that_do_not_fit(
    colour_tree: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(main, ["train", str(colour_tree), "--run", str(tmp_path / "run"), *SMALL, *arguments])
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "run").exists()


def test_who_starts_ranks_leaves_their_gpus_alone(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics too are up to the ranks: what is allocated on a GPU stays there as long as its process lives."""
    started = Mock(return_value=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", None)
    monkeypatch.setattr(train, "compute_statistics", None)
    monkeypatch.setattr(on_mesh, "launch", started)
    result = CliRunner().invoke(main, ["train", str(colour_tree), "--run", str(tmp_path / "run"), *SMALL])
    assert result.exit_code == 0, result.output
    assert "Starting 2 ranks, 1 data x 2 model, on cuda:0, cuda:1" in result.output
    assert started.call_count == 1


def test_ranks_get_their_options_before_two_dashes(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows them are arguments, whatever it looks like."""
    started = Mock(return_value=0)
    monkeypatch.setattr(on_mesh, "launch", started)
    typed = ["train", "--run", str(tmp_path), *SMALL, "--mesh", "1x2", "--", str(colour_tree)]
    assert CliRunner().invoke(main, typed).exit_code == 0
    (arguments, *_), _ = started.call_args
    assert arguments == [*typed[:-2], "--run", str(tmp_path), "--mesh", "1x2", *typed[-2:]]
