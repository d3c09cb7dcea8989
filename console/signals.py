"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop in good order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .terminal import say


@contextmanager
def stop_on_signals(request_stop: Callable[[int], None], *, announce: bool = True) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or SIGHUP asks for a stop after the step in hand; a second Ctrl-C stops at once.

    Other signals after the first are ignored: many send one to a launcher and to its ranks, and it hands it on. So is
    SIGHUP where it was before, under nohup.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        for each in (number, *before):
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_IGN)
        if announce and number == signal.SIGINT:  # SIGTERM also comes from a launcher whose other rank has failed
            say("Stopping after this step, with a checkpoint; press Ctrl-C again to stop at once.")
        request_stop(number)

    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    handled = (signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP]))
    before = {number: signal.getsignal(number) for number in handled}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
