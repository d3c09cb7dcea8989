"""The results of an experiment as rows: errors, differences from the base and their errors, beside what is reported.

From `results.py` through `differences.py`; `markdown.py` writes the rows, `figures/ablation.py` draws them. Errors and
differences are in percentage points here. A pair holds top-1 and top-5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .differences import chance_to_exceed, paired_differences, sampling_error
from .experiment import Experiment, Run
from .results import Result
from .variations import BASE, ONE_VIEW, ONE_VIEW_REPORTED, VARIATIONS, Reported

FACTOR = 2  # standard errors that a difference must exceed
Pair = tuple[float, float]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """From the base, by pairs of runs with the same seed; NaN where there are too few."""

    mean: Pair
    standard_error: Pair  # of this variation's pairs
    pooled_error: Pair  # of the pairs of all variations
    num_pairs: int
    clear: tuple[bool, bool]  # more than `FACTOR` of both


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variation. `errors` are means over the runs that were measured, NaN without one."""

    name: str
    title: str
    num_planned: int  # runs
    num_measured: int
    num_diverged: int
    num_stuck: int  # of those measured: no better than guessing
    errors: Pair
    difference: Difference | None  # None: the base itself
    reported: Reported | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows, the base first, and what they rest on."""

    rows: list[Row]
    views: int
    num_runs: int
    num_over: int  # runs that are over
    num_images: int  # of the validation set that could be used
    sampling_errors: Pair  # of the base's errors
    pooled_degrees: int  # of freedom
    chance: float  # that a difference of nothing exceeds `FACTOR` pooled standard errors
    training_seconds: float  # of all runs together

    @property
    def complete(self) -> bool:
        return self.num_over == self.num_runs

    def record(self) -> dict[str, Any]:
        """As JSON can hold it: NaN becomes None."""
        return _plain(asdict(self)) | {"complete": self.complete}


def build_table(experiment: Experiment, results: Mapping[Run, Result | None], guess_error: float) -> Table:
    """Build the table of the runs that are over; `guess_error` is the best top-1 error, a share, without a look."""
    views = experiment.base.views
    errors = {name: _errors(experiment, results, name, views) for name in experiment.changes}
    differences = _differences(errors)
    kinds = [(name, name, *_described(name)) for name in experiment.changes]
    if views > 1:
        errors[ONE_VIEW] = _errors(experiment, results, BASE, 1)
        differences |= _differences({name: errors[name] for name in (BASE, ONE_VIEW)})
        kinds.append((ONE_VIEW, BASE, "the base's networks, one view", ONE_VIEW_REPORTED))
    rows = []
    for name, variation, title, reported in kinds:
        over = [result for run, result in results.items() if run.variation == variation and result is not None]
        measured = errors[name][np.isfinite(errors[name][:, 0])]
        row = Row(
            name=name,
            title=title,
            num_planned=experiment.num_seeds[variation],
            num_measured=len(measured),
            num_diverged=sum(bool(result.diverged) for result in over),
            num_stuck=sum(_is_stuck(result, guess_error) for result in over),
            errors=_pair(measured.mean(axis=0)) if len(measured) else (np.nan, np.nan),
            difference=differences.get(name),
            reported=reported,
        )
        rows.append(row)
    return _table(rows, views, list(results.values()), sum(max(n - 1, 0) for n in _trained_pairs(rows)))


def _described(name: str) -> tuple[str, Reported | None]:
    """The title of a variation, and what is reported of it."""
    known = VARIATIONS.get(name)
    return (known.title, known.reported) if known else ("the configuration as given" if name == BASE else "", None)


def _trained_pairs(rows: Sequence[Row]) -> list[int]:
    return [row.difference.num_pairs for row in rows if row.difference and row.name != ONE_VIEW]


def _table(rows: list[Row], views: int, results: Sequence[Result | None], degrees: int) -> Table:
    over = [result for result in results if result is not None]
    num_images = max((result.num_images for result in over), default=0)
    return Table(
        rows=rows,
        views=views,
        num_runs=len(results),
        num_over=len(over),
        num_images=num_images,
        sampling_errors=_pair(100 * sampling_error(share / 100, max(num_images, 1)) for share in rows[0].errors),
        pooled_degrees=degrees,
        chance=chance_to_exceed(FACTOR, degrees) if degrees else np.nan,
        training_seconds=sum(result.seconds for result in over),
    )


def _errors(experiment: Experiment, results: Mapping[Run, Result | None], name: str, views: int) -> FloatArray:
    """The errors of a variation's runs, (seeds of the base, 2); NaN for a run that was not measured."""
    errors = np.full((len(experiment.seeds), 2), np.nan)
    for run, result in results.items():
        if run.variation == name and result is not None and str(views) in result.errors:
            errors[run.seed - experiment.seeds.start] = 100 * np.array(result.errors[str(views)])
    return errors


def _differences(errors: Mapping[str, FloatArray]) -> dict[str, Difference]:
    """How each of several variations, which share a pooled error, differs from the base."""
    others = [name for name in errors if name != BASE]
    if not others:
        return {}
    both = [paired_differences(errors[BASE][:, k], [errors[name][:, k] for name in others]) for k in (0, 1)]
    return {
        name: Difference(
            mean=_pair(d.mean[i] for d in both),
            standard_error=_pair(d.standard_error[i] for d in both),
            pooled_error=_pair(d.pooled_error[i] for d in both),
            num_pairs=int(both[0].num_pairs[i]),
            clear=_pair(d.clear(FACTOR)[i] for d in both),
        )
        for i, name in enumerate(others)
    }


def _is_stuck(result: Result, guess_error: float) -> bool:
    """Whether a network is no better than guessing, as far as its images can tell."""
    if result.diverged:
        return False
    return bool(result.errors["1"][0] >= guess_error - 2 * sampling_error(guess_error, result.num_images))


def _pair(values: Any) -> Any:
    first, second = (value.item() if isinstance(value, np.generic) else value for value in values)
    return first, second


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
