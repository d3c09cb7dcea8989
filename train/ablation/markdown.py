"""The table of an experiment as a Markdown page that says what it rests on.

After `table.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from ..report.facts import duration
from .table import FACTOR, Row, Table
from .variations import BASE, ONE_VIEW

HEADER = (
    "variation",
    "runs",
    "top-1, %",
    "top-5, %",
    "difference, top-1",
    "difference, top-5",
    "larger than its error?",
    "reported, top-1 / top-5",
    "measured on",
)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What was run, on what."""

    command: str
    base: str  # the preset and what departs from it
    data: str
    seeds: str
    machine: str


def page(table: Table, source: Provenance) -> str:
    """Return the whole page."""
    state = "" if table.complete else f"**Incomplete: {table.num_over} of {table.num_runs} runs are over.**\n\n"
    facts = {
        "Command": f"`{source.command}`",
        "Base": source.base,
        "Data": source.data,
        "Seeds": source.seeds,
        "Machine": f"{source.machine}; {duration(table.training_seconds)} of training, all runs together",
    }
    listed = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    rows = [HEADER, ("---",) * len(HEADER), *map(cells, table.rows)]
    lines = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    notes = "\n\n".join(reading(table))
    return f"# Ablations\n\n{state}{listed}\n\n{lines}\n\n{notes}\n"


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, as text."""
    title = f"{row.name}: {row.title}" if row.title else row.name
    errors = [f"{error:.2f}" if isfinite(error) else "-" for error in row.errors]
    reported = (
        (row.reported.text(), f"{row.reported.measured_on} ({row.reported.source})") if row.reported else ("", "")
    )
    return title, _runs(row), *errors, *_difference(row), *reported


def _runs(row: Row) -> str:
    """How many runs were measured, and what is wrong with some."""
    count = str(row.num_measured) if row.num_measured == row.num_planned else f"{row.num_measured} of {row.num_planned}"
    wrong = {"diverged": row.num_diverged, "no better than guessing": row.num_stuck}
    remarks = ", ".join(f"{number} {what}" for what, number in wrong.items() if number)
    return f"{count} ({remarks})" if remarks else count


def _difference(row: Row) -> tuple[str, str, str]:
    """Both differences with their standard errors, and whether they are larger."""
    found = row.difference
    if found is None:
        return "", "", ""
    numbers = [
        f"{mean:+.2f}{f' ± {error:.2f}' if isfinite(error) else ''}" if isfinite(mean) else "-"
        for mean, error in zip(found.mean, found.standard_error, strict=True)
    ]
    known = isfinite(found.standard_error[0])
    clear = " / ".join("yes" if each else "no" for each in found.clear) if known else "unknown"
    return numbers[0], numbers[1], clear


def reading(table: Table) -> list[str]:
    """Paragraphs that say what the numbers mean, and what they do not."""
    views = "ten views" if table.views == 10 else "one view"
    text = [
        f"Errors are means over the runs, measured with {views} of each validation image; differences are in points, "
        "positive where the variation is worse. What others report is of other data, at full width and length: it is "
        "there to compare signs and order, not sizes."
    ]
    pairs = max((row.difference.num_pairs for row in table.rows if row.difference), default=0)
    if pairs < 2:
        text.append(
            "A standard error takes two seeds at least (`--seeds`): no variation has two runs beside the base's yet."
        )
    else:
        text.append(
            f"± is the standard error of the mean difference between runs of the same seed. From {pairs} seeds it has "
            f"{pairs - 1} degree{'s' * (pairs > 2)} of freedom{_alone(pairs)}. {_pooled(table)}A difference counts as "
            f"larger than its error if it exceeds {FACTOR} of both."
        )
    if table.num_images and isfinite(table.sampling_errors[0]):
        top1, top5 = table.sampling_errors
        text.append(
            f"The validation set is a sample too: on {table.num_images:,} images the base's errors have standard "
            f"errors of {top1:.1f} and {top5:.1f} points. The runs share these images, so much of that cancels in the "
            "differences, and ± does not contain it: it is about seeds alone."
        )
    return text


def _alone(pairs: int) -> str:
    return ", which says little by itself" if pairs < 4 else ""


def _pooled(table: Table) -> str:
    """The pooled error of a variation with all its runs."""
    trained = [row for row in table.rows if row.difference and row.name not in (BASE, ONE_VIEW)]
    best = max(trained, key=lambda row: row.difference.num_pairs if row.difference else 0, default=None)
    if best is None or best.difference is None or len(trained) < 2 or not table.pooled_degrees:
        return ""
    top1, top5 = best.difference.pooled_error
    return (
        f"Pooled over all variations it is {top1:.2f} (top-1) and {top5:.2f} (top-5), with {table.pooled_degrees} "
        f"degrees of freedom, somewhat fewer in truth, as all are compared with the same base; chance alone takes "
        f"{table.chance:.0%} of differences beyond {FACTOR} of these. "
    )
