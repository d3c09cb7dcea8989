"""Which images come next, and how each of them is disturbed.

`draw_epoch` draws everything random about one epoch at once, from the seed and the epoch's number alone. A batch
is a slice of it, a rank's share a slice of that, so what an image meets depends neither on the number of
threads, ranks and machines nor on where the run was interrupted: the loader's whole state is (seed, epoch, step).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_OFFSETS = 33  # 0..32 inclusive on each axis: (256 - 224) + 1; the paper's 2048 counts 32 (section 4.1)


@dataclass(frozen=True)
class Plan:
    """One epoch over n images, position by position."""

    order: NDArray[np.int64]  # (n,): a permutation of the images
    crops: NDArray[np.uint8]  # (n, 2): the crop's top and left within the 256-square, 0..32
    flips: NDArray[np.bool_]  # (n,): mirrored left to right
    lighting: NDArray[np.float32]  # (n, 3): standard normal draws, one per principal colour axis


def draw_epoch(
    num_images: int,
    seed: int,
    epoch: int,
    *,
    run: int = 1,
    random_crop: bool = True,
    random_flip: bool = True,
) -> Plan:
    """Draw the plan of one epoch.

    `run` consecutive positions share one crop and one flip: 32 in the authors' loader (`crop_chunk` in
    convdata.py), 1 is the usual choice. Without `random_crop` every crop is the centre, (16, 16). Each of the four
    arrays has its own stream, so a switch that silences one leaves the others as they were.
    """
    if num_images < 1 or run < 1:
        raise ValueError(f"A plan needs images and runs of at least 1 (num_images={num_images}, run={run}).")
    streams = np.random.SeedSequence([seed, epoch]).spawn(4)
    order, crops, flips, lighting = (np.random.Generator(np.random.Philox(s)) for s in streams)
    num_runs = -(-num_images // run)
    centre = np.full((num_images, 2), (NUM_OFFSETS - 1) // 2, np.uint8)
    offsets = crops.integers(0, NUM_OFFSETS, (num_runs, 2), dtype=np.uint8)
    mirrored = flips.integers(0, 2, num_runs, dtype=np.uint8).astype(bool)
    return Plan(
        order=order.permutation(num_images),
        crops=np.repeat(offsets, run, axis=0)[:num_images] if random_crop else centre,
        flips=np.repeat(mirrored, run)[:num_images] if random_flip else np.zeros(num_images, bool),
        lighting=lighting.standard_normal((num_images, 3), dtype=np.float32),
    )


def share(batch_size: int, rank: int, num_ranks: int) -> slice:
    """The rows of a global batch that belong to one data-parallel rank; the shares differ by at most one row."""
    return slice(batch_size * rank // num_ranks, batch_size * (rank + 1) // num_ranks)
