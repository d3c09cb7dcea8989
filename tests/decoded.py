"""What DALI makes of encoded images, beside what Pillow does."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.pipeline.decode.graph import image_graph, new_pipeline, region_graph

START, END = (9, 5), (31, 44)  # a region: top and left, bottom and right

Pixels = NDArray[np.uint8]


def whole_and_region(images: Sequence[NDArray[np.uint8]]) -> list[tuple[Pixels, Pixels]]:
    """Each image of at least `END`, decoded whole and of the region alone."""
    start, end = (np.array([corner] * len(images), np.int32) for corner in (START, END))
    return list(zip(_run(image_graph, images), _run(region_graph, images, start, end), strict=True))


def assert_pillows(pixels: tuple[Pixels, Pixels], image: bytes) -> None:
    """Both are Pillow's, bit for bit."""
    expected = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    np.testing.assert_array_equal(pixels[0], expected)
    np.testing.assert_array_equal(pixels[1], expected[START[0] : END[0], START[1] : END[1]])


def _run(build: Any, *inputs: Any) -> list[Pixels]:
    pipeline = new_pipeline(len(inputs[0]), 1, None, prefetch=1)
    with pipeline:
        build(pipeline, lambda: inputs, decode="exact")
    return [np.array(image) for image in pipeline.run()[0]]
