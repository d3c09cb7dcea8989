"""Progress on standard error: bars and live lines on a terminal, plain lines in a log or a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from .terminal import error_console, printable, say, text_column

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def bar(what: str, total: int, unit: str, *, silent: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar with rate and time left; yield a function that takes the number done so far."""
    started = time.monotonic()
    if silent:
        yield lambda done: None
        return
    if not error_console.is_terminal:
        yield _line_printer(what, total, unit, started)
        return
    columns = (text_column("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    with Progress(*columns, console=error_console) as progress:
        task = progress.add_task(printable(what), total=total)
        yield lambda done: progress.update(task, completed=done)


class _Rate(ProgressColumn):
    """The recent rate, in units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{_rate(task.speed)} {self._unit}/s" if task.speed else "")


@contextmanager
def bars(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar after another, one per part; yield a function that takes (part, number done, total)."""
    with ExitStack() as running:
        shown: list[tuple[str, Callable[[int], None]]] = []

        def update(what: str, done: int, total: int) -> None:
            if not shown or shown[-1][0] != what:
                running.close()
                shown.append((what, running.enter_context(bar(what, total, unit))))
            shown[-1][1](done)

        yield update


def _line_printer(what: str, total: int, unit: str, started: float) -> Callable[[int], None]:
    """Return a function that prints a line now and then.

    The first number it gets is where an interrupted run left off, so the rate counts from there.
    """
    first: list[int] = []
    printed = [started, -1.0]  # time and number of the last line

    def update(done: int) -> None:
        if not first:
            first.append(done)
        now = time.monotonic()
        if (now - printed[0] < SECONDS_BETWEEN_LINES and done < total) or done == printed[1]:
            return
        rate = (done - first[0]) / max(now - started, 1e-9)
        pace = f", {_rate(rate)} {unit}/s, {_clock((total - done) / rate)} left" if rate else ""  # nothing new: none
        say(f"{what}: {done}/{total} {unit}{pace}")
        printed[:] = [now, done]

    return update


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


class TrainingDisplay:
    """Shows the records of a training run: one live line on a terminal, a line each in a log, validations in both."""

    def __init__(self) -> None:
        self._live: Progress | None = None
        self._task: Any = None
        if error_console.is_terminal:
            columns = (text_column("{task.description}"), BarColumn(), text_column("{task.fields[facts]}"))
            self._live = Progress(*columns, console=error_console)

    def __enter__(self) -> TrainingDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, record: dict[str, Any]) -> None:
        if record["kind"] == "val":
            say(describe_validation(record))
        elif record["kind"] == "warning":
            say(f"Warning: {record['text']}")
        elif self._live is None:
            say(f"{_position(record)}  {describe_step(record)}")
        else:
            if self._task is None:
                self._task = self._live.add_task("", total=1, facts="")
            done = record["epoch"] + record["step"] / record["steps_per_epoch"]
            self._live.update(
                self._task,
                description=_position(record),
                completed=done,
                total=record["num_epochs"],
                facts=describe_step(record),
            )


def _position(record: dict[str, Any]) -> str:
    return f"epoch {record['epoch'] + 1}/{record['num_epochs']} step {record['step']}/{record['steps_per_epoch']}"


def describe_step(record: dict[str, Any]) -> str:
    bad = f"  {record['bad_images']} bad images" if record["bad_images"] else ""
    return (
        f"loss {record['loss']:.4f}  top-1 error {record['top1_error']:.1%}  lr {record['lr']:g}  "
        f"{record['images_per_second']:,.0f} images/s  waiting {record['waiting']:.1%}  "
        f"{_clock(record['seconds_left'])} left{bad}"
    )


def describe_validation(record: dict[str, Any]) -> str:
    bad = f", {record['bad']} images could not be used" if record["bad"] else ""
    return (
        f"epoch {record['epoch'] + 1} validation: top-1 error {record['top1_error']:.2%}  "
        f"top-5 error {record['top5_error']:.2%}  loss {record['loss']:.4f}  ({record['num_images']} images{bad})"
    )


def _clock(seconds: float) -> str:
    minutes, hours = round(seconds) // 60, round(seconds) // 3600
    return f"{hours}:{minutes % 60:02}:{round(seconds) % 60:02}" if hours else f"{minutes}:{round(seconds) % 60:02}"
