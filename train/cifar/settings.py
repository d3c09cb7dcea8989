"""All that determines a run on CIFAR-10, bit for bit, beside the images and the machine's arithmetic.

`run.py` carries it out; `figure1.py` and `normalisation.py` say which settings make an experiment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .networks import Network, Neuron

BATCH = 128
MOMENTUM = 0.9
BIAS_RATE_FACTOR = 2.0  # cuda-convnet's epsB is twice its epsW
WINDOWS = 5  # of an epoch: cuda-convnet trains and reports by its five data batches, and cuts minibatches out of each


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run. Rates and decays are cuda-convnet's: epsW, and wc by layer, inside the velocity as in the paper."""

    network: Network
    neuron: Neuron = "relu"
    rate: float  # of weights; biases learn twice as fast
    seed: int  # of weights, order, crops and flips
    normalisation: bool = False
    local3: int = 32  # maps of that layer
    decay: Mapping[str, float] = field(default_factory=dict)  # of weights, by layer; 0 for the others
    cropped: bool = False  # train on random 24x24 views and their mirror images
    drops: tuple[int, ...] = ()  # epochs before which the rate is divided by ten

    def rate_in(self, epoch: int) -> float:
        """Return the rate of weights in an epoch, from 0."""
        return self.rate / 10 ** sum(epoch >= drop for drop in self.drops)
