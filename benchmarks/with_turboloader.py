"""Threads with turboloader's decoder. Its own loader cannot follow a plan: it draws crops and flips itself."""

from __future__ import annotations

import turboloader

from job import Batches, Job
from threads import threaded


def run(job: Job) -> Batches:
    yield from threaded(job, lambda data: turboloader.decode_jpeg(data.tobytes()))
