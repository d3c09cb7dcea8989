"""The doors through which text leaves for a terminal, a log or a pipe.

Names of files and classes come from outside, and so do the reasons that libraries give: they may hold line breaks,
escape sequences, bytes that are no UTF-8, and what rich takes for markup or emoji. So every text passes `printable` at
one of the doors here, and every console and column is made here, without markup. Ruff refuses others elsewhere.
"""

from __future__ import annotations

import io
import logging
import re
import sys

import click
from rich.console import Console
from rich.progress import TextColumn

# Control characters, line separators, what turns the direction of writing, and halves of pairs, which stand for bytes.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text as one line that only prints: `\n` for a line break, `\x1b[31m` for a colour, `\xe9` for a byte."""
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that takes text for text."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def text_column(template: str) -> TextColumn:
    """A column of a progress bar that takes text for text."""
    return TextColumn(template, markup=False)


error_console = plain_console(stderr=True)


def show(text: str = "") -> None:
    """A line of a result, on standard output."""
    print(printable(text))


def show_json(text: str) -> None:
    """A JSON text, which has escapes of its own, on standard output."""
    print(text)


def say(text: str = "") -> None:
    """A line for people, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


class LogFormatter(logging.Formatter):
    """A line for each record; a traceback after it keeps its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        return printable(super().formatMessage(record))


def set_up() -> None:
    """Make the logger and the streams ready for a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale without an e acute is no reason to fail
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logger = logging.getLogger("alexnet")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def make_printable(error: click.ClickException) -> click.ClickException:
    """The error, whose message click will print as it stands."""
    error.message = printable(error.message)  # type: ignore[misc]  # final to click, which has no other hook
    return error
