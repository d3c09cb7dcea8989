"""The only way out for text, to a terminal, a log or a pipe.

File names, class names and the error texts of libraries come from outside. They may hold line breaks, escape sequences,
invalid UTF-8, or what rich takes for markup or emoji. So all text passes through `printable` here, and all consoles and
columns are made here, without markup. Ruff refuses others elsewhere.
"""

from __future__ import annotations

import io
import logging
import re
import sys

import click
from rich.console import Console
from rich.progress import TextColumn

# Control characters, line separators, marks that turn the direction of writing, and surrogates (undecodable bytes).
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text as one harmless line: `\n` for a line break, `\x1b[31m` for a colour, `\xe9` for a byte."""
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # an undecodable byte of a file name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console that prints text as it is."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def text_column(template: str) -> TextColumn:
    """Return a column of a progress bar that prints text as it is."""
    return TextColumn(template, markup=False)


error_console = plain_console(stderr=True)


def show(text: str = "") -> None:
    """Print a line of a result on standard output."""
    print(printable(text))


def show_json(text: str) -> None:
    """Print JSON, which has its own escapes, on standard output."""
    print(text)


def flush() -> None:
    """Write what is left of a result, while a full disk can still be reported."""
    print(end="", flush=True)  # also where standard output is closed


def say(text: str = "") -> None:
    """Print a line for people on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


class LogFormatter(logging.Formatter):
    """Format a record as one line; a traceback after it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        return printable(super().formatMessage(record))


def set_up() -> None:
    """Prepare the logger and the streams for a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the locale cannot write is no reason to fail
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter())
    logger = logging.getLogger("alexnet")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def make_printable(error: click.ClickException) -> click.ClickException:
    """Return the error with a printable message: click prints it as it is."""
    error.message = printable(error.message)  # type: ignore[misc]  # click declares it final, but has no other hook
    return error
