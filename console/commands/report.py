"""What `alexnet report` is asked for: one page about a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ...pipeline.dataset.images import Dataset
from ...pipeline.dataset.selection import Selection
from ...pipeline.errors import DatasetError
from ...pipeline.files import write_atomically
from ...pipeline.remote.urls import url_of
from ...train.classifier import find_networks, load_classifier
from ...train.parallel.mesh import Mesh
from ...train.report.facts import Facts, read_run
from ...train.report.report import build_report
from ...train.report.sections import Sources
from ...train.saved import read_selection
from ..data_options import DataOptions
from ..options import LoadingOptions
from ..progress import bar
from ..terminal import say


def run_report(
    run: Path,
    data: Path | None,
    *,
    out: Path,
    views: Literal[1, 10] | None,
    skip: Sequence[str],
    which: DataOptions,
    loading: LoadingOptions,
) -> None:
    """Write the page; its sections that lack something are named on it."""
    facts = read_run(run)
    device = loading.chosen_device()
    (file,) = find_networks([run])
    classifier = load_classifier(file, device)
    train_set, val_set, no_data = _find_data(facts, data, which, read_selection(file))
    sources = Sources(
        facts=facts,
        classifier=classifier,
        train_set=train_set,
        val_set=val_set,
        no_data=no_data,
        mesh=Mesh(device=device),
        settings=facts.config.pin_decoding(loading.settings(device)),
        checkpoint=str(file),
        bar=bar,
        tell=say,
    )
    page = build_report(sources, views or facts.config.views, skip)
    write_atomically(out, page)
    say(f"Written to {out}")


def _find_data(
    facts: Facts, data: Path | None, which: DataOptions, remembered: Selection
) -> tuple[Dataset | None, Dataset | None, str]:
    """Return the training and the validation set, and why one is missing.

    Without `data`, they are looked for where the run found them. The training set must be the run's own.
    """
    if data is None:
        if not facts.starts:
            return None, None, "the run does not say where its data set is: give DATA"
        data = Path(facts.starts[-1].data)
        if not url_of(data) and not data.exists():
            return None, None, f"the run's data set is no longer at {data}: give DATA"
    val_set = which.open(data, "val", remembered=remembered)
    try:
        train_set = which.open(data, "train", remembered=remembered)
    except DatasetError as error:
        return None, val_set, str(error)
    if facts.starts and facts.starts[-1].dataset != train_set.fingerprint:
        return None, val_set, f"the training images of {data} are not those of the run"
    return train_set, val_set, ""
