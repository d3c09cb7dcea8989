"""`torch.utils.data.DataLoader` with our plan, as PyTorch's own ImageNet example uses it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from alexnet.pipeline.geometry import CROP
from job import Batches, Job, treat

EPOCHS = 1000  # more than any window uses
Crop = Callable[[NDArray[np.uint8], NDArray[np.integer]], NDArray[np.uint8]]  # JPEG, place (2,) -> (224, 224, 3)


def dataloader(job: Job, crop: Crop) -> Batches:
    """Yield batches of the crops that `crop`, which workers must be able to import, makes of encoded images."""
    loader = DataLoader(
        CroppedImages(job, crop),
        job.batch_size,
        num_workers=job.workers or 0,
        multiprocessing_context="forkserver" if job.workers else None,  # DALI's threads do not survive a fork
    )
    for images, indices in loader:
        yield images.permute(0, 3, 1, 2), indices.numpy()  # channels last, like ours


class CroppedImages(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The plan's positions, epoch after epoch: float32 (224, 224, 3) and the image's index."""

    def __init__(self, job: Job, crop: Crop) -> None:
        self.job, self.crop, self.epoch = job, crop, -1

    def __len__(self) -> int:
        return self.job.epoch_length * EPOCHS

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        epoch, row = divmod(position, self.job.epoch_length)
        if epoch != self.epoch:
            self.epoch, self.plan = epoch, self.job.plan(epoch)
        index, image = int(self.plan.order[row]), torch.empty(CROP, CROP, 3)
        treat(self.crop(self.job.dataset.read(index), self.plan.crops[row]), bool(self.plan.flips[row]), image)
        return image, index
