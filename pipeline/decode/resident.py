"""Images of coefficients held in a device's memory, so that an epoch does not read them again.

`stream.py` takes an image from here instead of reading it, `dct_gpu.py` decodes it where it is. What comes out of a
loader has the same bits whether all of its images are held, some, or none.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..dataset.images import Dataset
from ..errors import UserError
from ..sizes import as_size
from .bad_images import BadImage
from .read import read_image
from .settings import Settings

ALIGNMENT = 16  # bytes; the kernels load words
PART = 2**26  # bytes that are read, then copied to the device in one go


class Resident:
    """The first images of a data set of coefficients, in its order, up to `limit` bytes of them, on `device`.

    They are read and checked now; `progress` gets the number read, and that of all. An image that cannot be used is
    not held, so that whoever asks for it reads it, finds it bad, and does what it always does. UserError if the memory
    cannot be had.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        limit: int,
        settings: Settings,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        assert dataset.stored == "dct"
        room = -(-dataset.lengths // ALIGNMENT) * ALIGNMENT
        ends = np.cumsum(room)
        count = int(np.searchsorted(ends, limit, side="right"))
        self._ends, self._begins, self._lengths = ends[:count], (ends - room)[:count], dataset.lengths[:count]
        self._sound = np.zeros(count, bool)
        self._data = _allocate(int(ends[count - 1]) if count else 0, device)
        done, reached = 0, dataset.ahead(np.arange(count))
        with (
            ThreadPoolExecutor(settings.readers, thread_name_prefix="alexnet-read") as pool,
            dataset.while_reading() as dataset,
        ):
            while done < count:
                reached(done)
                until = max(int(np.searchsorted(ends[:count], self._begins[done] + PART, side="right")), done + 1)
                self._fill(dataset, np.arange(done, until), settings, pool)
                done = until
                progress(done, count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # other streams will read it

    def __len__(self) -> int:
        """How many images are held."""
        return int(self._sound.sum())

    @property
    def num_bytes(self) -> int:
        return len(self._data)

    def get(self, index: int) -> Tensor | None:
        """Return an image as it is stored, uint8 (n,) on the device; None if it is not held."""
        if index >= len(self._sound) or not self._sound[index]:
            return None
        begin = int(self._begins[index])
        return self._data[begin : begin + int(self._lengths[index])]

    def _fill(self, dataset: Dataset, indices: NDArray[np.int64], settings: Settings, pool: ThreadPoolExecutor) -> None:
        """Read these consecutive images and copy them to the device."""
        begin, end = int(self._begins[indices[0]]), int(self._ends[indices[-1]])
        staged = torch.zeros(end - begin, dtype=torch.uint8, pin_memory=self._data.is_cuda)

        def read(index: int) -> bool:
            try:
                image, _ = read_image(dataset, index, settings.max_pixels)
            except BadImage:
                return False
            staged.numpy()[self._begins[index] - begin :][: len(image)] = image
            return True

        self._sound[indices] = list(pool.map(read, indices.tolist()))
        self._data[begin:end].copy_(staged, non_blocking=True)


def _allocate(size: int, device: torch.device) -> Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, device=device)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        wanted = f"{as_size(size)} for resident images are more than {device} has free"
        raise UserError(f"{wanted}: give --resident a smaller size, or none.") from error
