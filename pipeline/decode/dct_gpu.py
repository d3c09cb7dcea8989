"""Batches of crops of coefficients, made on a GPU.

    images, numpy (host) or torch (device) -> one pinned block -> one copy -> `dct_triton.py` -> (b, size, size, 3)

`tensors.py` asks for them; it is the counterpart of `dct.py`'s `DctCropper` on a CPU. Copy and kernels run on a stream
of their own, beside the training step of the batch before. The bytes of an image that `resident.py` holds are on the
device already: only its address is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from .crops import Cropper

Image = NDArray[np.uint8] | Tensor  # checked by `check_dct`; uint8 (n,), n a multiple of 4
Inputs = dict[str, NDArray[Any]]
_KINDS: dict[str, Any] = {"low": np.int32, "mirror": np.int32, "shift": np.float32}  # what `decode_crops` takes


class GpuCropper(Cropper):
    """Turns batches of images of coefficients into squares of `size` x `size` pixels on `device`.

    With `mean`, (size, size, 3) or (3,): float32, or float16 if `half`, (level + shift - mean) / divisor, all in grey
    levels; without it uint8 levels. The results are those of `DctCropper`, to the bit. A CPU will do as the device if
    Triton interprets. UserError if there is no Triton.
    """

    def __init__(
        self,
        size: int,
        device: torch.device,
        mean: NDArray[np.float32] | None = None,
        divisor: NDArray[np.float32] | None = None,
        half: bool = False,
    ) -> None:
        try:
            from .dct_triton import decode_crops  # torch's wheels for CPUs have no Triton
        except ModuleNotFoundError as missing:
            needed = "A GPU decodes coefficients by Triton, which is not installed"
            raise UserError(f"{needed}: torch's wheels for GPUs bring it. Or use --device cpu.") from missing
        super().__init__(threads=1)
        self._decode, self._size, self._device = decode_crops, size, device
        factor = 1 / np.ascontiguousarray(np.ones(3) if divisor is None else divisor, np.float32)
        self._factor, self._mean = torch.from_numpy(factor).to(device), None
        if mean is not None:
            whole = np.broadcast_to(mean, (size, size, 3)).astype(np.float32)
            self._mean = torch.from_numpy(whole).to(device)
        self._dtype = torch.uint8 if mean is None else torch.float16 if half else torch.float32
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, images: Sequence[Image], inputs: Inputs) -> Callable[[], Tensor]:
        """Begin a batch; return a function that returns it, (b, size, size, 3), for use on the current stream.

        `inputs` are arrays of (b, ...): `low`, the crops' corners, and for training `mirror` and `shift`.
        """
        made = self._pool.submit(self._make, images, inputs)

        def finish() -> Tensor:
            out, done = made.result()
            if done is not None:
                now = torch.cuda.current_stream(self._device)
                now.wait_event(done)
                out.record_stream(now)  # whose work its memory has to outlive
            return out

        return finish

    def _make(self, images: Sequence[Image], inputs: Inputs) -> tuple[Tensor, torch.cuda.Event | None]:
        with torch.cuda.stream(self._stream):  # None changes nothing
            out = torch.empty((len(images), self._size, self._size, 3), dtype=self._dtype, device=self._device)
            block, sent = self._send(images, inputs)
            self._decode(*sent, self._mean, self._factor, out)
            del block  # not before the kernels are queued
            return out, None if self._stream is None else self._stream.record_event()

    def _send(self, images: Sequence[Image], inputs: Inputs) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Copy a batch to the device, as one block; return it and what the kernels take, views of its beginning."""
        count = len(images)
        inputs = {"mirror": np.zeros(count), "shift": np.zeros((count, 3))} | inputs  # evaluation has neither
        corner, mirror, shift = (np.ascontiguousarray(inputs[name], kind) for name, kind in _KINDS.items())
        addresses = np.zeros(count, np.int64)
        head: list[NDArray[Any]] = [addresses, corner, mirror, shift]
        ends = np.cumsum([array.nbytes for array in head])
        bytes_of = [len(image) if isinstance(image, np.ndarray) else 0 for image in images]
        block = torch.empty(int(ends[-1]) + sum(bytes_of), dtype=torch.uint8, device=self._device)
        begin = block.data_ptr() + ends[-1] + np.cumsum([0, *bytes_of])
        for i, image in enumerate(images):
            addresses[i] = begin[i] if isinstance(image, np.ndarray) else image.data_ptr()
        staged = torch.empty(len(block), dtype=torch.uint8, pin_memory=self._stream is not None)
        parts = [array.reshape(-1).view(np.uint8) for array in head]
        np.concatenate([*parts, *(i for i in images if isinstance(i, np.ndarray))], out=staged.numpy())
        block.copy_(staged, non_blocking=True)
        a, b, c, d = block[: ends[-1]].split([array.nbytes for array in head])
        return block, (a.view(torch.int64), b.view(torch.int32), c.view(torch.int32), d.view(torch.float32))
