"""Which image of a batch DALI refuses, and what is wrong with it.

DALI says that a batch has failed, not which of its images. `stream.py` then tries them here one by one.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .graph import IMAGE_INPUTS, REGION_INPUTS, image_graph, new_pipeline, region_graph


class DecodeProbe:
    """Decodes one image at a time.

    Decode `whole` images, or only regions for a stream that crops: a region may decode where the whole does not.
    """

    def __init__(self, device_id: int | None, *, whole: bool) -> None:
        self._device_id = device_id
        self._build_graph = image_graph if whole else region_graph
        self._names = IMAGE_INPUTS if whole else REGION_INPUTS
        self._pipeline: Any = None
        self._inputs: tuple[Any, ...] = ()

    def decodes(self, inputs: dict[str, Any], row: int) -> bool:
        """Whether DALI decodes one row of a feed's inputs."""
        self._inputs = tuple(inputs[name][row : row + 1] for name in self._names)
        try:
            self._pipeline = self._pipeline or self._new_pipeline()
            self._pipeline.run()
        except RuntimeError:
            self._pipeline = None  # an error ends a DALI pipeline
            return False
        return True

    def _new_pipeline(self) -> Any:
        pipeline = new_pipeline(1, 1, self._device_id, prefetch=1)
        with pipeline:
            self._build_graph(pipeline, lambda: self._inputs, decode="exact")
        return pipeline


def describe_damage(data: NDArray[np.uint8]) -> str:
    """Say what is wrong with an image that DALI refused, in Pillow's clearer words: the same for the same bytes."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
    except UnidentifiedImageError:  # its message names the buffer's address in memory
        return "damaged (its header cannot be read)"
    except Exception as error:  # Pillow's plugins raise many kinds of errors; each is a reason
        return f"damaged ({str(error) or type(error).__name__})"
    return "damaged (the decoder refused it)"
