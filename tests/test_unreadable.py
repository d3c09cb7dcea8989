"""Files that are no network of ours, given for one: the error says what they are, and what can be read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import invoke

from alexnet.train.unreadable import READABLE

LAYER = torch.nn.Linear(2, 2)


def write(path: Path) -> None:
    """Write a file of the kind that its name says."""
    match path.name:
        case "other.npz":
            np.savez(path, a=np.zeros(3))
        case "one.npz":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
        case "notes.zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("notes.txt", "none")
        case "old.ckpt":
            torch.save(LAYER.state_dict(), path, _use_new_zipfile_serialization=False)
        case "net.ckpt" | "net.pth":
            torch.save(LAYER.state_dict(), path)
        case _:
            path.write_bytes({"x.h5": b"\x89HDF\r\n", "run.tar.gz": b"\x1f\x8b"}.get(path.name, b""))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.onnx", "not an alexnet checkpoint, but an ONNX graph, which is written but not read"),
        ("cat.JPEG", "not an alexnet checkpoint, but an image"),
        ("other.npz", "not an alexnet checkpoint, but arrays of another program"),
        ("one.npz", "not an alexnet checkpoint, but a single array of numpy's"),
        ("notes.zip", "not an alexnet checkpoint, but a zip archive"),
        ("empty.npz", "not an alexnet checkpoint, but an empty file"),
        ("x.h5", "not an alexnet checkpoint, but an HDF5 file, as Keras writes"),
        ("run.tar.gz", "not an alexnet checkpoint, but compressed by gzip"),
        ("old.ckpt", "not an alexnet checkpoint, but a pickle, which is never loaded"),
        (
            "net.ckpt",
            "not an alexnet checkpoint, but a file of torch's: torchvision's weights are read, as .pth",
        ),
        ("net.pth", "not torchvision's alexnet: bias is unknown"),
    ],
)
def test_the_error_says_what_a_file_is_and_what_can_be_read(
    name: str, said: str, colour_tree: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    commands = [
        ("evaluate", path, colour_tree),
        ("predict", path, colour_tree / "val/red/0.JPEG"),
        ("train", colour_tree, "--preset", "owt", "--width", 0.02, "--init-from", path, "--run", tmp_path / "run"),
    ]
    for words in commands if name in ("net.onnx", "net.pth") else commands[1:2]:
        error = invoke(*words, "--device", "cpu", code=1).stderr.splitlines()[-1]
        assert error.startswith(f"Error: {path}: ")
        hint = READABLE if said.startswith("not an") else "No other network is read from a .pth"
        assert error.endswith(f"{said}. {hint}")
