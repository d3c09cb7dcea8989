"""One training step: the network learns from a batch.

`gradient.py` gives the forward and backward pass, `optimizer.py` the update and its rates. `trainer.py` takes these
steps in its loop; `bench.py` and `alexnet bench-loader --step` time the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pipeline.loader import Batch
from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .config import Config
from .gradient import build_gradient
from .network.model import AlexNet, initialise
from .optimizer import build_optimizer, build_schedule, momentum_by_name, rates_by_group, set_rates
from .parallel.mesh import Mesh
from .parallel.split import GradientSum, make_replicas_equal, own_part, parallelize, whole_state


class TrainStep:
    """The network and all that a step changes: parameters, velocities and rates. On a mesh, this rank's part of them.

    `execution` is one of `gradient.EXECUTIONS`, or None for the default; `begin_with` is as in `build_model`. Dropout
    masks and rates depend only on the configuration and the batch's epoch and step, so a resumed run takes the same
    steps.
    """

    def __init__(
        self,
        config: Config,
        num_classes: int,
        mesh: Mesh,
        execution: str | None = None,
        begin_with: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config, self.mesh = config, mesh
        self.model = build_model(config, num_classes, mesh, begin_with)
        self.gradient = build_gradient(self.model, config.batch_size, mesh.device, mesh.dims.num_ranks, execution)
        self.gradient_sum = GradientSum(self.model, mesh.dp)
        self.optimizer = build_optimizer(self.model, config)
        self.schedule = build_schedule(config)

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run forward, backward and update; return the loss () and logits (B, classes) without waiting for the device.

        The loss is this rank's share of the batch's mean: the ranks' losses and gradients add up. Gradients stay in
        `.grad` until the next step.
        """
        torch.manual_seed(dropout_seed(self.config.seeds.data_seed, batch.epoch, batch.step))
        set_rates(self.optimizer, self.schedule.rates(batch.epoch, batch.step))
        self.model.train()
        loss, logits = self.gradient(batch.images, batch.labels)
        self.gradient_sum.finish()
        self.optimizer.step()
        return loss, logits

    def state(self) -> dict[str, Any]:
        """Return the step's fields of a `Checkpoint`: whole layers, on the CPU, the same on all ranks of `mp`."""
        mp = self.mesh.mp
        return {
            "model": whole_state(self.model.state_dict(), self.model, mp),
            "momentum": whole_state(momentum_by_name(self.model, self.optimizer), self.model, mp),
            "rates": rates_by_group(self.optimizer),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint, written on any mesh."""
        mp = self.mesh.mp
        part = replace(saved, model=own_part(saved.model, mp), momentum=own_part(saved.momentum, mp))
        checkpoints.restore(part, self.model, self.optimizer)
        self.schedule.load_state_dict(saved.schedule)


def build_model(
    config: Config, num_classes: int, mesh: Mesh, begin_with: Mapping[str, Tensor] | None = None
) -> AlexNet:
    """Build this rank's part of the network on its device, with initial weights from `init_seed`.

    `begin_with` has whole parameters by name, such as those of a trained network, that take the place of some.
    """
    with torch.device("meta"):  # do not draw torch's own initial weights
        model = AlexNet(config, num_classes)
    model.to_empty(device="cpu")
    initialise(model, config.seeds.init_seed)
    model.load_state_dict(begin_with or {}, strict=False)
    parallelize(model, mesh)
    model.to(mesh.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    make_replicas_equal(model, mesh.dp)
    return model


def dropout_seed(seed: int, epoch: int, step: int) -> int:
    """Return the seed of a step's dropout masks, from what a checkpoint holds."""
    return int(np.random.SeedSequence([seed, epoch, step, 0xD0]).generate_state(1, np.uint64)[0] >> 1)
