"""DataLoader with Pillow: the peer that `alexnet bench-loader --compare torch` measures."""

from __future__ import annotations

from alexnet.pipeline.bench.peer import pillow_batches
from job import MEAN, Batches, Job


def run(job: Job) -> Batches:
    """Resize the whole image, then crop it, as torchvision's transforms do."""
    yield from _batches(job, region=False)


def run_region(job: Job) -> Batches:
    """Resample only what the crop shows: the best that Pillow can do."""
    yield from _batches(job, region=True)


def _batches(job: Job, region: bool) -> Batches:
    return pillow_batches(
        job.dataset, mean=MEAN, batch_size=job.batch_size, seed=job.seed, workers=job.workers or 0, region=region
    )
