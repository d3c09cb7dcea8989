"""Which rank a process is: by torchrun, by SLURM, by hand, and by environments that are not enough or make no sense."""

from __future__ import annotations

import os
import re
from dataclasses import astuple

import pytest

from alexnet.train.parallel.environment import (
    RankNumbers,
    first_node,
    is_here,
    read_environment,
    slurm_environment,
)
from alexnet.train.parallel.environment import tasks_by_node as by_node
from alexnet.train.parallel.ranks import RankInfo, join_ranks

STEP = {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "123456",
}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
BY_HAND = {"RANK": "1", "WORLD_SIZE": "2", **MEETING}
TORCHRUN = BY_HAND | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
ELSEWHERE = BY_HAND | {"MASTER_ADDR": "192.0.2.1"}  # kept free for documents: it is nobody's


def no_gpus() -> int:
    return 0


def numbers(environ: dict[str, str], gpus: int = 0) -> tuple[int, ...]:
    """Rank, size, local rank, local size."""
    found = read_environment(environ, lambda: gpus)
    assert found is not None
    return astuple(found)[:4]


# -- SLURM -------------------------------------------------------------------------------------------------


def test_a_task_of_slurm() -> None:
    assert slurm_environment(STEP) == {
        "RANK": "9",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "23456",
    }
    assert slurm_environment(STEP | {"MASTER_ADDR": "10.0.0.1"})["MASTER_ADDR"] == "10.0.0.1"
    assert slurm_environment(STEP | {"MASTER_PORT": "7"})["MASTER_PORT"] == "7"
    assert numbers(STEP | MEETING) == (9, 16, 1, 8)
    assert numbers(STEP | MEETING | {"WORLD_SIZE": "16"}) == (9, 16, 1, 8)  # exported by the script, as many do


def test_nodes_may_have_different_numbers_of_tasks() -> None:
    assert by_node("8(x2),3") == ["8", "8", "3"]
    assert slurm_environment(STEP | {"SLURM_STEP_TASKS_PER_NODE": "12,4"})["LOCAL_WORLD_SIZE"] == "4"


def test_steps_of_a_job_do_not_share_a_port() -> None:
    ports = {slurm_environment(STEP | {"SLURM_STEP_ID": str(step)})["MASTER_PORT"] for step in range(100)}
    assert len(ports) == 100


@pytest.mark.parametrize(
    "environment",
    [
        {},
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_TASKS_PER_NODE": "4"},
        STEP | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290", "SLURM_PTY_PORT": "40121"},
        STEP | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_PTY_PORT": "40121"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"},
    ],
    ids=[
        "none",
        "a step of one",
        "a batch script",
        "in salloc",
        "salloc's shell",
        "a shell by srun --pty",
        "one rank",
        "a world of one",
        "mpirun",
    ],
)
def test_nobody_else_to_wait_for(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    assert read_environment(environment, no_gpus) is None
    monkeypatch.setattr(os, "environ", environment)
    assert join_ranks() == RankInfo()


def test_a_step_started_from_a_shell_has_its_variables_but_no_keyboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: False)
    assert numbers(STEP | MEETING | {"SLURM_STEP_ID": "0", "SLURM_PTY_PORT": "40121"}) == (9, 16, 1, 8)


@pytest.mark.parametrize(
    ("nodes", "first"), [("gpu3", "gpu3"), ("gpu[03-05,9],login", "gpu03"), ("a,b", "a"), ("rack1-n[2,4]", "rack1-n2")]
)
def test_the_first_node(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_no_node() -> None:
    with pytest.raises(ValueError, match="set MASTER_ADDR"):
        first_node("")


# -- torch's variables -------------------------------------------------------------------------------------


def test_what_torchrun_says_is_taken_as_it_is() -> None:
    found = read_environment(TORCHRUN | STEP, lambda: pytest.fail("GPUs were counted"))
    assert found == RankNumbers(1, 2, 0, 1, "127.0.0.1", 29500)
    assert found.as_environment() == TORCHRUN


def test_on_one_machine_the_place_there_is_the_rank() -> None:
    """Known to be one where the ranks meet on it, or where it has a GPU for each."""
    assert numbers(BY_HAND) == (1, 2, 1, 2)
    assert numbers(BY_HAND | {"LOCAL_RANK": "0"}) == (1, 2, 0, 2)
    assert numbers(ELSEWHERE, gpus=2) == (1, 2, 1, 2)
    assert is_here("localhost")
    assert not is_here("192.0.2.1")


def test_a_script_may_give_slurms_tasks_torchs_names() -> None:
    same = {"RANK": "9", "WORLD_SIZE": "16", **MEETING}
    assert numbers(STEP | same) == (9, 16, 1, 8)
    assert numbers(STEP | same | {"RANK": "0"}) == (0, 16, 0, 16)  # of another launcher, inside a task


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "RANK=0 is set without WORLD_SIZE: start ranks with torchrun or srun, or unset RANK and"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set without RANK: "),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK=0 WORLD_SIZE=2 is set without MASTER_ADDR: "),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
            "RANK=0 WORLD_SIZE=2 is set without MASTER_PORT: ",
        ),
        (BY_HAND | {"RANK": "x"}, "RANK=x is set, but must be a number from 0 to 1: "),
        (BY_HAND | {"RANK": "2"}, "RANK=2 is set, but must be a number from 0 to 1: "),
        (BY_HAND | {"RANK": "-1"}, "RANK=-1 is set, but must be a number from 0 to 1: "),
        (BY_HAND | {"RANK": "5", "WORLD_SIZE": "1"}, "RANK=5 is set, but must be a number from 0 to 0: "),
        (BY_HAND | {"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is set, but must be 1 or more: "),
        (BY_HAND | {"MASTER_PORT": "http"}, "MASTER_PORT=http is set, but must be a number from 1 to 65535: "),
        (BY_HAND | {"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is set, but must be a number from 1 to 65535: "),
        (TORCHRUN | {"LOCAL_RANK": "1"}, "LOCAL_RANK=1 is set, but must be a number from 0 to 0: "),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE=3 is set, but must be a number from 1 to 2: "),
        (
            BY_HAND | {"MASTER_ADDR": "no-such-machine.invalid"},
            "Rank 1 cannot resolve MASTER_ADDR=no-such-machine.invalid: set it to the name or address of",
        ),
        (BY_HAND | {"MASTER_ADDR": "a..b"}, "Rank 1 cannot resolve MASTER_ADDR=a..b: "),
        (ELSEWHERE, "Rank 1 of 2 needs LOCAL_RANK and LOCAL_WORLD_SIZE, as the ranks are on several machines: "),
        (
            ELSEWHERE | {"LOCAL_RANK": "0"},
            "Rank 1 of 2 needs LOCAL_WORLD_SIZE, as the ranks are on several machines: ",
        ),
    ],
)
def test_what_is_not_enough_is_one_line_at_once(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}.*\Z"):
        read_environment(environment, no_gpus)
