"""Class probabilities in a file, so that networks can be averaged later without being run again.

    A.npy    float32 (n, classes): a row for each image of the data set, in its order; NaN where it cannot be used
    A.json   what the rows and columns are, and which networks they come from

`alexnet evaluate` writes one while `evaluate.py` runs, which takes such files in the place of networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..pipeline.dataset.images import Dataset, Listing
from ..pipeline.dataset.selection import EVERYTHING, Selection
from ..pipeline.errors import UserError
from ..pipeline.files import naming, whole_file, write_atomically
from ..pipeline.plan import share
from .checkpoint import selection_in
from .parallel.mesh import Mesh

ENDING = ".npy"
FORMAT, VERSION = "alexnet-probabilities", 1
BLOCK = 4096  # rows that ranks send at a time
METADATA = {
    "dataset_fingerprint": str,
    "classes": list,  # of the columns
    "images": list,  # of the rows
    "labels": list,  # of the rows, as columns
    "checkpoints": list,
    "views": int,
    "bad": dict,  # images without probabilities, with reasons
}


class ProbabilityRecorder:
    """Keeps the probabilities of a dp rank's share of the images until all are written: one copy over all ranks."""

    def __init__(self, num_images: int, num_classes: int, mesh: Mesh) -> None:
        self._mesh, self._shape = mesh, (num_images, num_classes)
        self._first = share(num_images, mesh.dp.index, mesh.dp.size).start
        self._rows = torch.full((self._count(mesh.dp.index) if mesh.mp.index == 0 else 0, num_classes), torch.nan)

    def _count(self, dp_rank: int) -> int:
        rows = share(self._shape[0], dp_rank, self._mesh.dp.size)
        return rows.stop - rows.start

    def add(self, indices: NDArray[np.int64], probability: Tensor) -> None:
        """Images by their places in the data set (b,), and their class probabilities (b, classes), on any device."""
        if self._mesh.mp.index == 0:  # the others know the same
            self._rows[torch.from_numpy(indices - self._first)] = probability.float().cpu()

    def write(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the file and, once it is complete, `metadata` beside it; every rank must call this, once."""
        if self._mesh.mp.index:
            return
        if not self._mesh.is_main:
            for _ in self._blocks():
                pass
            return
        path.with_suffix(".json").unlink(missing_ok=True)  # it would describe other numbers
        with self._file(path) as file:
            begin, row_bytes = file.tell(), 4 * self._shape[1]
            for row, block in self._blocks():
                file.seek(begin + row * row_bytes)
                file.write(block.numpy().tobytes())
        text = json.dumps({"format": FORMAT, "version": VERSION, **metadata})
        write_atomically(path.with_suffix(".json"), text.encode())

    @contextmanager
    def _file(self, path: Path) -> Iterator[BinaryIO]:
        """An array file of which the header is written."""
        header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
        with naming(path), whole_file(path, 4 * self._shape[0] * self._shape[1]) as file:
            np.lib.format.write_array_header_1_0(file, header)
            yield file

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The rows of all dp ranks, a few at a time on the CPU, each with the place of its first."""
        (num_images, num_classes), dp = self._shape, self._mesh.dp
        most = -(-num_images // dp.size)
        for start in range(0, most, BLOCK):
            mine = self._rows[start : start + BLOCK]
            padded = torch.cat([mine, mine.new_zeros((min(BLOCK, most - start) - len(mine), num_classes))])
            for rank, rows in enumerate(dp.gather(padded.to(self._mesh.device)).cpu()):
                first = share(num_images, rank, dp.size).start + start
                yield first, rows[: self._count(rank) - start]


def require_place(path: Path) -> None:
    """Raise UserError where the .json beside a file to write is not one that this would replace."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        return
    try:
        _read_metadata(beside)
    except UserError as error:
        raise UserError(f"{error} It would be replaced: choose another name for {path.name}.") from None


@dataclass(frozen=True, eq=False)
class SavedProbabilities:
    """A file, in the place of the networks that it comes from."""

    path: Path
    rows: NDArray[np.float32]  # (n, classes), on disk until needed
    classes: tuple[str, ...]
    images: Sequence[str]
    labels: Sequence[int]
    checkpoints: Sequence[str]
    views: int
    bad: Mapping[int, str]  # images without probabilities, with reasons
    fingerprint: str  # of the data set
    selection: Selection  # which of its images they are; files of whole data sets do not tell
    published: ClassVar[bool] = False

    @property
    def num_networks(self) -> int:
        return len(self.checkpoints)

    def rows_of(self, indices: NDArray[np.int64]) -> Tensor:
        """The class probabilities of some images, float64 (b, classes)."""
        rows = torch.from_numpy(self.rows[indices].astype(np.float64))
        if not bool(rows.isfinite().all()):
            raise UserError(f"{self.path} is damaged: some of its numbers are no probabilities. Write it anew.")
        return rows

    def dataset(self) -> Dataset:
        """The images' names and labels, as far as errors need a data set; there are no images in it."""
        listing = Listing()
        for name, label in zip(self.images, self.labels, strict=True):
            listing.add(name, label, 0)
        return replace(listing.dataset(self.path, "val", self.classes), selection=self.selection)


def load_probabilities(
    paths: Sequence[Path], dataset: Dataset | None = None, views: int | None = None
) -> list[SavedProbabilities]:
    """Files, checked to be about one data set, `dataset` where given, and as many views of each image.

    Raises UserError where they are not, or a file is missing or damaged.
    """
    found = [_load(path) for path in paths]
    for one in found:
        if dataset is not None and one.fingerprint != dataset.fingerprint:
            names = [dataset.name(i) for i in range(len(dataset))]
            raise UserError(_other_images(one, names, f"the {dataset.split} split of {dataset.where}"))
        if one.fingerprint != found[0].fingerprint:
            raise UserError(_other_images(one, found[0].images, str(found[0].path)))
        if one.views != (wanted := views or found[0].views):
            other = f"there are {found[0].views} in {found[0].path}" if views is None else f"--views is {views}"
            raise UserError(f"{one.path} has the average of {one.views} views, and {other}: use {wanted} for all.")
    return found


def _other_images(one: SavedProbabilities, names: Sequence[str], where: str) -> str:
    """How the images of a file differ from those of another source."""
    if len(names) != len(one.images):
        difference = f"there are {len(one.images)} images in it, and {len(names)} in {where}"
    else:
        pairs = zip(one.images, names, strict=True)
        first = next((f"it has {a} where {where} has {b}" for a, b in pairs if a != b), None)
        difference = first or f"the images, labels or classes of {where} have changed"
    return f"{one.path} is about another data set: {difference}. Average networks on the same images."


def _load(path: Path) -> SavedProbabilities:
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise UserError(f"There is no {file}: --save-probabilities writes a {ENDING} and a .json beside it.")
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    about = _read_metadata(beside)
    described = len(about["images"]), len(about["classes"])
    if (rows.shape, rows.dtype) != (described, np.float32):
        found = f"{rows.dtype} {rows.shape} in {path}"
        raise UserError(f"{beside} describes float32 {described}, and there is {found}: they do not belong together.")
    return SavedProbabilities(
        path,
        rows,
        classes=tuple(about["classes"]),
        images=about["images"],
        labels=about["labels"],
        checkpoints=about["checkpoints"],
        views=about["views"],
        bad={i: about["bad"][name] for i, name in enumerate(about["images"]) if name in about["bad"]},
        fingerprint=about["dataset_fingerprint"],
        selection=selection_in(beside, about),
    )


def read_selection(path: Path) -> Selection:
    """Return of which images of their data set a file's probabilities are; all if it is not one."""
    try:
        beside = path.with_suffix(".json")
        return selection_in(beside, _read_metadata(beside))
    except Exception:  # whatever is wrong with the file, loading it says so
        return EVERYTHING


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
        fits = (about["format"], about["version"]) == (FORMAT, VERSION)
        fits &= all(isinstance(about[key], kind) for key, kind in METADATA.items())
        fits = fits and len(about["labels"]) == len(about["images"]) and len(about["checkpoints"]) > 0
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise UserError(f"{path} is not what this version's --save-probabilities writes beside a {ENDING}.")
    return about
