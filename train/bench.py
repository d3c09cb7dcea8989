"""How fast training is on a mesh: the step alone on a cached batch, and with the loader; what it waits for and sends.

It runs the trainer's own step and the trainer's own loader, in alternating windows, on every rank of the mesh.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, prod
from statistics import median

import torch

from ..pipeline.loader import Batch, SyntheticLoader
from ..pipeline.plan import share
from .config import LAYERS
from .meter import Meter
from .network.model import IMAGE_SHAPE, AlexNet
from .network.size import describe
from .parallel.mesh import Mesh
from .trainer import Trainer

FOR_EVER = 100_000  # epochs; no window reaches their end


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in one step."""

    exchange: int  # between the towers: inputs of conv3, fc6, fc7, fc8, their gradients, and logits
    gradients: int  # over the data-parallel ranks
    images: int  # halves of the next batch, between the towers


@dataclass(frozen=True)
class TrainBench:
    """Medians of windows; shares are of the first rank's time."""

    mesh: str
    device: str
    batch_size: int
    step_images_per_second: float  # on a cached batch
    images_per_second: float  # with the loader
    exchange_share: float  # of the step alone: blocked until other ranks have sent; on a GPU, the host's part of it
    waiting_share: float  # for data, of training with the loader
    sent: Traffic  # counted
    expected: Traffic  # from the shapes
    step_windows: list[float]  # images per second of each
    windows: list[float]


def bench_train(
    trainer: Trainer, *, seconds: float, rounds: int, progress: Callable[[int], None] = lambda done: None
) -> TrainBench:
    """Measure `rounds` windows of about `seconds` each way; every rank gets its own view of the same windows."""
    mesh, config = trainer.mesh, trainer.config
    fresh = iter(trainer.build_loader(FOR_EVER))
    batch = next(fresh)
    kept = Batch(batch.images.clone(), batch.labels.clone(), batch.indices, 0, 0)
    cached = iter(SyntheticLoader(kept, 1, FOR_EVER))
    _Window.run(trainer, cached, 2)  # warm up
    steps = mesh.broadcast(max(1, ceil(seconds / _Window.run(trainer, cached, 1).seconds)))
    alone, whole = [], []
    for done in range(rounds):
        alone.append(_Window.run(trainer, cached, steps))
        whole.append(_Window.run(trainer, fresh, steps))
        progress(done + 1)
    sent = alone[0].sent
    images = whole[0].sent.exchange - sent.exchange
    size = config.batch_size * steps
    rates = [[size / window.seconds for window in windows] for windows in (alone, whole)]
    return TrainBench(
        mesh=str(mesh.dims),
        device=str(mesh.device),
        batch_size=config.batch_size,
        step_images_per_second=median(rates[0]),
        images_per_second=median(rates[1]),
        exchange_share=median(w.blocked / w.seconds for w in alone),
        waiting_share=median(w.waited / w.seconds for w in whole),
        sent=Traffic(sent.exchange // steps, sent.gradients // steps, images // steps),
        expected=expected_traffic(trainer.model, mesh, kept.images.element_size()),
        step_windows=rates[0],
        windows=rates[1],
    )


@dataclass(frozen=True)
class _Window:
    """Some steps in a row: their time, the part of it blocked by other ranks or waiting for data, and bytes sent."""

    seconds: float
    blocked: float
    waited: float
    sent: Traffic

    @classmethod
    def run(cls, trainer: Trainer, batches: Iterator[Batch], steps: int) -> _Window:
        trainer.meter = Meter(trainer.config, len(trainer.loader))
        mp, dp = trainer.mesh.mp, trainer.mesh.dp
        before = mp.bytes_sent, dp.bytes_sent, mp.seconds_blocked + dp.seconds_blocked
        started, waited = time.monotonic(), 0.0
        for _ in range(steps):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            trainer.train_step(batch)
        if trainer.mesh.device.type == "cuda":
            torch.cuda.synchronize(trainer.mesh.device)
        seconds = time.monotonic() - started
        sent = Traffic(mp.bytes_sent - before[0], dp.bytes_sent - before[1], 0)
        return cls(seconds, mp.seconds_blocked + dp.seconds_blocked - before[2], waited, sent)


def expected_traffic(model: AlexNet, mesh: Mesh, element_size: int) -> Traffic:
    """From the shapes alone: `element_size` bytes for a number, and a parameter's own for its gradient."""
    config, mp, dp = model.config, mesh.mp, mesh.dp
    rows = share(config.batch_size, dp.index, dp.size)
    num_images = rows.stop - rows.start
    with torch.device("meta"):
        whole = AlexNet(config, model.num_classes)
    shapes = {row.layer: row.output_shape for row in describe(config, model.num_classes)}
    inputs = dict(zip(list(shapes)[1:], shapes.values(), strict=False))
    met = [name for name in LAYERS[1:] if hasattr(whole, name) and getattr(whole, name).groups == 1]
    units = sum(prod(inputs[name]) // mp.size for name in met)
    each_way = num_images * element_size * (mp.size - 1)
    logits = ceil(model.num_classes / mp.size)
    decoded = max(len(range(num_images)[share(num_images, i, mp.size)]) for i in range(mp.size))
    on_gpu = mesh.device.type == "cuda"
    image = prod(IMAGE_SHAPE) * (element_size if on_gpu else 1) + 2 * 8  # its label and its index
    image += 0 if on_gpu else 3 * 4  # grey levels have their lighting with them
    gradients = [2 * p.nbytes * (dp.size - 1) // dp.size for p in model.parameters()]
    return Traffic(
        exchange=each_way * (2 * units + logits), gradients=sum(gradients), images=decoded * image * (mp.size - 1)
    )
