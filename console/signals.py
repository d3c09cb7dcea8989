"""Ctrl-C, SIGTERM and SIGHUP as requests for an orderly stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .terminal import say


@contextmanager
def stop_on_signals(request_stop: Callable[[int], None], *, announce: bool = True) -> Iterator[None]:
    """Call `request_stop` at the first Ctrl-C, SIGTERM or SIGHUP; a second Ctrl-C stops at once.

    Other signals after the first are ignored: a rank often gets the same one twice, directly and from its launcher.
    SIGHUP is ignored altogether under nohup.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        for each in (number, *before):
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_IGN)
        if announce and number == signal.SIGINT:  # a launcher also sends SIGTERM when another rank fails
            _say_at_once("Stopping after this step, with a checkpoint; press Ctrl-C again to stop at once.")
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


def _say_at_once(text: str) -> None:
    """As `say`, also where the signal came in the middle of another line to the same stream, which Python refuses."""
    try:
        say(text)
    except RuntimeError:
        os.write(2, f"{text}\n".encode())
