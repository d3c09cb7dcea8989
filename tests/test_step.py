"""One training step: dropout follows from the batch's place in the run, and the state is all there is to go on from."""

import numpy as np
import pytest
import torch

from alexnet.pipeline.loader import Batch
from alexnet.train.checkpoint import Checkpoint
from alexnet.train.config import Config
from alexnet.train.parallel.mesh import Mesh
from alexnet.train.step import TrainStep

NUM_CLASSES = 3
pytestmark = pytest.mark.usefixtures("one_thread")


def new_step(**seeds: int) -> TrainStep:
    """With a schedule that drops the rate and freezes conv1."""
    config = Config.from_preset("original", width=0.05, batch_size=4, epochs=6, epoch_log=(1, 2, 3, 4, 5, 6), **seeds)
    return TrainStep(config, NUM_CLASSES, Mesh())


def batch(epoch: int, step: int) -> Batch:
    generator = torch.Generator().manual_seed(100 * epoch + step)
    images = 50 * torch.randn(4, 3, 224, 224, generator=generator)
    return Batch(images, torch.tensor([0, 1, 2, 0]), np.arange(4), epoch, step)


def test_a_restored_step_goes_on_with_the_same_bits() -> None:
    """Whatever the generator has drawn before; across a drop of the rate, and with conv1 frozen."""
    whole, resumed = new_step(), new_step(seed=1)
    for epoch in (0, 1):
        whole(batch(epoch, 0))
    saved = Checkpoint(config=whole.config, classes=["a", "b", "c"], epoch=1, step=2, **whole.state())
    first = {name: parameter.clone() for name, parameter in saved.model.items()}
    torch.rand(17)
    resumed.restore(saved)
    resumed.config = whole.config  # whose seed the masks follow from
    for place in ((1, 1), (2, 0), (4, 0)):
        (loss, logits), (other_loss, other_logits) = whole(batch(*place)), resumed(batch(*place))
        assert torch.equal(loss, other_loss)
        assert torch.equal(logits, other_logits)
    for (name, mine), theirs in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        assert not torch.equal(mine, first[name]), name
    assert all(torch.equal(parameter, first[name]) for name, parameter in saved.model.items()), "state is a copy"


def test_dropout_depends_on_data_seed_epoch_and_step_only() -> None:
    masks: list[bytes] = []

    def with_spy(**seeds: int) -> TrainStep:
        step = new_step(**seeds)
        step.model.dropout6.register_forward_hook(lambda m, x, y: masks.append((y != 0).numpy().tobytes()))
        step.model.fc6.register_forward_hook(lambda m, x, y: torch.ones_like(y))  # what is zero was dropped
        return step

    def mask(step: TrainStep, epoch: int, number: int) -> bytes:
        step(batch(epoch, number))
        return masks[-1]

    first, second, third = with_spy(), with_spy(init_seed=1), with_spy(data_seed=1)
    here = mask(first, 1, 2)
    mask(second, 0, 0)
    mask(second, 1, 1)
    torch.rand(17)
    assert mask(second, 1, 2) == here
    others = [mask(second, 1, 3), mask(second, 2, 2), mask(second, 2, 1), mask(third, 1, 2), here]
    assert len(set(others)) == 5
    assert 0.4 < np.mean(np.frombuffer(here, np.bool_)) < 0.6
