"""Processes that work for this one: they never see Ctrl-C, and they end with it, even if it is killed.

`synthetic/generate.py` draws in such processes, and `train/cifar/workers.py` trains in them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_ctrl_c() -> Iterator[None]:
    """Hold Ctrl-C back until afterwards; processes started here never see it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process, a child, if its parent is killed; otherwise it would work or wait for ever."""

    def follow() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
