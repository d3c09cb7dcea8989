"""Which of several images cannot be decoded, and why: asked by `stream.py` after DALI has refused a batch."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .graph import image_graph, new_pipeline


class Judge:
    """Decodes images one at a time, to tell the good from the bad."""

    def __init__(self, device_id: int | None) -> None:
        self._device_id = device_id
        self._pipeline: Any = None

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline = None

    def decodes(self, data: NDArray[np.uint8]) -> bool:
        self._data = data
        if self._pipeline is None:
            self._pipeline = new_pipeline(1, 1, self._device_id, prefetch=1)
            with self._pipeline:
                image_graph(self._pipeline, lambda: ([self._data],), decode="exact")
        try:
            self._pipeline.run()
        except RuntimeError:
            self._pipeline = None  # an error ends a DALI pipeline
            return False
        return True


def why(data: NDArray[np.uint8]) -> str:
    """Pillow says what is wrong with an image better than a decoder's log does."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
    except Exception as error:  # whatever it finds is the reason
        return str(error) or repr(error)
    return "truncated or corrupt (the decoder refused it)"
