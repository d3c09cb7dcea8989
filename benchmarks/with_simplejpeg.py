"""Threads with simplejpeg, a thin layer over libjpeg-turbo."""

from __future__ import annotations

import simplejpeg

from job import Batches, Job
from threads import threaded


def run(job: Job) -> Batches:
    yield from threaded(job, simplejpeg.decode_jpeg)
