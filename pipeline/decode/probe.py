"""Which image of a batch DALI refuses, and what is wrong with it.

DALI says that a batch has failed, not which of its images, nor whether an image was to blame: out of memory and a GPU
that no longer works look the same. `stream.py` then tries the images here one by one.
"""

from __future__ import annotations

import io
import re
import warnings
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .graph import IMAGE_INPUTS, REGION_INPUTS, image_graph, new_pipeline, region_graph

# What DALI's errors are about when no image is to blame (its include/dali/core/cuda_error.h).
DEVICE = re.compile(
    "CUDA (runtime|driver) API error|CUDA allocation failed|Can't allocate|bad_alloc|out of memory", re.I
)
MEMORY = re.compile("MemoryAllocation|allocation failed|Can't allocate|bad_alloc|out of memory", re.I)


def raise_if_not_of_images(error: RuntimeError) -> None:
    """Raise an error of DALI's that names the device or its memory; MemoryError for the latter."""
    if MEMORY.search(str(error)):
        raise MemoryError(f"while decoding images: {summary(error)}") from error
    if DEVICE.search(str(error)):
        raise error


def summary(error: RuntimeError) -> str:
    """Return the line of DALI's many that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if DEVICE.search(line)), lines[0] if lines else type(error).__name__)


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
        """Whether DALI decodes one row of a feed's inputs.

        Raise DALI's error if it refuses a good image too, which then blames the device, or if it says so itself.
        """
        error = self._try(tuple(inputs[name][row : row + 1] for name in self._names))
        if error is None:
            return True
        raise_if_not_of_images(error)
        if self._try(tuple(_good_image()[name] for name in self._names)) is not None:
            raise error
        return False

    def _try(self, inputs: tuple[Any, ...]) -> RuntimeError | None:
        self._inputs = inputs
        try:
            self._pipeline = self._pipeline or self._new_pipeline()
            self._pipeline.run()
        except RuntimeError as error:
            self._pipeline = None  # an error ends a DALI pipeline
            return error
        return None

    def _new_pipeline(self) -> Any:
        pipeline = new_pipeline(1, 1, self._device_id, prefetch=1)
        with pipeline:
            self._build_graph(pipeline, lambda: self._inputs, decode="exact")
        return pipeline


@cache
def _good_image() -> dict[str, Any]:
    """A feed of one small JPEG that every decoder takes."""
    Image.new("RGB", (32, 24), (124, 117, 104)).save(encoded := io.BytesIO(), "JPEG")
    jpeg = np.frombuffer(encoded.getvalue(), np.uint8)
    return {"encoded": [jpeg], "start": np.zeros((1, 2), np.int32), "end": np.array([[24, 32]], np.int32)}


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
