"""Images that cannot be used: how they are counted, limited and named.

`read.py` and `stream.py` find them; whoever reads images keeps a dictionary `bad`, from index to reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..dataset.images import Dataset
from ..errors import TooManyBadFiles


class BadImage(ValueError):
    """One image cannot be used; the message says why."""


def add_bad(dataset: Dataset, bad: dict[int, str], met: Mapping[int, str], max_bad: float) -> None:
    """Add the images in `met` to `bad`; keep the reasons already there.

    Raise `TooManyBadFiles` if they now exceed the share `max_bad` of the data set.
    """
    bad |= {index: reason for index, reason in met.items() if index not in bad}
    if len(bad) > max_bad * len(dataset):
        raise TooManyBadFiles(describe_bad(dataset, bad, max_bad))


def describe_bad(dataset: Dataset, bad: dict[int, str], max_bad: float) -> str:
    """Return the message about too many bad images: how many, the limit, and the first few."""
    return (
        f"{len(bad)} of {len(dataset)} images ({len(bad) / len(dataset):.2%}) cannot be used, more than --max-bad "
        f"{max_bad:g} allows. {name_bad(dataset, bad)}"
    )


def name_bad(dataset: Dataset, bad: Mapping[int, str], few: int = 3) -> str:
    """Name the first few bad images, with reasons."""
    first = [f"{dataset.name(index)}: {reason}" for index, reason in sorted(bad.items())[:few]]
    return "; ".join([*first, *(["..."] if len(bad) > few else [])])
