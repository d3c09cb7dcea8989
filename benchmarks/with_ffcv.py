"""FFCV: threads that run code compiled by numba over one file, a `.beton`.

The file holds the original bytes of the JPEGs (FFCV's own writer would re-encode them). Decoding is FFCV's
(libjpeg-turbo, whole image, fast DCT), and so is resampling (OpenCV's INTER_AREA, the crop alone). The order is the
plan's; crops and flips are those of its first epoch, compiled in and used in every epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder
from ffcv.fields.rgb_image import IMAGE_MODES, ResizedCropRGBImageDecoder
from ffcv.libffcv import imdecode, resize_crop
from ffcv.loader import Loader
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from ffcv.transforms import Squeeze, ToTensor, ToTorchImage
from ffcv.traversal_order.base import TraversalOrder
from ffcv.writer import DatasetWriter
from numpy.typing import NDArray
from tqdm import tqdm

from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.decode.bad_images import BadImage
from alexnet.pipeline.decode.read import read_image
from alexnet.pipeline.decode.settings import MAX_PIXELS
from alexnet.pipeline.geometry import CROP
from alexnet.pipeline.plan import Draws
from job import MEAN, Batches, Job, whole_pixel_crops
from prepare import cached

POSITIONS = 1_000_000  # in an epoch, at least: FFCV restarts after each, which would slow small data sets down

tqdm.monitor_interval = 0  # or the thread of the progress bar outlives FFCV's writer


def run(job: Job) -> Batches:
    """Yield batches until closed; FFCV's thread ends with them."""
    epoch = iter(_loader(job))
    try:
        for images, indices in epoch:
            yield images, indices.numpy()
    finally:
        epoch.close()
        epoch.join()
        torch.set_num_threads(1)  # FFCV changed it


def beton(dataset: Dataset) -> Path:
    """Return the data set as FFCV's file."""

    def write(path: Path) -> None:
        images, fields = _Images(dataset), {"image": StoredJpeg(), "index": IntField()}
        for index in range(len(images)):
            images[index]  # or FFCV waits for ever on a bad one
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(images)

    return cached(f"{dataset.fingerprint}.beton", write)


class StoredJpeg(RGBImageField):
    """An image field that keeps the bytes it is given."""

    def encode(self, destination: Any, image: tuple[NDArray[np.uint8], tuple[int, int]], malloc: Any) -> None:
        jpeg, (height, width) = image
        destination["mode"], destination["height"], destination["width"] = IMAGE_MODES["jpg"], height, width
        destination["data_ptr"], storage = malloc(len(jpeg))
        storage[:] = jpeg


class _Images:
    """What FFCV's writer iterates over: ((encoded bytes, (height, width)), the image's index)."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[tuple[NDArray[np.uint8], tuple[int, int]], int]:
        try:
            return read_image(self.dataset, int(index), MAX_PIXELS), int(index)
        except BadImage as error:
            raise BadImage(f"{self.dataset.name(index)}: {error}. FFCV needs a data set without bad images.") from error


@cache  # numba compiles for seconds
def _loader(job: Job) -> Any:
    plan = job.plan(0)
    images = [PlannedCrop(plan), FlipAndSubtract(plan), ToTensor(), ToTorchImage()]
    return Loader(
        str(beton(job.dataset)),
        batch_size=job.batch_size,
        num_workers=job.workers,
        order=PlannedOrder(job),
        os_cache=True,
        pipelines={"image": images, "index": [IntDecoder(), ToTensor(), Squeeze()]},
        custom_fields={"image": StoredJpeg},
    )


class PlannedOrder(TraversalOrder):
    """The plan's order, many epochs as one."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, loader: Any) -> PlannedOrder:
        return self

    def sample_order(self, epoch: int) -> NDArray[np.int64]:
        count = -(-POSITIONS // self.job.epoch_length)
        plans = map(self.job.plan, range(epoch * count, (epoch + 1) * count))
        return np.concatenate([plan.order[: self.job.epoch_length] for plan in plans])


class PlannedCrop(ResizedCropRGBImageDecoder):
    """FFCV's own decoder, with the plan's crops."""

    def __init__(self, plan: Draws) -> None:
        super().__init__((CROP, CROP))
        self.offsets = np.empty_like(plan.crops)
        self.offsets[plan.order] = plan.crops

    get_crop_generator = None  # where a crop is depends on the image

    def generate_code(self) -> Callable[..., Any]:
        shapes = np.stack([self.metadata["height"], self.metadata["width"]], axis=1).astype(np.int64)
        boxes = whole_pixel_crops(shapes, self.offsets)
        read, rows = self.memory_read, Compiler.get_iterator()
        decode_jpeg, resize = Compiler.compile(imdecode), Compiler.compile(resize_crop)

        def decode(batch_indices, my_storage, metadata, storage_state):  # type: ignore[no-untyped-def]
            destination, whole_images = my_storage
            for row in rows(len(batch_indices)):
                index = batch_indices[row]
                field = metadata[index]
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                jpeg = read(field["data_ptr"], storage_state)
                whole = whole_images[row]
                decode_jpeg(jpeg, whole, height, width, height, width, 0, 0, 1, 1, False, False)
                pixels = whole.reshape(-1)[: 3 * height * width].reshape(height, width, 3)
                top, bottom, left, right = boxes[index]
                resize(pixels, top, bottom, left, right, destination[row])
            return destination[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


class FlipAndSubtract(Operation):
    """Flip, convert to float32 and subtract the mean image in one pass (FFCV's NormalizeImage takes only a colour)."""

    def __init__(self, plan: Draws) -> None:
        super().__init__()
        self.flips = np.empty_like(plan.flips)
        self.flips[plan.order] = plan.flips

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        dtype = np.dtype(np.float32)
        state = State(True, previous_state.device, previous_state.shape, dtype)
        return state, AllocationQuery(previous_state.shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        flips, mean, rows = self.flips, MEAN, Compiler.get_iterator()

        def treat(images, result, batch_indices):  # type: ignore[no-untyped-def]
            _, height, width, channels = images.shape
            for row in rows(len(batch_indices)):
                flip = flips[batch_indices[row]]
                for y in range(height):
                    for x in range(width):
                        column = width - 1 - x if flip else x
                        for c in range(channels):
                            result[row, y, x, c] = images[row, y, column, c] - mean[y, x, c]
            return result[: len(batch_indices)]

        treat.is_parallel = treat.with_indices = True  # type: ignore[attr-defined]
        return treat
