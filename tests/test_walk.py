"""Links, pipes and locked folders: the walk ends, each is listed once, and none is opened.

Root may read everything, so what may not be read is tried in a child process without that right.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from planting import plant_named as plant

from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import from_files, open_dataset
from alexnet.pipeline.dataset.regular import NotRegular, open_regular
from alexnet.pipeline.dataset.walk import Walk
from alexnet.pipeline.decode.bad_images import BadImage
from alexnet.pipeline.decode.read import read_image
from alexnet.pipeline.errors import DatasetError

pytestmark = pytest.mark.usefixtures("time_limit")


def reasons(dataset: Dataset) -> dict[str, str]:
    """Of each image that cannot be read, why."""
    found = {}
    for i in range(len(dataset)):
        try:
            dataset.read(i)
        except (OSError, ValueError) as error:
            found[dataset.name(i)] = str(error)
    return found


def spoil(folder: Path) -> dict[str, str]:
    """Everything that is no file, in one folder, and what is to be said of each."""
    os.mkfifo(folder / "fifo.JPEG")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.JPEG"))
    (folder / "device.JPEG").symlink_to("/dev/zero")
    (folder / "folder.JPEG").mkdir()
    (folder / "dangling.JPEG").symlink_to("gone.JPEG")
    (folder / "loop.JPEG").symlink_to("loop.JPEG")
    (folder / "here").symlink_to(".")
    (folder / "up").symlink_to("../..")
    (folder / "part").symlink_to("/gone/part")
    return {
        "fifo.JPEG": "a FIFO, not a regular file",
        "socket.JPEG": "a socket, not a regular file",
        "device.JPEG": "a device, not a regular file",
        "folder.JPEG": "a folder, not a regular file",
        "dangling.JPEG": "a symbolic link to gone.JPEG, which cannot be followed (No such file or directory)",
        "loop.JPEG": "a symbolic link to loop.JPEG, which cannot be followed (Too many levels of symbolic links)",
        "here": "a symbolic link to a folder, not a regular file",
        "up": "a symbolic link to a folder, not a regular file",
        "part": "a symbolic link to /gone/part, which cannot be followed (No such file or directory)",
    }


def test_what_is_no_file_is_a_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = spoil(plant(tmp_path, "train/a/0.JPEG", "train/a/sub/1.JPEG") / "train/a")
    opened, opens = list[str](), os.open

    def noted(path: str, flags: int) -> int:
        opened.append(Path(path).name)
        return opens(path, flags)

    monkeypatch.setattr(os, "open", noted)
    dataset = open_dataset(tmp_path, "train")
    assert reasons(dataset) == {f"train/a/{name}": why for name, why in expected.items()}
    assert opened == ["0.JPEG", "1.JPEG"]
    with pytest.raises(BadImage, match="not a regular file"):
        read_image(dataset, next(i for i in range(len(dataset)) if "fifo" in dataset.name(i)), 10**6)


def test_a_flat_validation_set_with_what_is_no_file(tmp_path: Path) -> None:
    expected = spoil(plant(tmp_path, "val/0.JPEG", "train/a/0.JPEG") / "val")
    (tmp_path / "val/part").unlink()
    (tmp_path / "val/here").unlink()
    (tmp_path / "val/up").unlink()
    names = ["0.JPEG", *(name for name in expected if name.endswith("JPEG"))]
    (tmp_path / "val/val_annotations.txt").write_text("".join(f"{name}\ta\n" for name in names))
    (tmp_path / "val/folder.JPEG").rmdir()
    found = reasons(open_dataset(tmp_path, "val"))
    assert len(found) == len(names) - 2


def test_a_file_that_became_something_else(tmp_path: Path) -> None:
    dataset = open_dataset(plant(tmp_path, "train/a/0.JPEG"), "train")
    (tmp_path / "train/a/0.JPEG").unlink()
    os.mkfifo(tmp_path / "train/a/0.JPEG")
    assert reasons(dataset) == {"train/a/0.JPEG": "a FIFO, not a regular file"}


def test_links_to_files_and_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    plant(tmp_path, "store/b/1.JPEG", "store/2.JPEG", "train/a/0.JPEG")
    (tmp_path / "train/b").symlink_to("../store/b")
    (tmp_path / "train/a/more").symlink_to("../../store")
    (tmp_path / "train/a/2.JPEG").symlink_to("../../store/2.JPEG")
    dataset = open_dataset(tmp_path, "train")
    assert reasons(dataset) == {}
    expected = "a/0.JPEG a/2.JPEG a/more/2.JPEG a/more/b/1.JPEG b/1.JPEG".split()
    assert [dataset.name(i)[6:] for i in range(len(dataset))] == expected


def test_links_round_in_a_circle_through_other_places(tmp_path: Path) -> None:
    """From a to b and back, and to a folder far above, by way of a train/ that is a link itself."""
    plant(tmp_path, "store/t/a/0.JPEG", "store/t/b/1.JPEG")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train").symlink_to("../store/t")
    (tmp_path / "store/t/a/to-b").symlink_to("../b")
    (tmp_path / "store/t/b/to-a").symlink_to("../a")
    (tmp_path / "store/t/b/up").symlink_to(tmp_path / "store")
    dataset = open_dataset(tmp_path / "data", "train")
    expected = "a/0.JPEG a/to-b/1.JPEG a/to-b/to-a a/to-b/up b/1.JPEG b/to-a/0.JPEG b/to-a/to-b b/up".split()
    assert [dataset.name(i)[6:] for i in range(len(dataset))] == expected


def test_folders_deeper_than_calls_can_be_nested(tmp_path: Path) -> None:
    plant(tmp_path, "/".join(["train", *"d" * 200, "0.JPEG"]))
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert len(open_dataset(tmp_path, "train")) == 1
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("target", ["gone", ".", "loop"])
def test_a_link_in_place_of_a_class_folder(tmp_path: Path, target: str) -> None:
    (plant(tmp_path, "train/a/0.JPEG") / "train/loop").symlink_to(target)
    with pytest.raises(DatasetError, match=r"train/loop is a symbolic link that leads nowhere or in a circle. A cl"):
        open_dataset(tmp_path, "train")


def test_shards_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    os.mkfifo(tmp_path / "train/0.tar")
    with pytest.raises(DatasetError, match=r"train/0.tar is a FIFO, not a regular file"):
        open_dataset(tmp_path, "train")


def test_predict_is_given_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("gone")
    for name, why in ((".", "a folder"), ("a.jpg", "a FIFO"), ("b.jpg", "a symbolic link to gone")):
        with pytest.raises(DatasetError, match=f"^{tmp_path / name} is {why}.*Give image files"):
            from_files([tmp_path / name])


def test_a_closed_descriptor_for_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may become a FIFO between the look at it and the opening."""
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr("alexnet.pipeline.dataset.regular.check_regular", lambda path: None)
    with pytest.raises(NotRegular, match="a FIFO"):
        open_regular(tmp_path / "fifo")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


WITHOUT_RIGHTS = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_walk import open_dataset, reasons
try:
    print(json.dumps(reasons(open_dataset(Path(sys.argv[1]), "train"))))
except ValueError as error:
    print(json.dumps(str(error)))
"""


def found_without_rights(root: Path) -> dict[str, str] | str:
    """What cannot be read, or the error, where root too may read only what it is allowed to."""
    command = [*WITHOUT_RIGHTS, sys.executable, "-c", SCRIPT, str(root), str(Path(__file__).parent)]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, str] | str = json.loads(child.stdout)
    return found


@pytest.mark.skipif(bool(WITHOUT_RIGHTS) and not shutil.which("setpriv"), reason="root, and no setpriv")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    root = plant(tmp_path, "train/a/0.JPEG", "train/a/1.JPEG", "train/a/sub/2.JPEG", "train/b/3.JPEG")
    (root / "train/a/1.JPEG").chmod(0)
    (root / "train/a/sub").chmod(0)
    assert found_without_rights(root) == {
        "train/a/1.JPEG": f"[Errno 13] Permission denied: '{root}/train/a/1.JPEG'",
        "train/a/sub": "a folder without read permission",
    }
    (root / "train/b").chmod(0)
    expected = f"The folder {root}/train/b cannot be read (Permission denied). Allow reading"
    assert expected in found_without_rights(root)
    for path in ("train/b", "train/a/sub"):
        (root / path).chmod(0o755)


def test_a_file_that_comes_while_its_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be missing from the list, so the list must count as old."""
    scan = os.scandir
    os.utime(plant(tmp_path, "0.JPEG"), ns=(10**18, 10**18))

    def overtaken(folder: str) -> Any:
        entries = scan(folder)
        plant(tmp_path, "1.JPEG")
        return entries

    monkeypatch.setattr(os, "scandir", overtaken)
    walk = Walk()
    assert list(walk.images(tmp_path))
    assert walk.folders == {str(tmp_path): 10**18}


def test_files_that_are_no_images_are_counted_once(tmp_path: Path) -> None:
    plant(tmp_path, *"a/0.JPEG a/b.tif a/b.gif a/c/d.tif a/._0.JPEG a/__MACOSX/0.JPEG a/a_boxes.txt a/k.txt".split())
    walk = Walk([tmp_path / "a/k.txt"])
    assert [Path(path).name for path, _ in walk.images(tmp_path / "a")] == ["0.JPEG"]
    assert walk.left_out == {".tif": 2, ".gif": 1}
    assert set(walk.folders) == {str(tmp_path / "a"), str(tmp_path / "a/c")}
