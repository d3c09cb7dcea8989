"""What a person sees: bars on a terminal, lines in a log or a pipe, tables, one-line errors.

Everything but results goes to standard error, so standard output can be read by another program.
"""

from __future__ import annotations

import errno
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .launch import LOST, RankLost, leave_silently, speaks_of_failure
from .terminal import error_console, make_printable, plain_console, printable, say, text_column

SECONDS_BETWEEN_LINES = 10.0
ARGUMENTS = "alexnet.arguments"  # in a click context: the command line's words


class Commands(click.Group):
    """A click group whose known failures are one line, and whose bugs keep their traceback.

    Of the ranks of a mesh only the first to fail says why. A command finds its own words in `ctx.meta[ARGUMENTS]`.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        words = list(args)
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise make_printable(error) from None
        ctx.meta[ARGUMENTS] = words
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if speaks_of_failure():
                say("Stopped by Ctrl-C.")
            ctx.exit(130)
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.UsageError as error:
            raise make_printable(error) from None
        except Exception as error:
            if not speaks_of_failure():
                leave_silently()
            message = _explain(error)
            if message is None or ctx.params.get("debug"):
                raise
            raise _Failure(message, LOST if isinstance(error, RankLost) else 1) from error


class _Failure(click.ClickException):
    """One line on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(printable(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click's own subclasses set it on the class


def _explain(error: Exception) -> str | None:
    """What to tell the user, or None where the error is a bug of ours or of a library."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return f"The disk is full{where}. Free some space and start again; what was complete is intact. ({error})"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, on a GPU
        return f"Out of memory; lower --batch-size or --width. ({error})"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in ("nvidia", "torch"):
        return f"The package {error.name} is missing. `alexnet doctor` says what to install."
    if isinstance(error, RankLost) or type(error).__name__ == "NotBuilt":  # resample.py's
        return str(error)
    if isinstance(error, ValueError | OSError) and _raised_by_us(error):
        return str(error)
    return None


def _raised_by_us(error: Exception) -> bool:
    """Our own ValueErrors are written for users; those of numpy or torch are bugs."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = traceback.tb_frame.f_globals.get("__name__", "") if traceback else ""
    return name.split(".")[0] in ("alexnet", "__main__")


@contextmanager
def bar(what: str, total: int, unit: str, *, silent: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left, as a function that takes the number done so far."""
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
    """Units a second, of late."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{_rate(task.speed)} {self._unit}/s" if task.speed else "")


@contextmanager
def bars(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each part of a work, one after the other: a function of the part's name, the number done, and all."""
    with ExitStack() as running:
        shown: list[tuple[str, Callable[[int], None]]] = []

        def update(what: str, done: int, total: int) -> None:
            if not shown or shown[-1][0] != what:
                running.close()
                shown.append((what, running.enter_context(bar(what, total, unit))))
            shown[-1][1](done)

        yield update


def _line_printer(what: str, total: int, unit: str, started: float) -> Callable[[int], None]:
    """A line now and then. The first number done may be of an earlier call that was interrupted."""
    first: list[int] = []
    printed = [started, -1.0]  # when, and what

    def update(done: int) -> None:
        if not first:
            first.append(done)
        now = time.monotonic()
        if (now - printed[0] < SECONDS_BETWEEN_LINES and done < total) or done == printed[1]:
            return
        rate = (done - first[0]) / max(now - started, 1e-9)
        left = f", {_clock((total - done) / rate)} left" if rate else ""
        say(f"{what}: {done}/{total} {unit}, {_rate(rate)} {unit}/s{left}")
        printed[:] = [now, done]

    return update


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


class TrainingDisplay:
    """Shows a training run's records: one live line on a terminal, every line in a log; validations always."""

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


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on standard output. Numbers are right-aligned, and whole: where room is scarce their headers give way."""
    console = plain_console(width=None if sys.stdout.isatty() else 150)
    title, header = printable(title), [printable(name) for name in header]
    columns = list(zip(*([printable(str(cell)) for cell in row] for row in rows), strict=True)) or [()] * len(header)
    widths = [max(map(len, cells), default=0) for cells in columns]
    scarce = sum(max(width, len(name)) + 3 for width, name in zip(widths, header, strict=True)) >= console.width
    table = Table()
    for name, width, cells in zip(header, widths, columns, strict=True):
        numeric = bool(cells) and all(map(_looks_numeric, cells))
        if numeric and scarce and name:
            name = "\n".join(textwrap.wrap(name, max(width, *map(len, name.split()), 1)))
        table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)


def _looks_numeric(text: str) -> bool:
    return not text or text[:1].isdigit() or text[:1] in "+-."


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
