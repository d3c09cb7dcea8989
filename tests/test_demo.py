"""The demo types what a user would type, whatever its folder is called."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from alexnet.cli import main
from alexnet.console.commands import demo


@pytest.mark.parametrize("begun", [False, True])
def test_its_commands_are_those_it_shows(begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once begun, `train` would refuse to begin again in the same folder."""
    folder, typed = tmp_path / "a folder's name", list[list[str]]()

    def record(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        typed.append(words)
        return subprocess.CompletedProcess(words, 0)

    if begun:
        (folder / "run/checkpoints").mkdir(parents=True)
        (folder / "run/checkpoints/step-7.npz").touch()
    monkeypatch.setattr(demo, "generate_tree", lambda root, **_: root)
    monkeypatch.setattr(subprocess, "run", record)
    result = CliRunner().invoke(main, ["demo", "--folder", str(folder), "--threads", "1"])
    assert result.exit_code == 0, result.output
    shown = [shlex.split(line[2:]) for line in result.stderr.splitlines() if line.startswith("$ ")]
    assert [words[:3] for words in typed] == [[sys.executable, "-m", "alexnet.cli"]] * len(shown)
    assert [["alexnet", *words[3:]] for words in typed] == shown
    assert [words[1] for words in shown] == [
        "pack",
        "pca-stats",
        "train",
        "evaluate",
        "evaluate",
        "bench-loader",
        "report",
    ]
    assert str(folder / "data") in shown[0]
    assert {"--preset", "--lr", str(folder / "run")} <= set(shown[2])
    assert ("--resume" in shown[2]) == begun


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.jpg").touch()
    result = CliRunner().invoke(main, ["demo", "--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert re.search(r"^Error: .*data was not generated here .* Choose another folder", result.stderr, re.MULTILINE)
