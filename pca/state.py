"""How far a pass over a data set has come, in memory and on disk.

`compute.py` advances and saves it; after a kill it loads the state and goes on.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pipeline.files import write_atomically
from .moments import RgbMoments

log = logging.getLogger("alexnet")

SAMPLE_PER_IMAGE = 32  # pixels kept for scikit-learn


@dataclass
class PassState:
    """From index `start` up to `position`, each image is either in `moments` or in `bad`."""

    start: int
    position: int
    moments: RgbMoments
    bad: dict[int, str] = field(default_factory=dict)  # index -> reason
    sample: dict[int, NDArray[np.uint8]] = field(default_factory=dict)  # index -> (32, 3) random pixels

    @classmethod
    def fresh(cls, start: int, size: int | None) -> PassState:
        """Return a state with nothing done yet; `size` is as in `RgbMoments.zero`."""
        return cls(start, start, RgbMoments.zero(size))

    def merge(self, other: PassState) -> None:
        """Add the slice that follows this one."""
        assert other.start == self.position
        self.position = other.position
        self.moments.merge(other.moments)
        self.bad |= other.bad
        self.sample |= other.sample

    def save(self, path: Path, key: str) -> None:
        """Replace the state at `path`; `key` says which pass it belongs to."""
        m, buffer = self.moments, io.BytesIO()
        np.savez(
            buffer,
            key=np.array(key),
            position=np.array(self.position),
            counts=np.array([m.num_images, m.num_pixels]),
            sum=m.sum,
            products=m.products,
            sum_image=np.zeros(0, np.int64) if m.sum_image is None else m.sum_image,
            bad=np.frombuffer(json.dumps(list(self.bad.items())).encode(), np.uint8),
            sample_of=np.array(list(self.sample), np.int64),
            sample=np.array(list(self.sample.values()), np.uint8).reshape(-1, SAMPLE_PER_IMAGE, 3),
        )
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, key: str, start: int, stop: int, size: int | None) -> PassState | None:
        """Return the state at `path`; None if there is none, or, with a warning, if it is damaged."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                broken = archive.testzip()  # check every byte before using any
                if broken is not None:
                    raise ValueError(f"checksum of {broken}")
            with np.load(io.BytesIO(content), allow_pickle=False) as saved:
                return cls._from_arrays(dict(saved), key, start, stop, size)
        except Exception as error:  # damage can raise anything, and the remedy is the same
            log.warning("%s is damaged (%s): this part of the statistics starts over.", path, error)
            return None

    @classmethod
    def _from_arrays(
        cls, saved: dict[str, NDArray[Any]], key: str, start: int, stop: int, size: int | None
    ) -> PassState:
        if (found := str(saved["key"])) != key:
            raise ValueError(f"it belongs to {found}, not to {key}")
        num_images, num_pixels = saved["counts"].tolist()
        image = None if size is None else saved["sum_image"].reshape(size, size, 3)
        sample = dict(zip(saved["sample_of"].tolist(), saved["sample"], strict=True))
        state = cls(
            start=start,
            position=int(saved["position"]),
            moments=RgbMoments(num_images, num_pixels, saved["sum"], saved["products"], image),
            bad={int(i): str(reason) for i, reason in json.loads(saved["bad"].tobytes())},
            sample=sample,
        )
        if not start <= state.position <= stop or num_images + len(state.bad) != state.position - start:
            raise ValueError("its counts disagree")
        return state


def saved_position(path: Path, key: str, start: int) -> int:
    """Return how far the pass that saves to `path` has come, cheaply; `start` if nothing can be read."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return int(saved["position"]) if str(saved["key"]) == key else start
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return start
