"""DataLoader with Pillow."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.pipeline.geometry import CROP, centre_offset, resized_shape
from dataloader import dataloader
from job import Batches, Job


def run(job: Job) -> Batches:
    yield from dataloader(job, resize_then_crop)


def run_region(job: Job) -> Batches:
    yield from dataloader(job, resize_crop)


def resize_then_crop(jpeg: NDArray[np.uint8], place: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The whole image is resized and then cropped, as torchvision's transforms do."""
    with Image.open(io.BytesIO(jpeg.tobytes())) as image:
        (height, width), box = _resized(image, place)
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        return np.array(resized.crop(box))


def resize_crop(jpeg: NDArray[np.uint8], place: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Only what the crop shows is resampled: the most that Pillow can do."""
    with Image.open(io.BytesIO(jpeg.tobytes())) as image:
        (height, width), (left, top, right, bottom) = _resized(image, place)
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, right * across, bottom * down)
        return np.array(image.convert("RGB").resize((CROP, CROP), Image.Resampling.BILINEAR, box=box))


def _resized(image: Image.Image, place: NDArray[np.integer]) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """Height and width once the shorter side is 256, and the crop's box in that: left, top, right, bottom."""
    (resized,) = resized_shape(np.array([[image.height, image.width]]))
    top, left = (centre_offset(resized[None])[0] + place).tolist()
    return (int(resized[0]), int(resized[1])), (left, top, left + CROP, top + CROP)
