"""Exact sums over pixels, from which every colour statistic follows.

Integers add without rounding, so any order, any split and any number of machines give the same bits.
`compute.py` feeds a data set through `RgbMoments`; `stats.py` turns the sums into means and eigenvectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# 255 * 255 times this is the greatest sum an int64 holds: 1.4e14 pixels, or 2.1e9 squares of 256 x 256.
MAX_PIXELS = (2**63 - 1) // (255 * 255)

# One block is 256 rows of 4 pixels. An entry of its Gram matrix is a sum of 256 products, at most
# 256 * 255 * 255 = 16,646,400 < 2**24, and so is every partial sum: float32 holds them all exactly, in
# whatever order BLAS adds. 64 blocks are 65,536 pixels: as float32 they fit a core's second-level cache.
BLOCKS, ROWS, PIXELS_PER_ROW = 64, 256, 4

MAX_UINT16_TERMS = 257  # 257 * 255 = 65,535


@dataclass(eq=False)
class RgbMoments:
    """Sums over uint8 RGB pixels, 0..255.

    `sum` int64 (3,); `products` int64 (3, 3), the sum of x xᵀ; `sum_image` int64 (S, S, 3), the sum of the
    images themselves when they are squares of one size, else None.
    """

    num_images: int
    num_pixels: int
    sum: NDArray[np.int64]
    products: NDArray[np.int64]
    sum_image: NDArray[np.int64] | None

    @classmethod
    def zero(cls, size: int | None = None) -> RgbMoments:
        """Return empty sums: for squares `size` x `size`, or with None for images of any shape."""
        image = None if size is None else np.zeros((size, size, 3), np.int64)
        return cls(0, 0, np.zeros(3, np.int64), np.zeros((3, 3), np.int64), image)

    def update(self, images: NDArray[np.uint8]) -> None:
        """Add squares, uint8 (B, S, S, 3)."""
        if self.sum_image is None:
            raise ValueError("these sums are of whole images: use update_image")
        shape = self.sum_image.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise ValueError(f"expected uint8 (B, *{shape}), found {images.dtype} {images.shape}")
        self._count(len(images), images.size // 3)
        added = _sum_uint8(images)  # (S, S, 3)
        self.sum_image += added
        self.sum += added.sum(axis=0).sum(axis=0)
        self.products += _products(images.reshape(-1))

    def update_on_device(self, images: torch.Tensor) -> None:
        """Add squares, uint8 (B, S, S, 3), on their own device; the same bits as `update`."""
        wide, shape = images.int(), tuple(images.shape)
        if self.sum_image is None or images.element_size() != 1 or shape[1:] != self.sum_image.shape:
            raise ValueError(f"expected uint8 squares like {self._image_shape}, found {images.dtype} {shape}")
        added = wide.sum(0).cpu().numpy()  # torch sums int32 in int64
        self._count(shape[0], wide.numel() // 3)
        self.sum_image += added
        self.sum += added.sum(axis=0).sum(axis=0)
        for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
            self.products[i, j] += (wide[..., i] * wide[..., j]).sum().item()
            self.products[j, i] = self.products[i, j]

    def update_image(self, image: NDArray[np.uint8]) -> None:
        """Add one image of any shape, uint8 (H, W, 3)."""
        if self.sum_image is not None:
            raise ValueError("these sums are of squares: use update")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 (H, W, 3), found {image.dtype} {image.shape}")
        self._count(1, image.size // 3)
        self.sum += _channel_sums(image.reshape(-1))
        self.products += _products(image.reshape(-1))

    def merge(self, other: RgbMoments) -> None:
        """Add the sums of other images, which must be of the same kind and size."""
        if self._image_shape != other._image_shape:
            mine, theirs = self._image_shape or "whole images", other._image_shape or "whole images"
            raise ValueError(f"cannot add sums over {theirs} to sums over {mine}")
        self._count(other.num_images, other.num_pixels)
        self.sum += other.sum
        self.products += other.products
        if self.sum_image is not None and other.sum_image is not None:
            self.sum_image += other.sum_image

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RgbMoments):
            return NotImplemented
        return (
            (self.num_images, self.num_pixels) == (other.num_images, other.num_pixels)
            and np.array_equal(self.sum, other.sum)
            and np.array_equal(self.products, other.products)
            and np.array_equal(_or_empty(self.sum_image), _or_empty(other.sum_image))
        )

    __hash__ = None  # type: ignore[assignment]  # the sums change

    @property
    def _image_shape(self) -> tuple[int, ...] | None:
        return None if self.sum_image is None else self.sum_image.shape

    def _count(self, num_images: int, num_pixels: int) -> None:
        if self.num_pixels + num_pixels > MAX_PIXELS:
            raise OverflowError(f"more than {MAX_PIXELS:,} pixels would overflow 64-bit sums")
        self.num_images += num_images
        self.num_pixels += num_pixels


def _or_empty(image: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.zeros(0, np.int64) if image is None else image


def _sum_uint8(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum (n, ...) over the first axis to int64 (...), in uint16 as long as that holds the sums."""
    total = np.zeros(values.shape[1:], np.int64)
    for start in range(0, len(values), MAX_UINT16_TERMS):
        total += np.add.reduce(values[start : start + MAX_UINT16_TERMS], axis=0, dtype=np.uint16)
    return total


def _channel_sums(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum interleaved RGB (3n,) to int64 (3,). Long rows first: sums along rows of three are slow."""
    whole = len(values) - len(values) % 3072
    rows = _sum_uint8(values[:whole].reshape(-1, 3072)).reshape(-1, 3)
    return rows.sum(axis=0) + values[whole:].reshape(-1, 3).sum(axis=0, dtype=np.int64)


def _products(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum x xᵀ over interleaved RGB uint8 (3n,) to int64 (3, 3).

    Float32 BLAS is exact on blocks this small. Rows of four pixels keep it busier than three columns would; of
    their 12 x 12 products only the four 3 x 3 blocks on the diagonal count. Sums of blocks stay far below
    2**53, where float64 is exact.
    """
    width = 3 * PIXELS_PER_ROW
    num_blocks = min(BLOCKS, -(-len(values) // (ROWS * width)))
    blocks = np.empty((num_blocks, ROWS, width), np.float32)
    gram = np.empty((num_blocks, width, width), np.float32)
    total = np.zeros((num_blocks, width, width), np.float64)
    flat = blocks.reshape(-1)
    for start in range(0, len(values), max(1, len(flat))):
        part = values[start : start + len(flat)]
        flat[: len(part)] = part
        flat[len(part) :] = 0  # black pixels add nothing
        np.matmul(blocks.transpose(0, 2, 1), blocks, out=gram)
        total += gram
    summed = total.sum(axis=0).astype(np.int64)  # (12, 12)
    return np.stack([summed[i : i + 3, i : i + 3] for i in range(0, width, 3)]).sum(axis=0)
