"""The loader that most people use, following our plan: torch's DataLoader with Pillow.

`compare.py` and `benchmarks/with_pillow.py` measure it beside ours. Its worker processes import this module, so it must
not import DALI.
"""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Generator
from multiprocessing.context import BaseContext

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from ..dataset.images import Dataset
from ..decode.dct import decode_dct
from ..geometry import CROP, SHORT_SIDE, centre_offset, resized_shape
from ..plan import draw_epoch

PillowBatches = Generator[tuple[torch.Tensor, NDArray[np.int64]], None, None]
EPOCHS = 1000  # more than any measurement uses


class PillowImages(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Each position of the plan, epoch after epoch: (224, 224, 3), the mean subtracted, and the image's index.

    float32, or float16 if `half`. `mean` is float32 (224, 224, 3), 0..255. `region` resamples only what the crop shows,
    in one call; otherwise the whole image is resized and then cropped, as torchvision's transforms do.
    """

    def __init__(
        self, dataset: Dataset, mean: NDArray[np.float32], batch_size: int, seed: int, region: bool, half: bool = False
    ) -> None:
        self.images = dataset
        self.mean, self.seed, self.region, self.half = torch.from_numpy(mean), seed, region, half
        self.length = len(dataset) // batch_size * batch_size
        self.epoch = -1

    def __len__(self) -> int:
        return self.length * EPOCHS

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        epoch, row = divmod(position, self.length)
        if epoch != self.epoch:
            self.epoch, self.plan = epoch, draw_epoch(len(self.images), self.seed, epoch)[:]
        index = int(self.plan.order[row])
        with self.decode(self.images.read(index)) as image:
            crop = self.resample(image.convert("RGB"), *self.plan.crops[row].tolist())
        pixels = torch.from_numpy(np.array(crop))  # torch subtracts faster than numpy
        treated = (pixels.flip(1) if self.plan.flips[row] else pixels) - self.mean
        return treated.half() if self.half else treated, index

    def decode(self, content: NDArray[np.uint8]) -> Image.Image:
        if self.images.stored == "dct":
            return Image.fromarray(decode_dct(content))
        if self.images.stored == "raw":
            return Image.fromarray(content.reshape(SHORT_SIDE, SHORT_SIDE, 3))
        return Image.open(io.BytesIO(content.tobytes()))

    def resample(self, image: Image.Image, top: int, left: int) -> Image.Image:
        ((height, width),) = resized = resized_shape(np.array([[image.height, image.width]]))
        y, x = (centre_offset(resized)[0] + (top, left)).tolist()
        box = (x, y, x + CROP, y + CROP)
        if not self.region:
            return image.resize((int(width), int(height)), Image.Resampling.BILINEAR).crop(box)
        across, down = image.width / width, image.height / height
        source = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        return image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=source)


def pillow_batches(
    dataset: Dataset,
    *,
    mean: NDArray[np.float32],
    batch_size: int,
    seed: int,
    workers: int = 0,
    region: bool = False,
    device_id: int | None = None,
) -> PillowBatches:
    """Yield batches (B, 3, 224, 224), channels last like ours, and their indices (B,), epoch after epoch.

    float32, or on a GPU float16, in which they are made and sent, as ours are. As in PyTorch's own ImageNet example:
    `workers` processes, or none, and pinned memory on the way to a GPU.
    """
    loader = DataLoader(
        PillowImages(dataset, mean, batch_size, seed, region, half=device_id is not None),
        batch_size,
        num_workers=workers,
        multiprocessing_context=_workers_context() if workers else None,
        pin_memory=device_id is not None,
    )
    device = torch.device("cpu" if device_id is None else f"cuda:{device_id}")
    for images, indices in loader:
        yield images.to(device, non_blocking=True).permute(0, 3, 1, 2), indices.numpy()


def _workers_context() -> BaseContext:
    """Fork workers from a server that imports this module once: DALI's threads would not survive a fork of ours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def worker_counts(cores: int) -> list[int]:
    """Return the numbers of worker processes worth trying: none, the powers of two, and one for each core."""
    return sorted({0, *(2**k for k in range(cores.bit_length()) if 2**k < cores), cores})
