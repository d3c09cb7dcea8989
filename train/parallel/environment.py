"""Which rank this process is, and of how many, from the environment variables of torchrun or SLURM.

`RANK` and `WORLD_SIZE` make a rank; several ranks need `MASTER_ADDR` and `MASTER_PORT` to meet. Everything is checked
here: a missing or invalid variable gives one line at once, not a wait for ranks that never come.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

from ...pipeline.errors import UserError

FIRST_RESERVED_STEP = 0xFFFFFFF0  # SLURM numbers salloc's shells and batch scripts from here on, srun's steps from 0
REMEDY = "start ranks with torchrun or srun, or unset RANK and WORLD_SIZE to run alone"


@dataclass(frozen=True)
class RankNumbers:
    """A rank among `size`, and among the `local_size` of its machine; they meet at `address` and `port`."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int

    def as_environment(self) -> dict[str, str]:
        """Return the variables that torch reads."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        return dict(zip(names, map(str, astuple(self)), strict=True))


def read_environment(environ: Mapping[str, str], count_devices: Callable[[], int]) -> RankNumbers | None:
    """Return this process's rank, or None if it runs alone; UserError if variables are missing or invalid.

    `count_devices` counts the GPUs here. It is called only if the local rank or the local size is not given.
    """
    found, slurm = dict(environ), slurm_environment(environ)
    if "RANK" not in environ and (slurm or "WORLD_SIZE" not in environ):
        found = slurm
    elif all(environ.get(name) == slurm.get(name) for name in ("RANK", "WORLD_SIZE")):
        found = slurm | found  # a script set torch's variables from SLURM's
    if not found or (found.get("RANK", "0"), found.get("WORLD_SIZE")) == ("0", "1"):
        return None
    size = _number(found, "WORLD_SIZE", 1)
    rank = _number(found, "RANK", 0, size - 1)
    address, port = _required(found, "MASTER_ADDR"), _number(found, "MASTER_PORT", 1, 65535)
    _resolve(address, rank)
    local_rank, local_size = _local(found, rank, size, address, count_devices)
    return RankNumbers(rank, size, local_rank, local_size, address, port)


def _local(
    found: Mapping[str, str],
    rank: int,
    size: int,
    address: str,
    count_devices: Callable[[], int],
) -> tuple[int, int]:
    """Return the local rank and the local size: as given, else as if all ranks were on this machine."""
    if "LOCAL_RANK" in found and "LOCAL_WORLD_SIZE" in found:
        local_size = _number(found, "LOCAL_WORLD_SIZE", 1, size)
        return _number(found, "LOCAL_RANK", 0, local_size - 1), local_size
    if is_here(address) or size <= count_devices():
        return _number({"LOCAL_RANK": str(rank)} | dict(found), "LOCAL_RANK", 0, size - 1), size
    missing = " and ".join(name for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE") if name not in found)
    raise UserError(
        f"Rank {rank} of {size} needs {missing}, as the ranks are on several machines: its number among those on "
        "this machine, and how many they are. torchrun and srun set both."
    )


def _required(found: Mapping[str, str], name: str) -> str:
    if value := found.get(name, ""):
        return value
    given = " ".join(f"{each}={found[each]}" for each in ("RANK", "WORLD_SIZE") if each in found)
    raise UserError(f"{given} is set without {name}: {REMEDY}.")


def _number(found: Mapping[str, str], name: str, low: int, high: int | None = None) -> int:
    text = _required(found, name)
    if text.isdecimal() and low <= int(text) and (high is None or int(text) <= high):
        return int(text)
    wanted = f"{low} or more" if high is None else f"a number from {low} to {high}"
    raise UserError(f"{name}={text} is set, but must be {wanted}: {REMEDY}.")


def _resolve(address: str, rank: int) -> None:
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"Rank {rank} cannot resolve MASTER_ADDR={address}: set it to the name or address of the "
            f"first rank's machine. ({error})"
        ) from error


def is_here(address: str) -> bool:
    """Whether an address is this machine's own, which is where it can listen."""
    for family, kind, protocol, _, place in socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as listener:
            try:
                listener.bind(place)
            except OSError:
                continue
            return True
    return False


def slurm_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what torchrun would set for this task of a SLURM step; nothing for a lone task, a batch script, a shell.

    A shell opened by `salloc` or `srun --pty` also claims to be one of several tasks, but no other task runs what is
    typed there. Tasks that `srun` starts from it inherit its variables, but not its terminal.
    """
    step = {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"}
    if not step <= environ.keys() or environ["SLURM_STEP_NUM_TASKS"] == "1":
        return {}
    job, number, node = (
        _number({name: "0"} | dict(environ), name, 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NODEID")
    )
    if number >= FIRST_RESERVED_STEP or ("SLURM_PTY_PORT" in environ and os.isatty(0)):
        return {}
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": tasks_by_node(environ["SLURM_STEP_TASKS_PER_NODE"])[node],
        "MASTER_ADDR": environ.get("MASTER_ADDR") or first_node(environ.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": environ.get("MASTER_PORT") or str(20_000 + (job + 101 * number) % 20_000),  # differs by step
    }


def tasks_by_node(text: str) -> list[str]:
    """Parse SLURM's number of tasks on each node: `8(x2),3` gives 8, 8 and 3."""
    runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [count for count, times in runs for _ in range(int(times or 1))]


def first_node(nodes: str) -> str:
    """Return the first host of SLURM's list of nodes: `gpu[03-05,9],login` gives gpu03."""
    match = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?", nodes)
    if match is None:
        raise UserError(f"SLURM's list of nodes, {nodes!r}, names none: set MASTER_ADDR to the first node.")
    return match[1] + (match[2] or "")
