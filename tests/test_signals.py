"""Ctrl-C, SIGTERM and SIGHUP, and nohup."""

import io
import signal
import sys
from typing import Any

import pytest

from alexnet.console.signals import stop_on_signals
from alexnet.console.terminal import say


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(first: signal.Signals) -> None:
    """The first asks for a stop; a second Ctrl-C stops, and others, of which a launcher hands on copies, do not."""
    asked: list[int] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with stop_on_signals(asked.append, announce=False):
        for number in (first, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == [first]
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_nohup() -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals(asked.append, announce=False):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert asked == []


def test_ctrl_c_in_the_middle_of_a_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Python refuses to write to a stream from a signal handler that has interrupted a write to it."""

    class Interrupted(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if data[:4] == b"half":
                signal.raise_signal(signal.SIGINT)
            return len(data)

    asked: list[int] = []
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Interrupted()), line_buffering=True))
    with stop_on_signals(asked.append):
        say("half a line")
    assert asked == [signal.SIGINT]
    assert "Stopping after this step" in capfd.readouterr().err
