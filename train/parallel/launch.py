"""Start the ranks of one machine, and start them again when one is lost.

`alexnet train` on one machine starts one rank per device through torch's elastic launcher. Each rank runs the same
command, where `ranks.py` joins them. Under torchrun or SLURM's srun, the ranks run already.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import NoReturn

from .ranks import LAUNCHER, LOST, RESTARTS

log = logging.getLogger("alexnet")


def launch(arguments: Sequence[str], num_ranks: int, max_restarts: int, timeout_seconds: float) -> int:
    """Run `alexnet` with these arguments in `num_ranks` processes of this machine; return the exit code.

    When one is killed or loses contact, all start again, at most `max_restarts` times; an error that would only repeat
    itself ends them all. After `forward_signal` they have `timeout_seconds` to end by themselves.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    for name in ("agent.server.api", "multiprocessing.api"):  # the ranks report their own errors
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
            # The launcher ends the other ranks by SIGTERM.
            fates = [f"rank {rank}: {_fate(code)}" for rank, code in codes.items() if code != -signal.SIGTERM]
            again = (
                f"Starting again, {restart + 1} of {max_restarts}"
                if restart < max_restarts
                else f"Giving up after --max-restarts {max_restarts}"
            )
            log.warning("%s. %s.", ", ".join(fates) or "A rank was lost", again)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    finally:
        del os.environ[LAUNCHER]  # it is about the ranks, not about what this process may start later
    return 1


def _exit_codes(arguments: Sequence[str], num_ranks: int) -> dict[int, int]:
    """Run the ranks once; return the exit codes of those that failed, by rank."""
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
        signals_to_handle="",  # `forward_signal` handles them
    )
    try:
        elastic_launch(config, sys.executable)("-m", "alexnet.cli", *arguments)
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}


def forward_signal(number: int, before_exit: Callable[[], object] = lambda: None) -> NoReturn:
    """Make `launch` send a signal to all ranks and wait for them to end. A Ctrl-C after that ends them at once."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def end_at_once(*_: object) -> None:
        before_exit()
        os._exit(128 + signal.SIGINT)  # no rank outlives its launcher

    signal.signal(signal.SIGINT, end_at_once)
    raise SignalException(f"signal {number}", signal.Signals(number))


def _fate(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else "lost contact"
