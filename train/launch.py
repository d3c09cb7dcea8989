"""One process among many: where it stands, how it came to be started, and how the whole ends when one fails.

`alexnet train` on one machine starts a rank for each device through torch's elastic launcher, and each runs the same
command; under torchrun, or as the tasks of a SLURM step, it joins what is there. No torch is imported before it is
needed, so the command line can use this at once.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, Self

from .environment import RankNumbers, read_environment
from .terminal import error_console

RESTARTS = "ALEXNET_RESTARTS"  # how many times our own launcher has started these ranks again
LAUNCHER = "ALEXNET_LAUNCHER"  # the process id of our own launcher
SECONDS_TO_BE_ENDED = 6.0
SECONDS_TO_MEET = 600.0  # ranks may not be started at the same moment
LOST = 75  # exit code of a rank that lost another: EX_TEMPFAIL, try again
PR_SET_PDEATHSIG = 1  # of Linux's prctl

log = logging.getLogger("alexnet")


class RankLost(RuntimeError):
    """Another rank died or hangs; a restart may help."""


@dataclass(frozen=True)
class Place:
    """This process among `size` ranks, and among the `local_size` of its machine. `store` is what all can write to.

    `restarts` is how often they were started before, as far as this machine knows; the first rank knows of all.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    store: Any = None

    @classmethod
    def join(cls) -> Self:
        """From the environment that torchrun, SLURM or our own launcher left; alone where there is none."""
        if "TORCHELASTIC_RUN_ID" in os.environ:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no rank outlives its launcher
            if os.getppid() != int(os.environ.get(LAUNCHER, os.getppid())):  # which has ended already
                os._exit(LOST)
        found = read_environment(os.environ, _count_gpus)
        if found is None:
            return cls()
        os.environ.update(found.as_environment())
        from torch.distributed import DistError
        from torch.distributed.rendezvous import rendezvous

        restarts = max(int(os.environ.get(name, 0)) for name in (RESTARTS, "TORCHELASTIC_RESTART_COUNT"))
        try:
            _wait_for_main(found)
            store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=SECONDS_TO_MEET)))
            store, restarts = _meet(store, rank, size, restarts)
        except (DistError, TimeoutError) as error:
            raise RankLost(_explain_absence(found, error)) from error
        place = cls(rank, size, found.local_rank, found.local_size, restarts, store)
        _joined.append(place)
        if rank > 0:
            log.setLevel(logging.WARNING)  # what there is to know of a data set the first rank says
        return place

    @contextmanager
    def main_first(self, what: str) -> Iterator[None]:
        """The first rank goes in alone; the others when it is through, to find in the cache what it left."""
        if self.rank > 0:
            self.wait_for_main(what)
        yield
        self.tell_others(what)

    def from_main(self, what: str, find: Callable[[], str]) -> str:
        """What the first rank finds, for all."""
        if self.rank > 0:
            self.wait_for_main(what)
            return os.fsdecode(self.store.get(f"done/{what}"))
        found = find()
        self.tell_others(what, found)
        return found

    def wait_for_main(self, what: str) -> None:
        """Until the first rank has told the others `what`; however long, for if it fails we are stopped."""
        self.store.wait([f"done/{what}"], timedelta(days=30))

    def tell_others(self, what: str, found: str = "") -> None:
        if self.size > 1 and self.rank == 0:
            self.store.set(f"done/{what}", os.fsencode(found))

    @property
    def speaks_of_failure(self) -> bool:
        """Whether this rank is the first to fail: the others' errors only follow from its own."""
        if self.store is None:
            return True
        try:
            return bool(self.store.add("failed", 1) == 1)
        except RuntimeError:  # the rank that kept the store has failed before us
            return False


def _count_gpus() -> int:
    from torch.cuda import device_count

    return device_count()


def _wait_for_main(found: RankNumbers) -> None:
    """Until somebody listens where the ranks meet. torch would wait, too, but reports a failure in forty lines."""
    deadline = time.monotonic() + SECONDS_TO_MEET
    while found.rank > 0:
        try:
            socket.create_connection((found.address, found.port), timeout=SECONDS_TO_MEET).close()
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(0.1)
        else:
            return


def _explain_absence(found: RankNumbers, error: Exception) -> str:
    """Of what torch says at length."""
    where = f"{found.address}:{found.port}"
    if "EADDRINUSE" in str(error):
        return f"Rank {found.rank} cannot listen at {where}, which is in use: set MASTER_PORT to another port."
    patience = f"{SECONDS_TO_MEET:g} seconds"
    if found.rank == 0:
        return (
            f"Rank 0 waited {patience} at {where} for the others of {found.size} ranks: check that all were "
            "started and can reach it."
        )
    return (
        f"Rank {found.rank} of {found.size} found no rank 0 at {where} within {patience}: check that it was "
        "started and can be reached there."
    )


def _meet(store: Any, rank: int, size: int, restarts: int) -> tuple[Any, int]:
    """A part of the store that is new, with all ranks there, and on the first one the restarts that any knows of.

    torchrun keeps a store over restarts, and counts them on each machine by itself: what earlier ranks left there looks
    like word of these. So each rank says a word of its own, and the first answers every word until all have come.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    word = uuid.uuid4().hex
    if rank > 0:
        store.set(f"word/{rank}", word)
        store.wait([f"answer/{word}"], timedelta(seconds=SECONDS_TO_MEET))
        new = PrefixStore(store.get(f"answer/{word}").decode(), store)
        new.add("restarts", restarts)
        new.add("ranks", 1)
        return new, restarts
    new, deadline = PrefixStore(word, store), time.monotonic() + SECONDS_TO_MEET
    while (others := new.add("ranks", 0)) < size - 1:
        if time.monotonic() > deadline:
            raise RankLost(f"Only {others + 1} of {size} ranks came within {SECONDS_TO_MEET:g} seconds.")
        for key in (f"word/{other}" for other in range(1, size)):
            if store.check([key]):
                store.set(f"answer/{store.get(key).decode()}", word)
        time.sleep(0.02)
    return new, restarts + new.add("restarts", 0)


def leave_silently() -> NoReturn:
    """Wait to be ended by the launcher, which so sees the rank whose error it is end first."""
    time.sleep(SECONDS_TO_BE_ENDED)
    os._exit(LOST)  # without the transport's threads, which may wait for a rank that is gone


_joined: list[Place] = []


def speaks_of_failure() -> bool:
    """Whether this process should print the error it met."""
    return not _joined or _joined[-1].speaks_of_failure


def launch(arguments: Sequence[str], num_ranks: int, max_restarts: int, timeout_seconds: float) -> int:
    """Run `alexnet` with these arguments in `num_ranks` processes of this machine; returns the exit code.

    When one of them is killed, or is lost to the others, all start again, at most `max_restarts` times; an error that
    would only repeat itself ends them. After `hand_on` a signal they have `timeout_seconds` to end by themselves.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    for name in ("agent.server.api", "multiprocessing.api"):  # the ranks explain themselves
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_ranks)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(int(timeout_seconds)))  # torch 2.11 waits 30
    try:
        for restart in range(max_restarts + 1):
            os.environ[RESTARTS] = str(restart)
            codes = _exit_codes(arguments, num_ranks)
            if errors := [code for code in codes.values() if code > 0 and code != LOST]:
                return errors[0]
            if not codes:
                return 0
            fates = [
                f"rank {rank}: {_fate(code)}" for rank, code in codes.items() if code != -signal.SIGTERM
            ]  # which is how the launcher ends the others
            again = (
                f"Starting again, {restart + 1} of {max_restarts}"
                if restart < max_restarts
                else f"Giving up after --max-restarts {max_restarts}"
            )
            log.warning("%s. %s.", ", ".join(fates) or "A rank was lost", again)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 1


def _exit_codes(arguments: Sequence[str], num_ranks: int) -> dict[int, int]:
    """By rank, of those that failed."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        signals_to_handle="",
    )  # `hand_on` does
    try:
        elastic_launch(config, sys.executable)("-m", "alexnet.cli", *arguments)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}


def hand_on(number: int) -> NoReturn:
    """Have `launch` send a signal to all ranks and wait for them to end; a Ctrl-C then ends them at once."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def end_at_once(*_: object) -> None:
        error_console.show_cursor()  # a rank's bar has hidden it
        os._exit(128 + signal.SIGINT)  # no rank outlives its launcher

    signal.signal(signal.SIGINT, end_at_once)
    raise SignalException(f"signal {number}", signal.Signals(number))


def _fate(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else "lost contact"
