"""Where in a data set's folder the two splits lie: in folders and archives, told by their names.

Before `layouts.py`, which looks into them.
"""

from __future__ import annotations

from pathlib import Path

from .dataset import Split
from .names import SPLIT_NAMES, is_hidden, split_word

ILSVRC_TARS: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


def kaggle_root(root: Path) -> Path:
    """Kaggle's download keeps the two folders three levels down."""
    below = root / "ILSVRC" / "Data" / "CLS-LOC"
    return below if below.is_dir() else root


def split_folder(root: Path, split: Split) -> Path | None:
    """The folder that holds a split's images, whatever the case of its name."""
    names = SPLIT_NAMES[split]
    folders = [path for path in root.iterdir() if path.name.lower() in names and path.is_dir()]
    return min(folders, key=lambda path: (names.index(path.name.lower()), not path.name.islower()), default=None)


def archives_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name) and not path.is_dir())


def archives_of_split(root: Path, split: Split) -> list[Path]:
    """The original archive, or the shards whose names have the first of the split's words for which there are any."""
    if (original := root / ILSVRC_TARS[split]).is_file():
        return [original]
    words = {tar: split_word(tar.stem) for tar in archives_in(root)}
    wanted = next((word for word in SPLIT_NAMES[split] if word in words.values()), None)
    return [tar for tar, word in words.items() if word and word == wanted]


def nothing_found(root: Path, split: Split) -> str:
    entries = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    found = ", ".join(entries[:5]) + (f", ... ({len(entries)} entries)" if len(entries) > 5 else "")
    wanted = f"{split}/<class>/*.JPEG, {ILSVRC_TARS[split]} or *{split}*.tar shards"
    message = f"No {split} images in {root}. Looked for {wanted}; found: {found or 'an empty folder'}."
    if split_word(root.name) == root.name.lower():
        return f"{message} Did you mean its parent, {root.parent}?"
    return f"{message} {how_to_get(root, split)}".strip()


def how_to_get(root: Path, split: Split) -> str:
    """What to do for a validation set where there are images to train on."""
    if split == "val" and split_folder(root, "train"):
        return "Set some aside: move a few images of each class from train/<class>/ to val/<class>/."
    if split == "val" and len(archives_of_split(root, "train")) > 1:
        return "Set some aside: move a few of the train archives into a folder val/."
    return ""
