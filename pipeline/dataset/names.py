"""What a file's name says: whether it is an image, whether it is hidden, and which split it belongs to.

For `walk.py`, `splits.py` and `shards.py`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable

from .images import Split

# In order of preference, if a sample of a shard has several. The decoders know TIFF too, but a damaged one can crash
# nvimgcodec.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation", "valid", "test")}
# macOS's, with a ._NAME for each NAME; the thumbnails of a Synology; what fsck recovered
FOREIGN_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found"})
SIDE_FILES = re.compile(r".*_boxes\.txt|val_annotations\.txt|Thumbs\.db|desktop\.ini")  # Tiny ImageNet's, Windows'
KINDS_NAMED = 5

_ENDINGS = frozenset(IMAGE_EXTENSIONS)
_WORD = re.compile(r"[^\W\d_]+")


def is_image(name: str) -> bool:
    return name[name.rfind(".") :].lower() in _ENDINGS  # hot: called for every file


def is_hidden(path: str) -> bool:
    """Return whether a file or archive member is not the user's own: `.NAME`, or something a system added."""
    return path[path.rfind("/") + 1 :].startswith(".") or not FOREIGN_FOLDERS.isdisjoint(path.split("/"))


def split_word(name: str) -> str | None:
    """The word of a file's name that gives its split: `validation` in x-validation-03.tar, none in x-trainval-03.tar.

    Words are runs of letters. The last one counts: in test-of-imagenet-train-03.tar it is the one beside the number.
    """
    words = [word for word in _words(name) if any(word in names for names in SPLIT_NAMES.values())]
    return words[-1] if words else None


def names_both_splits(name: str) -> bool:
    words = _words(name)
    return all(any(word in names for word in words) for names in SPLIT_NAMES.values())


def _words(name: str) -> list[str]:
    return _WORD.findall(name.lower())


def count_left_out(left_out: Counter[str], names: Iterable[str]) -> None:
    """Count, by extension, files that are not images, except those that belong beside images."""
    for name in names:
        base = name[name.rfind("/") + 1 :]
        if not SIDE_FILES.fullmatch(base):
            left_out[os.path.splitext(base)[1].lower()] += 1  # noqa: PTH122


def describe_left_out(left_out: Counter[str]) -> str:
    """Return `Left out 12 files: 8 .tif, 4 .txt.` or the like; empty if there were none."""
    if not left_out:
        return ""
    kinds = [f"{count:,} {extension or 'without an extension'}" for extension, count in left_out.most_common()]
    shown = ", ".join(kinds[:KINDS_NAMED]) + (", ..." if len(kinds) > KINDS_NAMED else "")
    total = left_out.total()
    return f"Left out {total:,} file{'s' * (total > 1)}: {shown}. Images are {' '.join(IMAGE_EXTENSIONS)}."
