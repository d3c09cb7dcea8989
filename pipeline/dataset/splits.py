"""Which folders and archives of a data set hold which split, by their names.

`layouts.py` comes next, and looks into them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from .images import Split
from .names import SPLIT_NAMES, is_hidden, split_word

ILSVRC_TARS: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
TEST = SPLIT_NAMES["val"][-1]

Item = TypeVar("Item")


def kaggle_root(root: Path) -> Path:
    """Return the folder that holds the splits; Kaggle's download keeps them three levels down."""
    below = root / "ILSVRC" / "Data" / "CLS-LOC"
    return below if below.is_dir() else root


def split_folder(root: Path, split: Split) -> Path | None:
    """Return the folder that holds a split's images, whatever the case of its name."""
    names = SPLIT_NAMES[split]
    folders = [path for path in root.iterdir() if path.name.lower() in names and path.is_dir()]
    return min(folders, key=lambda path: (names.index(path.name.lower()), not path.name.islower()), default=None)


def archives_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name) and not path.is_dir())


def archives_of_split(root: Path, split: Split) -> list[Path]:
    """Return the original archive, or the shards named by the first of the split's words that names any."""
    if (original := root / ILSVRC_TARS[split]).is_file():
        return [original]
    return chosen_by_word({tar: split_word(tar.stem) for tar in archives_in(root)}, split)


def is_of_test(file: Path, split: Split) -> bool:
    """Return whether an archive or parquet file is there to validate on only because it, or its folder, is a test's."""
    return split == "val" and TEST in (split_word(file.stem), file.parent.name.lower())


def chosen_by_word(words: Mapping[Item, str | None], split: Split) -> list[Item]:
    """Return what has the first of the split's words that anything has."""
    wanted = next((word for word in SPLIT_NAMES[split] if word in words.values()), None)
    return [item for item, word in words.items() if word and word == wanted]


def nothing_found(root: Path, split: Split) -> str:
    """Write the message about a missing split: what was looked for, what is there, what to do."""
    entries = sorted(_entry_name(path) for path in root.iterdir() if not is_hidden(path.name))
    found = ", ".join(entries[:5]) + (f", ... ({len(entries)} entries)" if len(entries) > 5 else "")
    wanted = f"{split}/<class>/*.JPEG, {ILSVRC_TARS[split]} or shards such as x-{split}-0.tar"
    message = f"No {split} images in {root}. Looked for {wanted}; found: {found or 'an empty folder'}."
    if any(name.endswith(".parquet") for name in entries):
        return f"{message} Begin the names of parquet files with their split: {split}-00000.parquet."
    if split_word(root.name) == root.name.lower():
        return f"{message} Did you mean its parent, {root.parent}?"
    if inner := _subfolder_with(root, split):
        return f"{message} Did you mean {inner}?"
    return f"{message} {how_to_get(root, split)}".strip()


def _entry_name(path: Path) -> str:
    """Name an entry: a folder ends in a slash; compressed archives and dead links say what they are."""
    if path.is_dir():
        return f"{path.name}/"
    if path.name.endswith((".tar.gz", ".tgz")) and split_word(path.name):
        return f"{path.name} (gunzip it)"
    return path.name if path.exists() else f"{path.name} (a link that leads nowhere)"


def _subfolder_with(root: Path, split: Split) -> Path | None:
    """Return a folder right below that holds the split, and is not itself a split's."""
    folders = (path for path in sorted(root.iterdir()) if path.is_dir() and not split_word(path.name))
    return next((path for path in folders if split_folder(path, split) or archives_of_split(path, split)), None)


def how_to_get(root: Path, split: Split) -> str:
    """Say how to make a validation set if there is only a training set; empty otherwise."""
    folder = split_folder(root, "train")
    archives = [*(archives_in(folder) if folder else []), *archives_of_split(root, "train")]
    if split == "train" or not (folder or archives):
        return ""
    if folder and any(path.is_dir() and not is_hidden(path.name) for path in folder.iterdir()):
        archives = []  # the class folders win
    hold_out = "Set some aside with --val-fraction 0.1"
    if len(archives) > 1:
        return f"{hold_out}, or move a few of the train archives into a folder val/."
    if archives:
        return f"{hold_out}, or put images of each class into val/<class>/ beside it."
    return f"{hold_out}, or move a few images of each class from train/<class>/ to val/<class>/."
