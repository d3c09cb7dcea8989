"""One process among many: which rank it is, how the ranks meet, and which of them reports a failure.

`environment.py` reads what a launcher set; `join_ranks` meets the others and returns a `RankInfo`, which is passed on:
nothing else looks at the environment. torch is imported only if there are others to meet, so that the command line
starts at once. `mesh.py` comes next.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from .environment import RankNumbers, read_environment

RESTARTS = "ALEXNET_RESTARTS"  # how many times our own launcher has started these ranks again
LAUNCHER = "ALEXNET_LAUNCHER"  # the process id of the `alexnet` that started this one, which must not outlive it
SECONDS_TO_BE_ENDED = 6.0
SECONDS_TO_MEET = 600.0  # ranks may not be started at the same moment
LOST = 75  # exit code of a rank that lost another: EX_TEMPFAIL, try again
PR_SET_PDEATHSIG = 1  # of Linux's prctl

log = logging.getLogger("alexnet")


class RankLost(RuntimeError):
    """Another rank died or hangs; a restart may help."""


@dataclass(frozen=True)
class RankInfo:
    """This process among `size` ranks, and among the `local_size` of its machine; by default it is alone.

    All ranks can write to `store`. `restarts` counts how often the ranks were started before, as far as this machine
    knows; the first rank adds up the counts of all ranks.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    store: Any = None

    @contextmanager
    def main_first(self, what: str) -> Iterator[None]:
        """Run the body on the first rank, then on the others, which find its results in the cache."""
        if self.rank > 0:
            self.wait_for_main(what)
        yield
        self.tell_others(what)

    def from_main(self, what: str, find: Callable[[], str]) -> str:
        """Call `find` on the first rank only, and return its result on every rank."""
        if self.rank > 0:
            self.wait_for_main(what)
            return os.fsdecode(self.store.get(f"done/{what}"))
        found = find()
        self.tell_others(what, found)
        return found

    def wait_for_main(self, what: str) -> None:
        """Wait, however long, until the first rank tells the others `what`; if it fails, the launcher stops us."""
        self.store.wait([f"done/{what}"], timedelta(days=30))

    def tell_others(self, what: str, found: str = "") -> None:
        if self.size > 1 and self.rank == 0:
            self.store.set(f"done/{what}", os.fsencode(found))

    def gather(self, what: str, text: str) -> list[str]:
        """Return every rank's `text`, by rank, before there is a mesh."""
        if self.size == 1:
            return [text]
        self.store.set(f"{what}/{self.rank}", text)
        return [self.store.get(f"{what}/{rank}").decode() for rank in range(self.size)]

    def is_first_to_fail(self) -> bool:
        """Whether no rank has asked this before: later errors only follow from the first one."""
        if self.store is None:
            return True
        try:
            return bool(self.store.add("failed", 1) == 1)
        except RuntimeError:  # the rank that holds the store failed before us
            return False


ALONE = RankInfo()
_this_rank = ALONE


def join_ranks() -> RankInfo:
    """Join the ranks that torchrun, SLURM or our own launcher started; return `ALONE` without a launcher."""
    global _this_rank
    if {"TORCHELASTIC_RUN_ID", LAUNCHER} & os.environ.keys():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # no rank outlives its launcher
        if os.getppid() != int(os.environ.get(LAUNCHER, os.getppid())):  # it has ended already
            os._exit(LOST)
    found, _this_rank = read_environment(os.environ, _count_gpus), ALONE
    if found is None:
        return ALONE
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
    _this_rank = RankInfo(rank, size, found.local_rank, found.local_size, restarts, store)
    if rank > 0 or LAUNCHER in os.environ:
        log.setLevel(logging.WARNING)  # the first rank reports on the data set for all, or whoever started it did
    return _this_rank


def reports_failure() -> bool:
    """Whether this process should print its error: only the first rank to fail does."""
    return _this_rank.is_first_to_fail()


def leave_silently() -> NoReturn:
    """Wait for the launcher to end this rank, so that the rank that reported its error ends first."""
    time.sleep(SECONDS_TO_BE_ENDED)
    os._exit(LOST)  # does not join the transport's threads, which may wait for a lost rank


def _count_gpus() -> int:
    from torch.cuda import device_count

    return device_count()


def _wait_for_main(found: RankNumbers) -> None:
    """Wait until somebody listens where the ranks meet. torch would wait too, but report a failure in forty lines."""
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
    """Say in one line what torch says at length."""
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
    """Return a fresh part of the store, once all ranks are there, and the restarts (on the first rank, of all ranks).

    torchrun keeps its store across restarts, which it counts on each machine separately. What earlier ranks left there
    looks like word from these. So each rank leaves a word of its own, and the first answers all until every rank is
    there.
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
