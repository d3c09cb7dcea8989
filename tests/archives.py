"""Layouts built by `tarfile` and scipy: no code of ours writes what it reads."""

from __future__ import annotations

import io
import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import planting
import scipy.io

from alexnet.pipeline.dataset.images import Dataset

Files = dict[str, bytes]

WNIDS = ("n03", "n01", "n02")  # ILSVRC2012_ID 1, 2, 3: not in sorted order, as in the real devkit
TRUTH = (2, 3, 1, 1)
VAL_NAMES = [f"ILSVRC2012_val_0000000{i}.JPEG" for i in (1, 2, 3, 4)]
VAL = {name: f"image {name}".encode() for name in VAL_NAMES}
VAL_CLASSES = dict(zip(VAL_NAMES, (WNIDS[i - 1] for i in TRUTH), strict=True))
TRAIN = {f"{w}/{w}_{i}.JPEG": f"{w} {i}".encode() * (i + 1) for w in sorted(WNIDS) for i in (7, 10, 9)}


def plant(root: Path, files: Files, below: str = "") -> Path:
    planting.plant(root / below, files)
    return root


def make_tar(files: Files, mode: Literal["w:", "w:gz"] = "w:", form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@cache
def meta_mat() -> bytes:
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.empty((len(WNIDS) + 1, 1), dtype=fields)
    for i, wnid in enumerate((*WNIDS, "n99")):  # inner nodes of WordNet follow, as in the real file
        synsets[i, 0] = (float(i + 1), wnid, f"word {i}", float(i >= len(WNIDS)))
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"synsets": synsets})
    return stream.getvalue()


def ground_truth() -> bytes:
    return "".join(f"{i}\n" for i in TRUTH).encode()


def listed(dataset: Dataset) -> dict[str, tuple[str, bytes]]:
    """Return base name -> (class, bytes)."""
    names = [dataset.name(i).rpartition("/")[2].rpartition(":")[2] for i in range(len(dataset))]
    assert len(set(names)) == len(names)
    return {n: (dataset.classes[dataset.labels[i]], dataset.read(i).tobytes()) for i, n in enumerate(names)}


EXPECTED_VAL = {name: (VAL_CLASSES[name], VAL[name]) for name in VAL_NAMES}
EXPECTED_TRAIN = {name.split("/")[1]: (name.split("/")[0], content) for name, content in TRAIN.items()}


def tree_of(root: Path) -> set[tuple[str, int]]:
    return {(str(p), p.stat().st_size) for p in root.rglob("*")}


def plant_devkit(root: Path, form: str) -> None:
    devkit = {"data/ILSVRC2012_validation_ground_truth.txt": ground_truth(), "data/meta.mat": meta_mat()}
    named = {f"ILSVRC2012_devkit_t12/{name}": content for name, content in devkit.items()}
    if form == "folder":
        plant(root, named)
    elif form == "files":
        plant(root, {name.rpartition("/")[2]: content for name, content in devkit.items()})
    else:
        (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(
            make_tar({**named, "ILSVRC2012_devkit_t12/readme.txt": b"?"}, "w:gz")
        )


def train_tar(form: int = tarfile.GNU_FORMAT) -> bytes:
    inner = {w: {n.split("/")[1]: c for n, c in TRAIN.items() if n.startswith(w)} for w in WNIDS}
    return make_tar({f"{w}.tar": make_tar(files, form=form) for w, files in inner.items()}, form=form)


def sample(key: str, label: int, form: str) -> Files:
    image = f"<{key}>".encode()
    if form == "cls":
        return {f"{key}.jpg": image, f"{key}.cls": f"{label}\n".encode()}
    if form == "cls first":
        return {f"{key}.cls": str(label).encode(), f"{key}.JPEG": image, f"{key}.txt": b"a caption"}
    return {f"{key}.json": json.dumps({"label": label, "cls": 99}).encode(), f"{key}.png": image}


def shard(first: int, count: int, form: str) -> Files:
    keys = [f"some/dir.v2/{i:06d}" for i in range(first, first + count)]
    return {name: c for i, key in enumerate(keys, first) for name, c in sample(key, (i * 7) % 5, form).items()}
