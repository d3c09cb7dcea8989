"""SPDL: Python threads that decode with FFmpeg, which releases the GIL.

One task decodes one batch, as in SPDL's own ImageNet example. FFmpeg's filter graph crops and resamples (bilinear,
widened when shrinking), then converts to RGB.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import spdl.io
import torch
from numpy.typing import NDArray
from spdl.pipeline import PipelineBuilder

from alexnet.pipeline.geometry import CROP
from alexnet.pipeline.plan import Plan
from job import Batches, Job, treat, whole_pixel_crop

FILTERS = "crop={}:{}:{}:{}:exact=1,scale={}:{}:flags=bilinear,format=rgb24"

spdl.io.utils.get_ffmpeg_versions()  # fails with the names of FFmpeg's libraries if they are missing


def run(job: Job) -> Batches:
    """Yield batches until closed; the threads end with them."""
    threads = job.workers or 1

    def load(batch: tuple[Plan, slice]) -> tuple[torch.Tensor, NDArray[np.int64]]:
        return _load(job, *batch)

    builder = PipelineBuilder().add_source(_batches(job)).pipe(load, concurrency=threads, output_order="input")
    pipeline = builder.add_sink(2).build(num_threads=threads)
    with pipeline.auto_stop():
        yield from pipeline


def _batches(job: Job) -> Iterator[tuple[Plan, slice]]:
    for epoch in count():
        plan = job.plan(epoch)
        for start in range(0, job.epoch_length, job.batch_size):
            yield plan, slice(start, start + job.batch_size)


def _load(job: Job, plan: Plan, rows: slice) -> tuple[torch.Tensor, NDArray[np.int64]]:
    indices = plan.order[rows]
    frames = [_decode(job, int(i), place) for i, place in zip(indices, plan.crops[rows], strict=True)]
    pixels = spdl.io.to_numpy(spdl.io.convert_frames(frames))
    images = torch.empty(len(indices), CROP, CROP, 3)
    for crop, flip, image in zip(pixels, plan.flips[rows].tolist(), images, strict=True):
        treat(crop, flip, image)
    return images.permute(0, 3, 1, 2), indices


def _decode(job: Job, index: int, place: NDArray[np.integer]) -> spdl.io.ImageFrames:
    packets = spdl.io.demux_image(job.dataset.read(index).tobytes())
    top, bottom, left, right = whole_pixel_crop(packets.height, packets.width, place)
    filters = FILTERS.format(right - left, bottom - top, left, top, CROP, CROP)
    return spdl.io.decode_packets(packets, filter_desc=filters)
