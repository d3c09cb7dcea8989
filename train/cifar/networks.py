"""The two networks of four layers that Figure 1 may have shown, after the layer files of cuda-convnet.

`run.py` trains them. The paper names none; section 3.3 calls the family of `local` a four-layer CNN, and `small` has
four layers too. [C1] = dnouri/cuda-convnet, example-layers/.

    small  [C1] layers-19pct.cfg             conv 5x5x32, max; conv 5x5x32, mean; conv 5x5x64, mean; fc10
    local  [C1] layers-conv-local-13pct.cfg  conv 5x5x64, max; conv 5x5x64, max; local 3x3x32 twice; fc10

With normalisation, `local` is that of layers-conv-local-11pct.cfg, but for the maps of local3.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn

from .binary import NUM_CLASSES
from .layers import CrossMapNorm, LocallyConnected2d, Pool

Network = Literal["small", "local"]
Neuron = Literal["relu", "tanh"]
NEURONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
INIT_STD = {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}  # [C1]


def build_network(
    network: Network, neuron: Neuron, *, size: int, seed: int, normalisation: bool = False, local3: int = 32
) -> nn.Sequential:
    """Return a network for images (B, 3, size, size) of 0..255 less the mean; its outputs are logits (B, 10).

    Weights are normal, by `INIT_STD`, and biases 0. Networks of one shape and seed begin alike, whatever their neuron.
    """
    layers = _small(neuron, size) if network == "small" else _local(neuron, size, normalisation, local3)
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            layer, _, kind = name.partition(".")
            parameter.normal_(std=INIT_STD[layer], generator=generator) if kind == "weight" else parameter.zero_()
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def _small(neuron: Neuron, size: int) -> OrderedDict[str, nn.Module]:
    """conv1 is pooled first: a maximum of outputs of a rising function is the function of their maximum."""
    for _ in range(3):
        size = pooled(size)
    return OrderedDict(
        conv1=nn.Conv2d(3, 32, 5, padding=2),
        pool1=Pool("max"),
        neuron1=NEURONS[neuron](),
        conv2=nn.Conv2d(32, 32, 5, padding=2),
        neuron2=NEURONS[neuron](),
        pool2=Pool("mean"),
        conv3=nn.Conv2d(32, 64, 5, padding=2),
        neuron3=NEURONS[neuron](),
        pool3=Pool("mean"),
        flat=nn.Flatten(),
        fc10=nn.Linear(64 * size**2, NUM_CLASSES),
    )


def _local(neuron: Neuron, size: int, normalisation: bool, local3: int) -> OrderedDict[str, nn.Module]:
    """Maximum and neuron change places, as in `_small`. norm1 follows pool1, and norm2 goes before pool2 ([C1])."""
    places = (pooled(pooled(size)),) * 2
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(3, 64, 5, padding=2),
        pool1=Pool("max"),
        neuron1=NEURONS[neuron](),
        norm1=CrossMapNorm(),
        conv2=nn.Conv2d(64, 64, 5, padding=2),
        neuron2=NEURONS[neuron](),
        norm2=CrossMapNorm(),
        pool2=Pool("max"),
        local3=LocallyConnected2d(64, local3, places, 3),
        neuron3=NEURONS[neuron](),
        local4=LocallyConnected2d(local3, 32, places, 3),
        neuron4=NEURONS[neuron](),
        flat=nn.Flatten(),
        fc10=nn.Linear(32 * places[0] ** 2, NUM_CLASSES),
    )
    return layers if normalisation else OrderedDict((k, v) for k, v in layers.items() if not k.startswith("norm"))


def pooled(size: int) -> int:
    """Return how many windows `Pool` puts along `size` pixels."""
    return -(-(size - 3) // 2) + 1
