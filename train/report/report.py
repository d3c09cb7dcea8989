"""The report of a run, section by section.

`facts.py` and `measure.py` find the numbers, `train/figures/` and `pca/figures.py` draw, `page.py` writes. What cannot
be shown, such as neighbours without the training set, is named on the page with the reason.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from ...pipeline.errors import UserError
from . import sections
from .facts import Departure, Facts
from .measure import measure
from .page import Contents, Section, Shown, render
from .sections import Sources

SECTIONS: dict[str, tuple[str, Callable[[Sources], Shown]]] = {  # name: heading, and what makes it
    "curves": ("Training", sections.curves),
    "kernels": ("What conv1 sees", sections.kernels),
    "activations": ("What each layer makes of an image", sections.activations),
    "predictions": ("Eight validation images", sections.predictions),
    "neighbours": ("The nearest training images", sections.neighbours),
    "embedding": ("The validation images by what fc7 makes of them", sections.embedding),
    "colours": ("The colours of the training set", sections.colours),
}


def build_report(sources: Sources, views: int, skip: Sequence[str]) -> bytes:
    """Return the page, without the sections named in `skip`.

    UserError if the validation images are not of the network's classes; what a section alone lacks is said on the page.
    """
    measured, found, left_out = None, [], []
    if sources.val_set is None:
        left_out.append(("Errors, and figures of images", sources.no_data))
    else:
        with sources.bar("evaluation", len(sources.val_set), "images") as update:
            measured = measure(sources.classifier, sources.val_set, views, sources.mesh, sources.settings, update)
    for name, (title, make) in SECTIONS.items():
        if name in skip:
            left_out.append((title, f"--skip {name} was given"))
            continue
        sources.tell(f"Drawing {name}")
        try:
            found.append(Section(name, title, make(sources)))
        except UserError as error:
            left_out.append((title, str(error)))
    return render(
        Contents(
            facts=sources.facts,
            val_set=sources.val_set,
            measured=measured,
            sections=found,
            words=sources.classifier.words,
            left_out=left_out,
            commands=_commands(sources.facts, views),
        )
    )


def _commands(facts: Facts, views: int) -> list[str]:
    """The command lines that repeat the run and its measurement."""
    data = shlex.quote(facts.starts[-1].data) if facts.starts else "DATA"
    run, options = shlex.quote(str(facts.folder)), [*map(_option, facts.departures)]
    if facts.starts:  # the first weights and the choice of images are no settings
        options += [f"--init-from {shlex.quote(source['source'])}"] if (source := facts.starts[0].pretrained) else []
        options += [facts.starts[-1].selection] if facts.starts[-1].selection else []
    return [
        " ".join([f"alexnet train {data} --preset {facts.config.preset}", *options, "--run AGAIN"]),
        f"alexnet evaluate {run} {data} --views {views}",
        f"alexnet report {run} {data} --out report.html",
    ]


def _option(departure: Departure) -> str:
    name, value = departure.setting.replace("_", "-"), departure.value
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
