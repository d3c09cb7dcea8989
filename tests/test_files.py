"""Files that are whole or not there, and folders with one writer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet.pipeline.files import only_writer, whole_file, write_atomically


def test_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with whole_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b", whole")
    assert path.read_bytes() == b"half, whole"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_folder_has_one_writer_and_a_dead_one_is_none(tmp_path: Path) -> None:
    other = f"""
import os, signal
from pathlib import Path
from alexnet.pipeline.files import only_writer
with only_writer(Path({str(tmp_path)!r}), SystemExit("taken")):
    print("holds it", flush=True)
    os.kill(os.getpid(), signal.SIGKILL if {{kill}} else 0)
"""
    with only_writer(tmp_path, ValueError("ours")):
        refused = subprocess.run([sys.executable, "-c", other.format(kill=False)], capture_output=True, text=True)
        assert (refused.stdout, refused.stderr.strip()) == ("", "taken")
        with pytest.raises(ValueError, match="ours"), only_writer(tmp_path, ValueError("ours")):
            pass
    killed = subprocess.run([sys.executable, "-c", other.format(kill=True)], capture_output=True, text=True)
    assert (killed.stdout, killed.returncode) == ("holds it\n", -9)
    with only_writer(tmp_path, ValueError("ours")):
        pass
