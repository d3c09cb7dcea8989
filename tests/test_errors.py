"""What the user can put right is one line; a bug keeps its traceback."""

from collections.abc import Callable

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
