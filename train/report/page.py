"""The page itself: facts, errors and pictures into one HTML file that needs nothing else.

Last in `report/`. `page.html` is a jinja2 template; every text that comes from a file, such as a class's name, is
escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import jinja2

from ... import __version__
from ...pipeline.dataset.images import Dataset
from ..settings.presets import PRESETS
from ..settings.setting import as_text
from ..starts import Start
from .facts import Facts, duration
from .measure import Measured
from .paper import ILSVRC_2010, ILSVRC_2012, beside_2010, beside_2012
from .pictures import Picture

NUM_WORST = 20  # classes shown without unfolding


@dataclass(frozen=True)
class Shown:
    """What a section shows: paragraphs, then pictures."""

    text: Sequence[str]
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """What is shown under a heading; `anchor` is what links to it name."""

    anchor: str
    title: str
    shown: Shown


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that a page shows. `measured` and `val_set` are None where the images could not be had."""

    facts: Facts
    val_set: Dataset | None
    measured: Measured | None
    sections: Sequence[Section]
    words: Mapping[str, str] = field(default_factory=dict)  # what people call the classes
    left_out: Sequence[tuple[str, str]] = ()  # what, and why
    commands: Sequence[str] = ()


def render(contents: Contents) -> bytes:
    """Return the page in UTF-8; undecodable bytes of file names are shown as escapes."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )
    env.filters["thousands"] = lambda number: f"{number:,}"
    env.filters["setting"] = as_text
    env.filters["class_name"] = lambda name: f"{contents.words[name]} ({name})" if name in contents.words else name
    text = env.get_template("page.html").render(**_context(contents))
    return text.encode("utf-8", "backslashreplace")


def _context(page: Contents) -> dict[str, Any]:
    facts, measured = page.facts, page.measured
    contents = [("paper", "Beside the paper"), ("run", "What was run"), *((s.anchor, s.title) for s in page.sections)]
    return {
        "name": facts.folder.resolve().name,  # also of "."
        "facts": facts,
        "measured": measured,
        "summary": _summary(facts),
        "tiles": _tiles(facts, measured),
        "contents": [*contents, *([("errors", "Errors by class")] if measured else []), ("again", "Do it again")],
        "tables": _tables(measured, page.val_set),
        "preset": PRESETS[facts.config.preset],
        "run": _run_rows(facts),
        "sections": page.sections,
        "num_worst": NUM_WORST,
        "left_out": page.left_out,
        "commands": page.commands,
        "version": __version__,
        "made": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
    }


def _summary(facts: Facts) -> str:
    config, done = facts.config, facts.epochs_done
    width = "" if config.width == 1 else f" at {config.width:g} of the width"
    length = f"{done} epochs" if facts.finished else f"{done} of {config.epochs} epochs so far"
    last = facts.starts[-1] if facts.starts else None
    data = f" on {last.num_train:,} images of {last.num_classes:,} classes" if last else ""
    return f"The AlexNet of 2012, preset {config.preset}{width}, trained for {length}{data}."


def _tiles(facts: Facts, measured: Measured | None) -> list[tuple[str, str]]:
    if measured is not None:
        views = "10 views" if measured.errors.views == 10 else "1 view"
        found = asdict(measured.errors)
        errors = [(f"top-{k} error, {views}", f"{found[f'top{k}_error']:.1%}") for k in (1, 5)]
    elif facts.validations:
        last = facts.validations[-1]
        errors = [(f"top-{k} error, 1 view", f"{last[f'top{k}_error']:.1%}") for k in (1, 5)]
    else:
        errors = []
    return [
        *errors,
        ("training time", duration(facts.training_seconds)),
        ("images/s, median", f"{facts.images_per_second:,.0f}"),
        ("waiting for images", f"{facts.waiting:.1%}"),
    ]


def _tables(measured: Measured | None, val_set: Dataset | None) -> list[tuple[Any, Any]]:
    if measured is None or val_set is None:
        return [(ILSVRC_2010, None), (ILSVRC_2012, None)]
    return [
        (ILSVRC_2010, beside_2010(measured.errors, val_set)),
        (ILSVRC_2012, beside_2012(measured.errors, val_set)),
    ]


def _run_rows(facts: Facts) -> list[tuple[str, str]]:
    """What the run's folder says of data, machines and time, as (what, value)."""
    seeds = facts.config.seeds
    together = seeds.init_seed == seeds.data_seed
    rows = [
        (
            "seed",
            str(seeds.data_seed) if together else f"{seeds.init_seed} of the weights, {seeds.data_seed} of the data",
        )
    ]
    if facts.starts:
        rows += _start_rows(facts.starts)
    else:
        rows += [("machine", "not recorded: the run was begun by an earlier version")]
    times = f"{duration(facts.training_seconds)} of training, {duration(facts.validation_seconds)} of validation"
    return [*rows, ("time", times)]


def _start_rows(starts: Sequence[Start]) -> list[tuple[str, str]]:
    last, machine = starts[-1], starts[-1].machine
    begun = starts[0].time.replace("T", " ").removesuffix("+00:00") + " UTC"
    chosen = last.selection and f", chosen by {last.selection}"
    resumed = [f"epoch {s.epoch + 1}, step {s.step % 10**9}" for s in starts[1:]]
    how_often = "once" if len(resumed) == 1 else f"{len(resumed)} times"
    return [
        ("data", f"{last.data}: {last.num_train:,} training and {last.num_val:,} validation images{chosen}"),
        ("data set's fingerprint", last.dataset),
        ("started", begun + (f", from the weights of {source['source']}" if (source := starts[0].pretrained) else "")),
        ("resumed", f"{how_often}, before {'; '.join(resumed)}" if resumed else "never"),
        ("mesh", f"{last.mesh} (replicas x towers) on {last.device}, execution {last.execution}"),
        (
            "machine",
            f"{machine['processor']}, {machine['cores']} cores ({machine['instructions']}), "
            f"{machine['memory_gib']:g} GiB; {last.threads} decoding threads",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in last.versions.items())),
    ]
