"""The demo types what a user would type, whatever its folder is called."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from alexnet.cli import main
from alexnet.console.commands import demo


def test_its_commands_are_those_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, typed = tmp_path / "a folder's name", list[list[str]]()

    def record(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        typed.append(words)
        return subprocess.CompletedProcess(words, 0)

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
