"""What `alexnet codes` is asked for: binary codes of a folder of features."""

from __future__ import annotations

from pathlib import Path

from ...train.codes import CodesReport, make_codes
from ..progress import bars


def run_codes(folder: Path, out: Path, *, bits: int, queries: Path | None, seed: int) -> CodesReport:
    """Train, write and measure codes."""
    with bars("done") as update:
        return make_codes(folder, out, bits=bits, seed=seed, queries=queries, progress=update)
