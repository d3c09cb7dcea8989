"""The paper's two tables of results, and how a run's errors stand beside them.

First in `report/`. Source: Krizhevsky, Sutskever and Hinton, NIPS 2012, section 6, tables 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...pipeline.dataset.classes import is_imagenet
from ...pipeline.dataset.images import Dataset
from ..evaluate import Evaluation

NUM_VALIDATION = 50_000  # images of ILSVRC-2012's validation set


@dataclass(frozen=True)
class PaperTable:
    """Errors in percent, as printed; None where the paper has a dash."""

    title: str
    measured_on: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    note: str = ""


ILSVRC_2010 = PaperTable(
    title="Table 1: ILSVRC-2010",
    measured_on="the 150,000 test images of ILSVRC-2010, of 1,000 classes; the network averaged ten views",
    columns=("top-1 test", "top-5 test"),
    rows=(
        ("Sparse coding", (47.1, 28.2)),
        ("SIFT + FVs", (45.7, 25.7)),
        ("CNN", (37.5, 17.0)),
    ),
)
ILSVRC_2012 = PaperTable(
    title="Table 2: ILSVRC-2012",
    measured_on="the 50,000 validation and 100,000 test images of ILSVRC-2012, of 1,000 classes; networks averaged "
    "ten views",
    columns=("top-1 validation", "top-5 validation", "top-5 test"),
    rows=(
        ("SIFT + FVs", (None, None, 26.2)),
        ("1 CNN", (40.7, 18.2, None)),
        ("5 CNNs", (38.1, 16.4, 16.4)),
        ("1 CNN*", (39.0, 16.6, None)),
        ("7 CNNs*", (36.7, 15.4, 15.3)),
    ),
    note="* trained first on all of ImageNet's Fall 2011 release",
)


@dataclass(frozen=True)
class OurRow:
    """A run's errors for one of the tables, in percent, and what keeps them from being compared with the others."""

    cells: tuple[float | None, ...]
    comparable: bool
    why: str  # a sentence


def beside_2010(result: Evaluation, dataset: Dataset) -> OurRow:
    """Never comparable: ILSVRC-2010's test set is not a validation set that we read."""
    return OurRow(
        (100 * result.top1_error, 100 * result.top5_error),
        comparable=False,
        why=f"Not comparable: this run was measured on {_measured_on(result, dataset)}.",
    )


def beside_2012(result: Evaluation, dataset: Dataset) -> OurRow:
    """Comparable in the columns of validation if the images, the classes and the views are the paper's."""
    ours = (100 * result.top1_error, 100 * result.top5_error, None)
    same_images = is_imagenet(dataset.classes) and len(dataset) == result.num_images == NUM_VALIDATION
    if not same_images:
        return OurRow(ours, False, f"Not comparable: this run was measured on {_measured_on(result, dataset)}.")
    if result.views != 10:
        why = "Not quite comparable: these are the paper's images, but one view of each, and the paper averaged ten."
        return OurRow(ours, False, why)
    return OurRow(ours, True, "Comparable with the columns of validation: the same images, ten views of each.")


def _measured_on(result: Evaluation, dataset: Dataset) -> str:
    views = "ten views" if result.views == 10 else "one view"
    return f"{result.num_images:,} images of {dataset.num_classes:,} classes, {views} of each"
