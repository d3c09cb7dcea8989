"""A large array read once, block by block, in bounded memory: mapped features on their way into a matrix product.

`feature_folder.py` maps them; `nearest.py` searches them, and `codes.py` encodes them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_BYTES = 2**25  # of float32: large enough for two threads, small enough to stay in a large cache


def row_blocks(rows: NDArray[Any]) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, float32 (b, d)) for rows (n, d) of float32 or float16, in order; the next block overwrites it.

    Pages of a mapped array are dropped once read, so that the array never counts as memory of this process.
    """
    size = max(1, min(len(rows), BLOCK_BYTES // (4 * rows.shape[1])))
    stored, block = np.empty((size, rows.shape[1]), rows.dtype), torch.empty(size, rows.shape[1])
    for start in range(0, len(rows), size):
        count = min(size, len(rows) - start)
        stored[:count] = rows[start : start + count]  # torch takes no read-only memory
        drop_pages(rows)
        block[:count] = torch.from_numpy(stored[:count])  # torch converts float16 many times as fast as numpy
        yield start, block[:count]


def drop_pages(rows: NDArray[Any]) -> None:
    """Give back the pages of a mapped array, or of a view of one; the kernel keeps them as long as it has room."""
    owner: Any = rows
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)
