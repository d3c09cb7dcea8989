"""A trained network, whatever kind of file it is in, as a `Checkpoint`.

`checkpoint.py`, `safe_tensors.py` and `published.py` each read one kind; `network/model.py` and `classifier.py` make a
network of what is found.
"""

from __future__ import annotations

from pathlib import Path

from ..pipeline.dataset.selection import EVERYTHING, Selection
from ..pipeline.errors import CheckpointError
from ..pipeline.remote.urls import url_of
from . import checkpoint as checkpoints
from . import published, safe_tensors
from .checkpoint import Checkpoint

EXPORTED = (safe_tensors.ENDING, *published.ENDINGS)  # end the names of files that hold no more than a network


def network_file(path: Path) -> Path:
    """Return the file itself, or the newest whole checkpoint of a run folder."""
    if not path.exists():
        if url := url_of(path):
            raise CheckpointError(f"{url} is a URL, which only DATA may be. Fetch the network, and give a local path.")
        raise CheckpointError(f"There is no checkpoint or run folder {path}.")
    return checkpoints.newest_of(path)


def read_selection(path: Path) -> Selection:
    """Return on which images of its data set a network was trained, without loading it; all if the file is not ours."""
    try:
        facts = safe_tensors.read_facts if path.suffix == safe_tensors.ENDING else checkpoints.read_metadata
        return checkpoints.selection_in(path, facts(path))
    except Exception:  # whatever is wrong with the file, loading the network says it
        return EVERYTHING


def load_saved(path: Path | str) -> Checkpoint:
    """Read a checkpoint, a run folder's newest, safetensors, or torchvision's weights (`.pth`), without momentum."""
    path = network_file(Path(path))
    if path.suffix == safe_tensors.ENDING:
        return safe_tensors.load_safetensors(path)
    if path.suffix in published.ENDINGS:
        return published.load_published(path)
    saved = checkpoints.load(path)
    saved.momentum.clear()  # as large as the network, and of no more use
    return saved
