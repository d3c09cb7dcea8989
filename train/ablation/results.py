"""How a run of an ablation ended: `result.json` in its folder, written once it is over.

From what the run itself left there (`history.py`, `checkpoint.py`) and, for ten views, from its evaluation. `table.py`
comes next.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...pipeline.errors import UserError
from ...pipeline.files import write_atomically
from ..checkpoint import checkpoint_path
from ..config import Config
from ..health import DIVERGED
from ..history import METRICS, Record, read_records
from ..report.facts import read_run
from .experiment import Run

FILE = "result.json"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The end of a run. Errors are shares of the validation set's usable images."""

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)  # top-1 and top-5, by number of views
    num_images: int = 0
    diverged: str = ""  # what became of it; then there are no errors
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of training


def read_result(run: Run) -> Result | None:
    """Return the result of a run that is over."""
    path = run.folder / FILE
    try:
        return Result(**json.loads(path.read_text())) if path.exists() else None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}. Delete it: it is made again from the run.") from error


def is_trained(folder: Path, config: Config, num_images: int) -> bool:
    """Whether the checkpoint of the last step of training on `num_images` images is there."""
    return checkpoint_path(folder, config.epochs * (num_images // config.batch_size)).exists()


def divergence(folder: Path) -> str:
    """Return what a run that diverged says of it, or nothing."""
    last = list(read_records(folder / METRICS))[-1:]
    return next((record["text"] for record in last if record.get("sign") == DIVERGED), "")


def conclude(run: Run, evaluation: Record | None) -> Result:
    """Write and return the result of a run that is over; `evaluation` is of more views than the run's validations."""
    if problem := divergence(run.folder):
        result = Result(diverged=problem)
    else:
        facts = read_run(run.folder)
        found = facts.validations[-1:] + ([evaluation] if evaluation else [])
        result = Result(
            errors={str(each["views"]): (each["top1_error"], each["top5_error"]) for each in found},
            num_images=found[0]["num_images"],
            warnings=facts.warnings,
            seconds=round(facts.training_seconds, 1),
        )
    write_atomically(run.folder / FILE, (json.dumps(asdict(result), indent=2) + "\n").encode())
    return result
