"""What the paper ablates, as changes of a configuration, with the differences that the paper and the authors report.

First in `ablation/`; `experiment.py` makes runs of it. Sources: paper = Krizhevsky, Sutskever and Hinton, NIPS 2012;
[O] = the authors' notes on their runs, by number, in layers/ of computerhistory/AlexNet-Source-Code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...pipeline.errors import UserError
from ..config import Config
from ..settings.network import CONV1_PADDING
from ..settings.presets import PRESETS

BASE, ONE_VIEW = "base", "one-view"  # rows of the table that change nothing in training


@dataclass(frozen=True, kw_only=True)
class Reported:
    """By how many points the errors rise, as somebody reports; None where no number is given."""

    top1: float | None = None
    top5: float | None = None
    precision: Literal["", "about ", "more than "] = ""
    measured_on: str
    source: str

    def text(self) -> str:
        """Both numbers, a dash where there is none."""
        numbers = ("-" if number is None else f"{self.precision}{number:g}" for number in (self.top1, self.top5))
        return " / ".join(numbers)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """One thing that is changed."""

    title: str
    changes: Mapping[str, Any]  # of the base's configuration, by field
    reported: Reported | None = None
    needs_towers: bool = False  # it changes how towers meet, or takes one away


_VAL_2012 = "ILSVRC-2012 validation, ten views"
_TEST_2010 = "ILSVRC-2010 test, ten views"
_UNKNOWN = "not stated, and no notes of it"
_MIDDLE = Reported(top1=2, precision="about ", measured_on=_UNKNOWN, source="paper s7")

VARIATIONS = {
    "tanh": Variation(
        title="tanh instead of ReLU",
        changes={"activation": "tanh"},
        reported=Reported(
            measured_on="CIFAR-10, four layers: six times the epochs to 25% training error", source="paper s3.1"
        ),
    ),
    "no-lrn": Variation(
        title="no response normalisation",
        changes={"lrn": False},
        reported=Reported(top1=1.4, top5=1.2, measured_on=_VAL_2012, source="paper s3.3; [O] #148 less #145"),
    ),
    "no-overlap": Variation(
        title="2x2 pooling, no overlap",
        changes={"overlapping_pooling": False},
        reported=Reported(top1=0.4, top5=0.3, measured_on=_VAL_2012, source="paper s3.4; [O] #147 less #145"),
    ),
    "no-dropout": Variation(
        title="every unit of fc6 and fc7 kept",
        changes={"dropout": 0.0},
        reported=Reported(measured_on="no number: 'substantial overfitting'", source="paper s4.2"),
    ),
    "no-colour-noise": Variation(
        title="lighting off",
        changes={"lighting": "off"},
        reported=Reported(top1=1, precision="more than ", measured_on=_UNKNOWN, source="paper s4.1"),
    ),
    "without-conv2": Variation(
        title="conv2 and its normalisation left out", changes={"without": ("conv2",)}, reported=_MIDDLE
    ),
    "without-conv3": Variation(title="conv3 left out", changes={"without": ("conv3",)}, reported=_MIDDLE),
    "without-conv4": Variation(title="conv4 left out", changes={"without": ("conv4",)}, reported=_MIDDLE),
    "no-cross-talk": Variation(
        title="towers that meet only at fc8",
        changes={"cross_talk": False},
        reported=Reported(
            top1=1.16,
            top5=1.12,
            measured_on=f"{_VAL_2012}; wider towers (160 maps in conv2, 4,096 units in each fc6 and fc7)",
            source="not in the paper; [O] #150 less #145",
        ),
        needs_towers=True,
    ),
    "one-gpu": Variation(
        title="one tower, conv1..conv4 halved",
        changes=PRESETS["one-gpu"].settings,
        reported=Reported(top1=1.7, top5=1.2, measured_on=_TEST_2010, source="paper s3.2; [O] 145-half less #145"),
        needs_towers=True,
    ),
}
ONE_VIEW_REPORTED = Reported(
    top1=1.5, top5=1.3, measured_on="ILSVRC-2010 test, one view less ten", source="paper s4.1; [O] #145-2010"
)
FIXED = ("preset", "seed", "init_seed", "data_seed", "views")  # fields that an experiment has in common


def choose(base: Config, only: tuple[str, ...], vary: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the changes of each variation by its name: those named in `only`, by default all that fit, and `vary`.

    UserError if a variation that was asked for changes nothing, or is no configuration.
    """
    vary = {name: _with_padding(base, changes) for name, changes in vary.items()}
    fitting = [name for name in VARIATIONS if why_not(base, VARIATIONS[name]) is None]
    chosen = [name for name in VARIATIONS if name in only] if only else fitting
    for name in chosen:
        if problem := why_not(base, VARIATIONS[name]):
            raise UserError(f"{name} cannot be ablated: {problem}. Leave it out of --only.")
    for name, changes in vary.items():
        for field in changes:
            if field in FIXED:
                raise UserError(f"--vary {name}: {field} is the same for all runs of an experiment.")
        if replace(base, **changes) == base:
            raise UserError(f"--vary {name}: the base has this value already.")
    return {name: VARIATIONS[name].changes for name in chosen} | vary


def _with_padding(base: Config, changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the padding that another crop needs in conv1, as `Config.from_preset` does."""
    crop = changes.get("crop", base.crop)
    if crop == base.crop or crop not in CONV1_PADDING:
        return changes
    return {"conv1_padding": CONV1_PADDING[crop], **changes}


def why_not(base: Config, variation: Variation) -> str | None:
    """Return why a variation of this base would be none, or None if it is one."""
    if variation.needs_towers and base.towers == 1:
        return "the base has only one tower"
    if base.without and "without" in variation.changes:
        return f"the base lacks {', '.join(base.without)}, and would get it back"
    if replace(base, **variation.changes) == base:
        return "the base is like that already"
    return None
