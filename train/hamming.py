"""Binary codes: how rows become bits, and the nearest codes by the number of bits that differ.

`autoencoder.py` trains an `Encoder`; `codes.py` writes the codes and measures how well they stand for the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .row_blocks import row_blocks

WORDS = (np.uint64, np.uint32, np.uint16, np.uint8)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A row x (d,) becomes the signs of (x - mean) @ weight + bias: a bit is 1 where that is above 0."""

    mean: NDArray[np.float32]  # (d,)
    weight: NDArray[np.float32]  # (d, bits)
    bias: NDArray[np.float32]  # (bits,)

    def encode(self, rows: NDArray[Any], progress: Callable[[int], None] = lambda done: None) -> NDArray[np.uint8]:
        """Return codes, uint8 (n, bits / 8), of rows (n, d), float32 or float16, mapped or not."""
        weight, bias = torch.from_numpy(self.weight), torch.from_numpy(self.bias - self.mean @ self.weight)
        codes = np.empty((len(rows), self.weight.shape[1] // 8), np.uint8)
        for start, block in row_blocks(rows):
            bits = torch.addmm(bias, block, weight) > 0
            codes[start : start + len(block)] = np.packbits(bits.numpy(), axis=1)
            progress(start + len(block))
        return codes


def random_hyperplanes(mean: NDArray[np.float32], bits: int, seed: int) -> Encoder:
    """What needs no training: normally distributed directions, on centred rows (Charikar, STOC 2002)."""
    weight = np.random.default_rng(seed).standard_normal((len(mean), bits), np.float32)
    return Encoder(mean, weight, np.zeros(bits, np.float32))


class CodeSearch:
    """Searches codes, uint8 (n, bytes), for the nearest by Hamming distance: an xor, and a count of ones."""

    def __init__(self, codes: NDArray[np.uint8]) -> None:
        self._word = next(word for word in WORDS if codes.shape[1] % np.dtype(word).itemsize == 0)
        self._columns = np.ascontiguousarray(codes.view(self._word).T)  # a word of every code side by side

    def nearest(self, code: NDArray[np.uint8], k: int) -> NDArray[np.int64]:
        """The `k` nearest to a code (bytes,), nearest first; of equally near ones the first."""
        distances = np.zeros(self._columns.shape[1], np.uint16)
        for column, word in zip(self._columns, code.view(self._word), strict=True):
            distances += np.bitwise_count(column ^ word)
        farthest = np.partition(distances, k - 1)[k - 1]
        candidates = np.flatnonzero(distances <= farthest)
        return candidates[np.argsort(distances[candidates], kind="stable")[:k]]
