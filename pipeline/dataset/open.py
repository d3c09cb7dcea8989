"""Open a data set: find it, list its images or take the cached list, and match its labels.

This is the entry to `dataset/`: the result is a `Dataset`, which `loader.py` and `squares.py` read.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..cache import can_keep
from ..errors import DatasetError, NoSplit
from ..remote.urls import url_of
from .choose import choose_images
from .classes import in_training_classes
from .images import Dataset, Listing, Split
from .index import index_path, keep_index, load_index, stamp_of
from .layouts import Layout, find_layout
from .regular import NotRegular, check_regular
from .remote import describe_remote, open_remote
from .selection import EVERYTHING, Selection

log = logging.getLogger("alexnet")

DEFAULT_DATA = Path("/data/imagenet")
CACHE_FROM_IMAGES = 20_000  # smaller data sets are listed each time, in less than half a second


def locate(data: Path | str | None) -> Path:
    """Return the folder or URL (`url_of`) DATA as given, else $ALEXNET_DATA, else /data/imagenet."""
    if data is not None:
        where, source = Path(data), "given"
    elif os.environ.get("ALEXNET_DATA"):
        where, source = Path(os.environ["ALEXNET_DATA"]), "from $ALEXNET_DATA"
    else:
        where, source = DEFAULT_DATA, "the default"
    if url_of(where):
        return where
    if not where.exists():
        hint = "Pass the folder that holds train/ and val/, or set ALEXNET_DATA."
        raise DatasetError(f"No data set at {where} ({source}). {hint}")
    if not where.is_dir():
        raise DatasetError(f"{where} is a file. Pass the folder that holds it; archives in it are read in place.")
    return where.resolve()


def from_files(paths: Sequence[Path]) -> Dataset:
    """Make a data set of single image files, without labels."""
    listing = Listing()
    for path in paths:
        try:
            check_regular(path)
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(f"There is no image file {path}.") from None
        except NotRegular as error:
            raise DatasetError(f"{path} is {error}. Give image files.") from error
        listing.add(str(path), 0, path.stat().st_size)
    return listing.dataset(Path(), "val", ())


def open_dataset(
    data: Path | str | None,
    split: Split,
    *,
    rescan: bool = False,
    selection: Selection = EVERYTHING,
) -> Dataset:
    """Open one split, in any layout of `layouts.py` or behind a URL; large data sets are listed once and cached.

    The labels of a validation split are positions in the classes of the training split, if there is one. `rescan`
    lists again, which is needed after a file was replaced in place; `selection` leaves out some of the images. Raise
    `NoSplit` if nothing of the split is there, `DatasetError` if something is wrong with it.
    """
    return _open(data, split, rescan, selection, to_pack=False)


def open_to_pack(
    data: Path | None, split: Split, *, rescan: bool = False, selection: Selection = EVERYTHING
) -> Dataset:
    """Open one split as `open_dataset` does, or from parquet files, which are good for nothing but to be packed."""
    return _open(data, split, rescan, selection, to_pack=True)


def _open(data: Path | str | None, split: Split, rescan: bool, selection: Selection, *, to_pack: bool) -> Dataset:
    root = locate(data)
    if selection.val_fraction is not None and (own := _own_validation(root)):
        folder, pattern = "a folder with no more than a link to the training split", "a pattern of the training shards"
        hint = f"To hold out training images all the same, give {pattern if url_of(root) else folder}"
        found = f"--val-fraction: {_named(root)} has validation images already ({own})"
        raise DatasetError(f"{found}. Leave it out. {hint}.")
    dataset = _open_split(root, "train" if selection.val_fraction is not None else split, rescan, to_pack)
    return dataset if selection.is_everything else choose_images(dataset, selection, split)


def selection_for(data: Path | None, remembered: Selection) -> Selection:
    """Return a run's selection as it applies to this data set, which may have validation images of its own."""
    if remembered.val_fraction is None or not (own := _own_validation(root := locate(data))):
        return remembered
    held_out = f"the run held out --val-fraction {remembered.val_fraction:g} of its training images"
    log.info("Validation images are those of %s (%s); %s.", _named(root), own, held_out)
    return replace(remembered, val_fraction=None)


def _named(root: Path) -> str:
    return url_of(root) or str(root)


def _own_validation(root: Path) -> str:
    """Describe the validation split; empty if there is none."""
    try:
        return describe_remote(url, "val") if (url := url_of(root)) else find_layout(root, "val").describe
    except NoSplit:
        return ""


def _open_split(root: Path, split: Split, rescan: bool, to_pack: bool) -> Dataset:
    if url := url_of(root):
        dataset = open_remote(url, split, rescan)
    elif (layout := find_layout(root, split)).must_be_packed:
        if not to_pack:
            raise DatasetError(_pack_first(root, layout))
        return layout.list_images(rescan)
    else:
        dataset = _open_local(root, split, layout, rescan)
    if split == "train" or (trained := _training_classes(root)) is None:
        return dataset
    return in_training_classes(dataset, trained)


def _open_local(root: Path, split: Split, layout: Layout, rescan: bool) -> Dataset:
    dataset = _open_layout(root, split, layout, rescan)
    if layout.remark:
        log.info(layout.remark)
    if left_out := layout.describe_left_out():
        log.info("%s split of %s: %s", split, root, left_out)
    return dataset


def _pack_first(root: Path, layout: Layout) -> str:
    out = shlex.quote(f"{root}-packed")
    command = f"alexnet pack {shlex.quote(str(root))} {out}"
    return f"{root} holds {layout.describe}, too slow to train from. Pack it first, then give {out}: {command}"


def _training_classes(root: Path) -> Sequence[str] | None:
    try:
        if url := url_of(root):
            return open_remote(url, "train").classes
        layout = find_layout(root, "train")
    except NoSplit:  # a validation split alone
        return None
    return layout.list_classes() if layout.list_classes else _open_layout(root, "train", layout).classes


def _open_layout(root: Path, split: Split, layout: Layout, rescan: bool = False) -> Dataset:
    """Open a split with labels that are positions in its own classes."""
    path, stamp = index_path(root, split), stamp_of(root, split, layout.describe, layout.stamp())
    if path and not rescan and (cached := load_index(path, stamp, split)) is not None:
        return cached
    dataset = layout.list_images(rescan)
    if len(dataset) == 0:
        where = f"No images under {root} for split '{split}' ({layout.describe})."
        raise DatasetError(f"{where} {layout.describe_left_out()}".strip())
    if len(dataset) >= CACHE_FROM_IMAGES and can_keep() and path:
        keep_index(path, stamp, dataset, layout.folders)
    return dataset


def open_splits(
    data: Path | None, splits: Sequence[Split], *, rescan: bool = False, selection: Selection = EVERYTHING
) -> list[Dataset]:
    """Open these splits to pack them; if none are given, open those that are there, and warn of a missing one."""
    if splits:
        return [open_to_pack(data, split, rescan=rescan, selection=selection) for split in splits]
    found, missing = list[Dataset](), list[NoSplit]()
    for split in get_args(Split):
        try:
            found.append(open_to_pack(data, split, rescan=rescan, selection=selection))
        except NoSplit as error:
            missing.append(error)
    if not found:
        raise missing[0]
    for absent in missing:
        log.warning("Only the %s split is there. %s", found[0].split, absent)
    return found
