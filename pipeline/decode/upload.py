"""Batches from the CPU to a GPU, copied beside what the GPU computes.

For `--decode-on cpu`: `crops.py` makes batches in page-locked memory, and `tensors.py` sends them through here.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from numpy.typing import NDArray


class Upload:
    """Copies arrays to `device` on a stream of its own.

    An array may be in use until the second one after it has been given; it should be page-locked, or else the copy
    waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._begun: deque[tuple[torch.cuda.Event, NDArray[Any]]] = deque()

    def __call__(self, array: NDArray[Any]) -> torch.Tensor:
        """Return the array on the device; what the current stream does next waits for the copy, the host does not."""
        with torch.cuda.stream(self._stream):
            images = torch.from_numpy(array).to(self._device, non_blocking=True)
            copied = self._stream.record_event()
        now = torch.cuda.current_stream(self._device)
        now.wait_event(copied)
        images.record_stream(now)  # its memory belongs to the other stream
        self._begun.append((copied, array))
        if len(self._begun) > 2:
            self._begun.popleft()[0].synchronize()
        return images

    def close(self) -> None:
        """Wait until no array is in use."""
        self._stream.synchronize()
        self._begun.clear()
