"""The labels of a validation set without class folders: from Tiny ImageNet's, Kaggle's or the devkit's files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from .dataset import DatasetError

ANNOTATIONS = "val_annotations.txt"
SOLUTION = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def val_labels(root: Path, folder: Path | None, trained: list[str] | None, names: list[str],
               ) -> tuple[list[str], dict[str, int]]:  # fmt: skip
    """Class names, and the label of every file name; from whichever of the known files is there.

    `trained` are the classes in the order of the training split, where there is one.
    """
    class_of = _classes_of_files(root, folder, names)
    classes = trained or sorted(set(class_of.values()))
    position = {name: i for i, name in enumerate(classes)}
    if missing := [n for n in names if n not in class_of]:
        raise DatasetError(f"{len(missing)} validation images have no label, {missing[0]} among them.")
    if unknown := sorted({class_of[n] for n in names} - position.keys()):
        raise DatasetError(f"Validation labels name classes that train/ does not have: {', '.join(unknown[:5])}.")
    return classes, {n: position[class_of[n]] for n in names}


def label_files(root: Path, folder: Path | None) -> list[Path]:
    """Those there of the files that `val_labels` may read."""
    devkit = [place / name for place in _devkit_folders(root) for name in (GROUND_TRUTH, "meta.mat")]
    solutions = [above / SOLUTION for above in (root, *root.parents[:3])]  # Kaggle's lies above its folders
    files = [*([folder / ANNOTATIONS] if folder else []), *solutions, *devkit, root / f"{DEVKIT}.tar.gz"]
    return [file for file in files if file.is_file()]


def _classes_of_files(root: Path, folder: Path | None, names: list[str]) -> dict[str, str]:
    for file in label_files(root, folder):
        if file.name == ANNOTATIONS:  # Tiny ImageNet: name <tab> class <tab> box
            rows = [line.split("\t") for line in _text(file).split("\n")]
            return {row[0]: row[1].strip() for row in rows if len(row) >= 2}
        if file.name == SOLUTION:  # Kaggle: ImageId,"class x y x y ..."
            try:
                table = [row for row in csv.reader(_text(file).splitlines()) if len(row) >= 2]
            except csv.Error as error:
                raise DatasetError(f"{file} cannot be read ({error}); copy it again.") from error
            return {f"{image}.JPEG": boxes.split()[0] for image, boxes, *_ in table if boxes.strip()}
    return _devkit_classes(root, names)


def _text(file: Path) -> str:
    return file.read_text("utf-8", "surrogateescape")


def _devkit_classes(root: Path, names: list[str]) -> dict[str, str]:
    """The devkit gives one number a line, for the images in order of their names; meta.mat names the numbers."""
    truth = _devkit_file(root, GROUND_TRUTH)
    if truth is None:
        wanted = f"{ANNOTATIONS}, {SOLUTION}, {GROUND_TRUTH} or {DEVKIT}.tar.gz"
        raise DatasetError(f"The validation images in {root} have no labels. Put one of these there: {wanted}.")
    answers = truth.decode("utf-8", "surrogateescape").split()
    if len(answers) != len(names):
        raise DatasetError(f"{GROUND_TRUTH} has {len(answers)} lines for {len(names)} validation images in {root}.")
    if all(a.isdecimal() for a in answers):
        wnids = _devkit_wnids(root)
        if out := sorted(set(answers) - wnids.keys()):
            raise DatasetError(f"{GROUND_TRUTH} has numbers that meta.mat does not name, {out[0]} among them.")
        answers = [wnids[a] for a in answers]
    return dict(zip(sorted(names), answers, strict=True))


def _devkit_wnids(root: Path) -> dict[str, str]:
    """Names of the numbers, as both are written."""
    meta = _devkit_file(root, "meta.mat")
    if meta is None:
        hint = f"Put {DEVKIT}.tar.gz (or its data/meta.mat) into {root}."
        raise DatasetError(f"{GROUND_TRUTH} numbers the classes, and only the devkit's meta.mat names them. {hint}")
    try:  # in a process of its own: a damaged file can crash scipy
        child = subprocess.run([sys.executable, "-c", READ_META], input=meta, capture_output=True, timeout=60)
        return dict(json.loads(child.stdout))
    except (subprocess.TimeoutExpired, ValueError) as error:  # it said nothing, or nonsense
        raise DatasetError(f"The devkit's meta.mat in {root} cannot be read; copy it again.") from error


READ_META = """
import io, json, sys
from scipy.io import loadmat
synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True, struct_as_record=True)["synsets"]
print(json.dumps([[str(int(s["ILSVRC2012_ID"])), str(s["WNID"])] for s in synsets.reshape(-1)]))
"""


def _devkit_folders(root: Path) -> list[Path]:
    return [root, root / DEVKIT / "data", root / DEVKIT, root / "data", root / "val"]


def _devkit_file(root: Path, name: str) -> bytes | None:
    for folder in _devkit_folders(root):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    if (archive := root / f"{DEVKIT}.tar.gz").is_file():
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    if member.isfile() and member.name.rsplit("/", 1)[-1] == name:
                        stream = tar.extractfile(member)
                        return stream.read() if stream else None
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"The archive {archive} cannot be read ({error}); copy it again.") from error
    return None


WORD_FILES = ("words.txt", "synset_words.txt", "LOC_synset_mapping.txt")  # Tiny ImageNet's, Caffe's, Kaggle's


def class_words(root: Path, classes: Sequence[str]) -> dict[str, str]:
    """What people call the classes, where a file in the data set's folder or just above says so.

    Each line is a class and its words, with a tab or a space between.
    """
    for above in (root, *root.parents[:3]):
        for name in WORD_FILES:
            if (path := above / name).is_file():
                lines = (line.split(None, 1) for line in path.read_text(errors="replace").splitlines())
                words = {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}
                return {c: words[c] for c in classes if c in words}
    return {}
