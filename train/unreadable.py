"""What a file is that holds no network which can be read, as far as its name and its first bytes tell.

The readers of trained networks, `checkpoint.py` and `published.py`, say so in their errors, and what could be given.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from ..pipeline.dataset.names import is_image
from ..pipeline.errors import CheckpointError

READABLE = (
    "Give a run folder, a checkpoint (.npz), a .safetensors from `alexnet export`, or the weights of torchvision's "
    "alexnet (.pth, .pt)"
)
BEGINNINGS = {
    b"\x80": "a pickle, which is never loaded",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x93NUMPY": "a single array of numpy's",
    b"\x1f\x8b": "compressed by gzip",
    b"ustar": "a tar archive",
}


def not_ours(path: Path) -> CheckpointError:
    """Return the error about a file that none of the readers knows: what it is, and which kinds they read."""
    kind = kind_of(path)
    return CheckpointError(f"{path}: not an alexnet checkpoint{f', but {kind}' if kind else ''}. {READABLE}")


def kind_of(path: Path) -> str:
    """Say what kind of file it is; empty if there is no telling."""
    if path.suffix.lower() == ".onnx":
        return "an ONNX graph, which is written but not read"
    if is_image(path.name):
        return "an image"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.rpartition("/")[2] == "data.pkl" for name in names):
            return "a file of torch's: torchvision's weights are read, as .pth"
        return "arrays of another program" if any(name.endswith(".npy") for name in names) else "a zip archive"
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file"
    return next((kind for mark, kind in BEGINNINGS.items() if mark in (start[: len(mark)], start[257:262])), "")
