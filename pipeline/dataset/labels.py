"""The labels of a validation set without class folders, from the files of Tiny ImageNet, Kaggle or the devkit; and the
everyday names of classes.

`layouts.py` lists the images and takes their labels from here.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError
from .classes import text_of, unescape
from .names import is_image

ANNOTATIONS = "val_annotations.txt"
SOLUTION = "LOC_val_solution.csv"
DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def val_labels(root: Path, folder: Path | None, names: Sequence[str]) -> list[str]:
    """Return the class of each image from the first known file that is there; `names` are paths in the data set."""
    for file in label_files(root, folder):
        if file.name == ANNOTATIONS:  # Tiny ImageNet: name <tab> class <tab> box
            rows = (line.split("\t") for line in _text(file).split("\n"))
            return _match(file, [(row[0], row[1].strip()) for row in rows if len(row) >= 2], names)
        if file.name == SOLUTION:  # Kaggle: ImageId,"class x y x y ..."
            try:
                table = [row for row in csv.reader(_text(file).splitlines()) if len(row) >= 2]
            except csv.Error as error:
                raise DatasetError(f"{file} cannot be read ({error}); copy it again.") from error
            return _match(file, [(image, (boxes.split() or [""])[0]) for image, boxes, *_ in table], names)
    return _devkit_classes(root, names)


def label_files(root: Path, folder: Path | None) -> list[Path]:
    """Return the files that `val_labels` may read, if they exist."""
    devkit = [place / name for place in _devkit_folders(root) for name in (GROUND_TRUTH, "meta.mat")]
    solutions = [above / SOLUTION for above in (root, *root.parents[:3])]  # Kaggle's is above its folders
    files = [*([folder / ANNOTATIONS] if folder else []), *solutions, *devkit, root / f"{DEVKIT}.tar.gz"]
    return [file for file in files if file.is_file()]


def _match(file: Path, rows: Sequence[tuple[str, str]], names: Sequence[str]) -> list[str]:
    """Return the class of each image from rows of image and class.

    A row may say `NAME`, `./NAME`, `val/NAME` or `/anywhere/val/NAME`, with another extension or none: the row that
    shares the longest end of the image's path decides.
    """
    ending = defaultdict[str, list[int]](list)  # rows by the ends of their paths
    for i, (path, name) in enumerate(rows):
        for end in _ends(path) if name else ():
            ending[end].append(i)
    found = [next((ending[end] for end in _ends(name) if end in ending), []) for name in names]  # longest end first
    if missing := [name for name, those in zip(names, found, strict=True) if not those]:
        which = f"{len(missing)} of {len(names)} validation images have no label in {file}, {missing[0]} among them"
        raise DatasetError(f"{which}. Add them to it, or remove the images.")
    image_of: dict[int, str] = {}
    for name, those in zip(names, found, strict=True):
        if len(said := sorted({rows[i][1] for i in those})) > 1:
            raise DatasetError(f"{file} calls {name} both {said[0]!r} and {said[1]!r}. Correct it.")
        if (other := image_of.setdefault(those[0], name)) != name:
            raise DatasetError(f"One line of {file} fits both {other} and {name}. Add their folders to it.")
    return [rows[those[0]][1] for those in found]


def _ends(path: str) -> list[str]:
    """`a/b.JPEG`, `a/b`, `b.JPEG`, `b`."""
    parts = path.split("/")
    ends = ["/".join(parts[i:]) for i in range(len(parts))]
    return [form for end in ends for form in (end, end.rpartition(".")[0])] if is_image(path) else ends


def _text(file: Path) -> str:
    return text_of(file.read_bytes())


def _devkit_classes(root: Path, names: Sequence[str]) -> list[str]:
    """Read the devkit: one number a line, for the images in order of their names; meta.mat names the numbers."""
    truth = _devkit_file(root, GROUND_TRUTH)
    if truth is None:
        wanted = f"{ANNOTATIONS}, {SOLUTION}, {GROUND_TRUTH} or {DEVKIT}.tar.gz"
        raise DatasetError(f"The validation images in {root} have no labels. Put one of these there: {wanted}.")
    answers = text_of(truth).split()
    if len(answers) != len(names):
        counts = f"{GROUND_TRUTH} has {len(answers)} lines for {len(names)} validation images in {root}"
        raise DatasetError(f"{counts}. Put all the images there, and nothing else.")
    if all(a.isdecimal() for a in answers):
        wnids = _devkit_wnids(root)
        if out := sorted(set(answers) - wnids.keys()):
            raise DatasetError(f"{GROUND_TRUTH} has numbers that meta.mat does not name, {out[0]} among them.")
        answers = [wnids[a] for a in answers]
    order = sorted(range(len(names)), key=lambda i: names[i].rpartition("/")[2])
    return [answer for _, answer in sorted(zip(order, answers, strict=True))]


def _devkit_wnids(root: Path) -> dict[str, str]:
    """Return the name of each class number; both are strings."""
    meta = _devkit_file(root, "meta.mat")
    if meta is None:
        hint = f"Put {DEVKIT}.tar.gz (or its data/meta.mat) into {root}."
        raise DatasetError(f"{GROUND_TRUTH} numbers the classes, and only the devkit's meta.mat names them. {hint}")
    try:  # in a process of its own: a damaged file can crash scipy
        child = subprocess.run([sys.executable, "-c", READ_META], input=meta, capture_output=True, timeout=60)
        return dict(json.loads(child.stdout))
    except (subprocess.TimeoutExpired, ValueError) as error:  # it printed nothing, or nonsense
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
    """Return the everyday names of classes, if a file in the data set's folder or just above it has them.

    Each of its lines is a class and its words, separated by a tab, or else by a space.
    """
    for above in (root, *root.parents[:3]):
        for name in WORD_FILES:
            if (path := above / name).is_file():
                lines = (line.strip().partition("\t" if "\t" in line else " ") for line in _text(path).split("\n"))
                words = {unescape(key.strip()): text.strip() for key, _, text in lines if text}
                return {c: _printable(words[c]) for c in classes if c in words}
    return {}


def _printable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
