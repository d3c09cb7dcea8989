"""DATA on the command line: which images of it a command is to take, as one frozen dataclass."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from ..pipeline.dataset.class_list import read_class_list
from ..pipeline.dataset.images import Dataset, Split
from ..pipeline.dataset.open import open_dataset, selection_for
from ..pipeline.dataset.selection import EVERYTHING, Selection
from ..pipeline.remote.shard_cache import DEFAULT_SIZE, SIZE
from .options import ANY_PATH, FILE, gathered, together, words_of
from .types import FiniteRange, Size

log = logging.getLogger("alexnet")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images of DATA are meant, and whether to list them again."""

    rescan: bool
    val_fraction: float | None
    classes_file: Path | None
    split_seed: int | None
    per_class: int | None = None

    def asked(self) -> dict[str, Any]:
        """Return what was asked for, by field of `Selection`."""
        if self.split_seed is not None and self.val_fraction is None and self.per_class is None:
            raise click.UsageError("--split-seed decides which images --val-fraction or --per-class takes: add one.")
        classes = read_class_list(self.classes_file) if self.classes_file else None
        values = {name: getattr(self, name) for name in ("val_fraction", "per_class", "split_seed")}
        return {name: value for name, value in (values | {"classes": classes}).items() if value is not None}

    def open(
        self, data: Path | None, split: Split, *, is_main: bool = True, remembered: Selection = EVERYTHING
    ) -> Dataset:
        """Open a split of DATA: the images that a run `remembered`, but for what is asked otherwise.

        Only the first of several ranks lists again.
        """
        selection = self.selection(data, remembered)
        if is_main and split == "val" and _takes_more(selection, remembered):
            which = f"The run held out {replace(remembered, classes=None)}"
            log.warning("%s: of the same images, %s takes some that it was trained on.", which, selection)
        if is_main and split == "val" and not selection.is_everything and not self.asked():
            log.info("Images are chosen as for the run: %s", selection)
        return open_dataset(data, split, rescan=self.rescan and is_main, selection=selection)

    def selection(self, data: Path | None, remembered: Selection = EVERYTHING) -> Selection:
        """Return what is asked for, and for what is not, what a run `remembered`."""
        asked = self.asked()
        return replace(remembered if "val_fraction" in asked else selection_for(data, remembered), **asked)

    def words(self) -> list[str]:
        """Return what one would type for the same images."""
        return words_of({name: value for name, value in asdict(self).items() if name != "rescan"})


def _takes_more(selection: Selection, remembered: Selection) -> bool:
    """Return whether images are to be held out that the run did not."""
    if selection.val_fraction is None or remembered.val_fraction is None:
        return False
    return selection.val_fraction > remembered.val_fraction or selection.split_seed != remembered.split_seed


def _bound_cache(ctx: click.Context, param: click.Parameter, size: int | None) -> None:
    """Put `--cache-size` into the environment, where the processes that this one starts find it too."""
    if size is None:
        return
    before = os.environ.get(SIZE)
    os.environ[SIZE] = f"{size}B"
    ctx.call_on_close(lambda: os.environ.pop(SIZE, None) if before is None else os.environ.update({SIZE: before}))


split_options = (
    click.option(
        "--rescan", is_flag=True, help="List the images of DATA again after replacing a file; new files need no rescan."
    ),
    click.option(
        "--cache-size",
        type=Size(auto=False),
        expose_value=False,
        callback=_bound_cache,
        metavar="SIZE",
        show_default=f"${SIZE}, or {DEFAULT_SIZE}",
        help="If DATA is a URL: disk space for fetched shards, such as 40GB.",
    ),
    click.option(
        "--val-fraction",
        type=FiniteRange(0, 1, min_open=True, max_open=True),
        metavar="F",
        help="Validate on this share of the training images, for DATA without val/. An image keeps its side when "
        "others come or go.",
    ),
    click.option("--classes-file", type=FILE, metavar="FILE", help="Only these classes: a list of names, one a line."),
    click.option(
        "--split-seed",
        type=click.IntRange(0),
        show_default="0",
        help="Take other images for --val-fraction and --per-class.",
    ),
)
val_options = gathered("which", DataOptions, *split_options, without=("per_class",))  # of commands that only validate
data_options = gathered(
    "which",
    DataOptions,
    *split_options,
    click.option(
        "--per-class", type=click.IntRange(1), metavar="N", help="Only N training images of each class, or all it has."
    ),
)
data_argument = together(click.argument("data", required=False, type=ANY_PATH), data_options)
