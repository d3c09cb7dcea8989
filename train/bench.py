"""How fast training is on a mesh: the step alone on a cached batch, and with the loader; what it waits for and sends.

It runs the trainer's own step (`step.py`) and loader (`parallel/tower_loader.py`), in alternating windows, on every
rank of the mesh.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil, prod
from statistics import median

import torch

from ..pipeline.dataset.images import Dataset
from ..pipeline.decode.settings import Settings
from ..pipeline.loader import Batch, SyntheticLoader
from ..pipeline.plan import share
from .config import Config
from .gradient import WARM_UP
from .network.model import AlexNet
from .network.size import describe
from .parallel.mesh import Mesh
from .parallel.tower_loader import build_loader
from .step import TrainStep
from .treatment import build_treatment

FOREVER = 100_000  # epochs; no window gets that far


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in one step."""

    exchange: int  # between the towers: inputs of conv3, conv6, fc6, fc7, fc8, their gradients, and logits
    gradients: int  # over the data-parallel ranks
    images: int  # shares of the next batch, between the towers


@dataclass(frozen=True)
class TrainBench:
    """Medians of windows; shares are of the first rank's time."""

    mesh: str
    device: str
    batch_size: int
    step_images_per_second: float  # on a cached batch
    images_per_second: float  # with the loader
    exchange_share: float  # of the step alone: blocked until other ranks have sent; on a GPU, only the host's part
    waiting_share: float  # of training with the loader: waiting for data
    sent: Traffic  # counted
    expected: Traffic  # from the shapes
    step_windows: list[float]  # images per second of each
    windows: list[float]


def bench_train(
    config: Config,
    dataset: Dataset,
    mesh: Mesh,
    settings: Settings,
    *,
    seconds: float,
    rounds: int,
    execution: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> TrainBench:
    """Measure `rounds` windows of about `seconds` each way; every rank returns its own view of the same windows.

    Images are always standardised by ImageNet's colours: the cost is the same, and no statistics are needed.
    """
    config = replace(config, scaling="imagenet", lighting="off")
    mesh.check_same("configuration", config.to_json())
    mesh.check_same("data set", dataset.fingerprint)
    treatment = build_treatment(config, None)
    loader = build_loader(
        config, dataset, treatment, mesh, settings, num_epochs=FOREVER, lit=lambda epoch: False, bad={}
    )
    step = TrainStep(config, dataset.num_classes, mesh, execution)
    fresh = iter(loader)
    batch = next(fresh)
    kept = Batch(batch.images.clone(), batch.labels.clone(), batch.indices, 0, 0)
    cached = iter(SyntheticLoader(kept, 1, FOREVER))
    _Window.run(step, cached, WARM_UP + 2 if mesh.device.type == "cuda" else 2)  # till a recorded step is replayed
    steps = mesh.broadcast(max(1, ceil(seconds / _Window.run(step, cached, 1).seconds)))
    alone, whole = [], []
    for done in range(rounds):
        alone.append(_Window.run(step, cached, steps))
        whole.append(_Window.run(step, fresh, steps))
        progress(done + 1)
    return _summary(step, steps, alone, whole, expected_traffic(step.model, mesh, kept.images.element_size()))


def _summary(step: TrainStep, steps: int, alone: list[_Window], whole: list[_Window], expected: Traffic) -> TrainBench:
    """Summarise windows of `steps` steps: `alone` on a cached batch, `whole` with the loader."""
    sent = alone[0].sent
    images = whole[0].sent.exchange - sent.exchange
    size = step.config.batch_size * steps
    rates = [[size / window.seconds for window in windows] for windows in (alone, whole)]
    return TrainBench(
        mesh=str(step.mesh.dims),
        device=str(step.mesh.device),
        batch_size=step.config.batch_size,
        step_images_per_second=median(rates[0]),
        images_per_second=median(rates[1]),
        exchange_share=median(w.blocked / w.seconds for w in alone),
        waiting_share=median(w.waited / w.seconds for w in whole),
        sent=Traffic(sent.exchange // steps, sent.gradients // steps, images // steps),
        expected=expected,
        step_windows=rates[0],
        windows=rates[1],
    )


@dataclass(frozen=True)
class _Window:
    """Some steps in a row: their time, how much of it was blocked by other ranks or waited for data, and bytes sent."""

    seconds: float
    blocked: float
    waited: float
    sent: Traffic

    @classmethod
    def run(cls, step: TrainStep, batches: Iterator[Batch], steps: int) -> _Window:
        mp, dp, device = step.mesh.mp, step.mesh.dp, step.mesh.device
        before = mp.bytes_sent, dp.bytes_sent, mp.seconds_blocked + dp.seconds_blocked
        started, waited = time.monotonic(), 0.0
        for _ in range(steps):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - started
        sent = Traffic(mp.bytes_sent - before[0], dp.bytes_sent - before[1], 0)
        return cls(seconds, mp.seconds_blocked + dp.seconds_blocked - before[2], waited, sent)


def expected_traffic(model: AlexNet, mesh: Mesh, element_size: int) -> Traffic:
    """Calculate traffic from the shapes: `element_size` bytes per activation; gradients are as large as parameters."""
    rows = share(model.config.batch_size, mesh.dp.index, mesh.dp.size)
    num_images, others = rows.stop - rows.start, mesh.mp.size - 1
    there_and_back = 2 * _exchanged_units(model) // mesh.mp.size
    logits = ceil(model.num_classes / mesh.mp.size)
    most_decoded = max(len(range(num_images)[share(num_images, i, mesh.mp.size)]) for i in range(mesh.mp.size))
    return Traffic(
        exchange=others * num_images * element_size * (there_and_back + logits),
        gradients=sum(2 * p.nbytes * (mesh.dp.size - 1) // mesh.dp.size for p in model.parameters()),
        images=others * most_decoded * _image_bytes(model.config, mesh.device, element_size),
    )


def _exchanged_units(model: AlexNet) -> int:
    """Count the inputs, of both towers together, of the layers where towers meet: ungrouped ones, except conv1."""
    with torch.device("meta"):
        whole = AlexNet(model.config, model.num_classes)
    shapes = {row.layer: row.output_shape for row in describe(model.config, model.num_classes)}
    inputs = dict(zip(list(shapes)[1:], shapes.values(), strict=False))  # the output of what comes before
    layers = model.config.layers[1:]
    return sum(prod(inputs[name]) for name in layers if whole.get_submodule(name).groups == 1)


def _image_bytes(config: Config, device: torch.device, element_size: int) -> int:
    """Return the bytes of an exchanged image, label and index: treated on GPUs, else grey levels with lighting."""
    if device.type == "cuda":
        return prod(config.image_shape) * element_size + 2 * 8
    return prod(config.image_shape) + 2 * 8 + 3 * 4
