"""This project's loader, and its ceiling: DALI, only decoding whole images."""

from __future__ import annotations

from functools import partial

import torch

from alexnet.pipeline.decode.graph import IMAGE_INPUTS, image_graph
from alexnet.pipeline.decode.settings import Decode, Settings
from alexnet.pipeline.decode.stream import ImageStream
from alexnet.pipeline.loader import Loader
from alexnet.pipeline.treatment import Treatment
from job import MEAN, Batches, Job

EPOCHS = 1_000_000  # more than any window uses; they are drawn one at a time


def run(job: Job, decode: Decode = "exact") -> Batches:
    """Yield training's batches, without lighting."""
    for batch in _loader(job, decode):
        yield batch.images, batch.indices


def run_fast(job: Job) -> Batches:
    """Yield them decoded with libjpeg's quick and less exact arithmetic."""
    yield from run(job, "fast")


def run_decoder(job: Job) -> Batches:
    """Decode whole images and leave them inside DALI: the batches are empty."""
    loader = _loader(job, "exact")
    requests, build = loader.requests(range(EPOCHS), 0, lit=False), partial(image_graph, decode="exact")
    with ImageStream(
        job.dataset,
        requests,
        build,
        IMAGE_INPUTS,
        batch_size=job.batch_size,
        crop=None,
        on_bad="replace",
        settings=loader.settings,
        bad={},
    ) as stream:
        for _, feed in stream:
            yield torch.empty(0), feed.indices


def _loader(job: Job, decode: Decode) -> Loader:
    return Loader(
        job.dataset,
        Treatment(mean=MEAN),
        batch_size=job.batch_size,
        seed=job.seed,
        num_epochs=EPOCHS,
        lit=lambda epoch: False,
        settings=Settings(threads=job.cores, decode=decode),
    )
