"""What the user can put right is one line; a bug keeps its traceback."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from alexnet.cli import main
from alexnet.pipeline.errors import NoSplit


@pytest.mark.parametrize(
    "bug",
    [
        lambda: np.zeros(3) + np.zeros(4),
        lambda: int("x"),
        lambda: list(zip([1], [], strict=True)),
        lambda: dict[str, int]()["key"],
        lambda: np.zeros(3).reshape(2, 2),  # raised by C, which has no Python frame
    ],
)
def test_a_bug_keeps_its_traceback(bug: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.pipeline.machine.doctor.diagnose", bug)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError | KeyError)
    assert result.output == ""


def test_a_user_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NoSplit("No val split.\nAnother line")

    monkeypatch.setattr("alexnet.pipeline.machine.doctor.diagnose", refuse)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert result.output == "Error: No val split.\\nAnother line\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    """`head` closes the pipe before the table is printed; the shell passes its exit code on."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "alexnet.cli", "train", "--describe"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_result_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is short: Python would write it at the very end."""
    monkeypatch.setattr("alexnet.pipeline.machine.doctor.diagnose", list)
    with suppress(OSError), Path("/dev/full").open("w") as full:  # it cannot be closed in peace either
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit, match="1"):
            main(["doctor", "--json"])
    assert re.fullmatch(r"Error: The disk is full.*\n", capsys.readouterr().err)
