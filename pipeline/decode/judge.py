"""Which of several images cannot be decoded, and why: asked by `stream.py` after DALI has refused a batch."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .graph import IMAGE_INPUTS, REGION_INPUTS, image_graph, new_pipeline, region_graph


class Judge:
    """Decodes images one at a time, to tell the good from the bad.

    `whole` or, as a stream does that crops, only the region: part of an image may decode where the whole does not.
    """

    def __init__(self, device_id: int | None, *, whole: bool) -> None:
        self._device_id, self._whole = device_id, whole
        self._names = IMAGE_INPUTS if whole else REGION_INPUTS
        self._pipeline: Any = None
        self._inputs: tuple[Any, ...] = ()

    def decodes(self, inputs: dict[str, Any], row: int) -> bool:
        """Whether one row of a feed's inputs can be decoded."""
        self._inputs = tuple(inputs[name][row : row + 1] for name in self._names)
        try:
            self._pipeline = self._pipeline or self._build()
            self._pipeline.run()
        except RuntimeError:
            self._pipeline = None  # an error ends a DALI pipeline
            return False
        return True

    def _build(self) -> Any:
        pipeline = new_pipeline(1, 1, self._device_id, prefetch=1)
        with pipeline:
            if self._whole:
                image_graph(pipeline, lambda: self._inputs, decode="exact")
            else:
                region_graph(pipeline, lambda: self._inputs, decode="exact")
        return pipeline


def why(data: NDArray[np.uint8]) -> str:
    """Pillow says what is wrong with an image better than a decoder's log does; of the same bytes always the same."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
    except UnidentifiedImageError:  # (it says where in memory the bytes are)
        return "damaged (its header cannot be read)"
    except Exception as error:  # whatever it finds is the reason
        return f"damaged ({str(error) or type(error).__name__})"
    return "damaged (the decoder refused it)"
