"""DataLoader with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from alexnet.pipeline.geometry import CROP
from dataloader import dataloader
from job import Batches, Job, whole_pixel_crop

cv2.setNumThreads(0)  # the processes run in parallel already


def run(job: Job) -> Batches:
    yield from dataloader(job, resize_crop)


def resize_crop(jpeg: NDArray[np.uint8], place: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Resample only what the crop shows, by INTER_AREA: the only antialiased resizing that OpenCV has."""
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    height, width, _ = image.shape
    top, bottom, left, right = whole_pixel_crop(height, width, place)
    return cv2.resize(image[top:bottom, left:right], (CROP, CROP), interpolation=cv2.INTER_AREA)
