"""Files that are whole or not there, and folders with one writer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from alexnet.pca.moments import RgbMoments
from alexnet.pca.state import PassState
from alexnet.pca.stats import RgbStats
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.index import save_index
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.files import only_writer, whole_file, write_atomically, write_figure
from alexnet.pipeline.pack import PackOptions, pack
from alexnet.pipeline.synthetic.generate import generate_tree
from alexnet.train.checkpoint import Checkpoint, save
from alexnet.train.config import Config
from alexnet.train.history import History
from alexnet.train.parallel.mesh import Mesh
from alexnet.train.starts import Start


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


def test_two_that_write_the_same_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Under the same process number, as in two containers with one cache."""
    path = tmp_path / "file"
    with whole_file(path) as one:
        one.write(b"one, ")
        with whole_file(path) as other:
            other.write(b"other")
        assert path.read_bytes() == b"other"
        one.write(b"whole")
    assert path.read_bytes() == b"one, whole"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_file_that_will_not_fit_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, whole_file(tmp_path / "x", 2**62):
        pass
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def write_stats(folder: Path, dataset: Dataset) -> None:
    moments = RgbMoments.zero(4)
    moments.update(np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3))
    RgbStats.from_moments(moments, decode="exact, cpu", parts=(), bad_files=()).save(folder / "stats.json")


def write_run(folder: Path, dataset: Dataset) -> None:
    start = Start.now(0, 0, dataset, dataset, Mesh(), 1, "plain")
    with History(folder).opened(Config(), start, None):
        pass


WRITERS: dict[str, Callable[[Path, Dataset], object]] = {
    "bytes": lambda folder, dataset: write_atomically(folder / "x", b"12"),
    "checkpoint": lambda folder, dataset: save(
        folder / "new/x.npz",
        Checkpoint(config=Config(), classes=["a"], epoch=0, step=0, model={}, arrays={"mean": np.zeros(100_000)}),
    ),
    "index": lambda folder, dataset: save_index(folder / "x.index", "stamp", dataset),
    "pack": lambda folder, dataset: pack(dataset, folder, PackOptions(), Settings(threads=1)),
    "pass": lambda folder, dataset: PassState.fresh(0, 2).save(folder / "x.npz", "key"),
    "run folder": write_run,
    "statistics": write_stats,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_renamed_is_on_disk_and_so_is_its_name(
    writer: str, tmp_path: Path, tiny_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str, int]] = []  # what, which file, how long it was
    sync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        calls.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink()), os.fstat(descriptor).st_size))
        sync(descriptor)

    def record_replace(source: Any, target: Any) -> None:
        calls.append((str(source), str(target), Path(source).stat().st_size))
        replace(source, target)

    dataset = open_dataset(tiny_tree, "val")
    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    WRITERS[writer](tmp_path, dataset)
    renamed = [i for i, (call, *_) in enumerate(calls) if call != "sync"]
    assert renamed
    for i in renamed:
        source, target, size = calls[i]
        assert calls[i - 1] == ("sync", source, size)
        assert calls[i + 1][:2] == ("sync", str(Path(target).parent))


def test_generated_images_are_on_disk_before_their_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []
    monkeypatch.setattr(os, "sync", lambda: there.append((tmp_path / "tree").exists()))
    generate_tree(tmp_path / "tree", train_per_class=1, val_per_class=1, processes=1)
    assert there == [False]


def test_a_file_system_that_syncs_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def only_files(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_atomically(tmp_path / "x", b"12")
    assert (tmp_path / "x").read_bytes() == b"12"


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


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_other_writer(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lockless(file: BinaryIO, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", lockless)
    with only_writer(tmp_path, ValueError("ours")):
        (tmp_path / "x").touch()
    assert f"{tmp_path} cannot be locked ({os.strerror(number)})" in caplog.text


def test_a_figure_that_cannot_be_drawn_leaves_what_was_there(tmp_path: Path) -> None:
    class Broken:
        def savefig(self, file: BinaryIO, format: str) -> None:
            assert format == "png"
            file.write(b"half")
            raise ValueError("a bug")

    path = tmp_path / "plot.PNG"
    path.write_bytes(b"earlier")
    with pytest.raises(ValueError, match="a bug"):
        write_figure(path, Broken())
    assert path.read_bytes() == b"earlier"
    assert [*tmp_path.iterdir()] == [path]
