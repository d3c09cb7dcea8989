"""The plan of an epoch: the order of its images, and the random crop, flip and lighting of each.

Everything random about an epoch follows from the seed and the epoch's number alone. Its order is a permutation,
drawn as a whole: of all images, or within a window that moves over shards in random order. The crop, flip and lighting
of a position are drawn when asked for, from a generator that counts positions. A batch is a slice of the plan, and a
rank's share a slice of that, so the augmentation of an image depends neither on the number of threads, ranks and
machines nor on where the run was interrupted. The loader's whole state is (seed, epoch, step), and fifteen million
images take no more memory than their order.

`loader.py` takes batches from it; `geometry.py` turns crops into rectangles of the source images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

NUM_OFFSETS = 33  # 0..32 inclusive on each axis: (256 - 224) + 1; the paper's 2048 counts 32 (section 4.1)
WORDS = 8  # 32-bit words that Philox4x64 gives at each count: crop 0 and 1, flip 2, lighting 3 to 5


@dataclass(frozen=True)
class Draws:
    """What was drawn for b consecutive positions of an epoch."""

    order: NDArray[np.int64]  # (b,): images
    crops: NDArray[np.uint8]  # (b, 2): the crop's top and left, 0..32 within a 256-square
    flips: NDArray[np.bool_]  # (b,): mirrored left to right
    lighting: NDArray[np.float32]  # (b, 3): standard normal draws, one per principal colour axis


@dataclass(frozen=True)
class Plan:
    """One epoch over n images; `plan[start:stop]` gives the draws of these positions."""

    order: NDArray[np.int32]  # (n,): a permutation of the images
    key: NDArray[np.unsignedinteger]  # (2,): Philox's, for all the rest
    images_per_crop: int  # positions in a row that share a crop and a flip
    random_crop: bool
    random_flip: bool
    num_offsets: int = NUM_OFFSETS  # places of a crop, each way

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, positions: slice) -> Draws:
        start, stop, stride = positions.indices(len(self))
        assert stride == 1
        first = start - start % self.images_per_crop  # the position whose crop and flip `start` shares
        words = self._words(first, max(stop, start))
        wanted = np.arange(start, stop)
        shared = words[wanted - wanted % self.images_per_crop - first]
        crops = (shared[:, :2] * np.uint64(self.num_offsets) >> np.uint64(32)).astype(np.uint8)
        uniform = (words[start - first :, 3:6] + 0.5) / 2**32
        return Draws(
            order=self.order[positions].astype(np.int64),
            crops=crops if self.random_crop else np.full_like(crops, (self.num_offsets - 1) // 2),
            flips=(shared[:, 2] & np.uint64(1)).astype(bool) & self.random_flip,
            lighting=ndtri(uniform).astype(np.float32),
        )

    def _words(self, start: int, stop: int) -> NDArray[np.uint64]:
        """(stop - start, 8), each below 2**32: the generator's output at these counts."""
        blocks = np.random.Philox(key=self.key, counter=start).random_raw((stop - start) * WORDS // 2)
        halves = np.stack([blocks & np.uint64(2**32 - 1), blocks >> np.uint64(32)], axis=-1)
        return halves.reshape(-1, WORDS)


def draw_epoch(
    num_images: int,
    seed: int,
    epoch: int,
    *,
    images_per_crop: int = 1,
    random_crop: bool = True,
    random_flip: bool = True,
    num_offsets: int = NUM_OFFSETS,
    shards: NDArray[np.int32] | None = None,
    window: int | None = None,
) -> Plan:
    """Draw the plan of one epoch.

    With a `window`, the order goes through `shards`, which has the shard of each image, and mixes within `window`
    images (`_mix_within`); without one it mixes all of them.
    `images_per_crop` consecutive positions share one crop and one flip: 32 in the authors' loader (`crop_chunk` in
    convdata.py), 1 is usual. Without `random_crop` every crop is the centre, (16, 16). Turning one kind of draw off
    leaves the others as they were. `num_offsets` differs for crops of other sizes (`geometry.num_offsets`), and for
    CIFAR-10, whose crops have 9 places each way.
    """
    if num_images < 1 or images_per_crop < 1:
        raise ValueError(f"A plan needs at least 1 image and 1 image per crop, not {num_images} and {images_per_crop}.")
    shuffling, augmenting = np.random.SeedSequence([seed, epoch]).spawn(2)
    rng = np.random.Generator(np.random.Philox(shuffling))
    if window is None or shards is None:
        order = np.arange(num_images, dtype=np.int32)
        rng.shuffle(order)
    else:
        order = _mix_within(window, shards, rng)
    key = augmenting.generate_state(2, np.uint64)
    return Plan(order, key, images_per_crop, random_crop, random_flip, num_offsets)


def _mix_within(window: int, shards: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
    """Return an order of the images (n,) that reads from few shards at a time.

    The shards are laid end to end in random order, and each image goes anywhere between the start of its shard and
    `window` positions after it, whatever its place in the shard; then they close ranks. So when the order comes to a
    place, it has read from no shard that starts later, and has finished those that start more than `window` before.
    """
    counts = np.bincount(shards - shards.min())
    sequence = rng.permutation(len(counts))
    starts = np.empty(len(counts))
    starts[sequence] = np.cumsum(counts[sequence]) - counts[sequence]
    return np.argsort(starts[shards - shards.min()] + window * rng.random(len(shards)), kind="stable").astype(np.int32)


def draw_ahead(draw: Callable[[int], Plan], epochs: Iterable[int]) -> Iterator[Plan]:
    """Yield the plans of these epochs, each drawn while the one before is in use: millions of images take a second."""
    with ThreadPoolExecutor(1, thread_name_prefix="alexnet-plan") as pool:
        drawn = (pool.submit(draw, epoch) for epoch in epochs)
        following = next(drawn, None)
        while following is not None:
            plan, following = following.result(), next(drawn, None)
            yield plan


def share(batch_size: int, rank: int, num_ranks: int) -> slice:
    """The rows of a global batch that belong to one data-parallel rank; the shares differ by at most one row."""
    return slice(batch_size * rank // num_ranks, batch_size * (rank + 1) // num_ranks)
