"""From an exception to what the user sees: one line for what the user can fix, a traceback for a bug."""

from __future__ import annotations

import errno
from typing import Any

import click

from ..pipeline.errors import UserError
from ..train.parallel.ranks import LOST, RankLost, leave_silently, reports_failure
from .terminal import flush, make_printable, printable, say

ARGUMENTS = "alexnet.arguments"  # key in a click context's `meta`


class Commands(click.Group):
    """A click group that reports known failures in one line and lets bugs keep their traceback.

    On a mesh, only the first rank to fail says why. `ctx.meta[ARGUMENTS]` holds the arguments as typed.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        typed = list(args)  # click empties `args`
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise make_printable(error) from None
        ctx.meta[ARGUMENTS] = typed
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            flush()
            return result
        except KeyboardInterrupt:
            if reports_failure():
                say("Stopped by Ctrl-C.")
            ctx.exit(130)
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.UsageError as error:
            raise make_printable(error) from None
        except Exception as error:
            if not reports_failure():
                leave_silently()
            if isinstance(error, BrokenPipeError):
                raise  # whoever reads has enough, as `head` has: click ends without a word
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
    """Return what to tell the user, or None if the error is a bug, ours or a library's."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return f"The disk is full{where}. Free some space and start again; complete files are intact. ({error})"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, on a GPU
        return f"Out of memory; lower --batch-size or --width. ({error})"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in ("nvidia", "torch"):
        return f"The package {error.name} is missing. `alexnet doctor` says what to install."
    if isinstance(error, UserError | RankLost):
        return str(error)
    return None
