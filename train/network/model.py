"""The network, as plain code for one device.

Built from `config.py` and `shapes.py`; `parallel/split.py` makes a rank's part of it, `fast_layers.py` swaps in faster
layers, and `optimizer.py` updates its weights. Images are float (B, 3, crop, crop): 0..255 less the mean (`raw`) or
standardised (`imagenet`). channels_last is the fast memory format.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import Checkpoint, restore
from ..config import CONVS, LAYERS, Config
from ..saved import load_saved
from .lrn import LocalResponseNorm, SpatialResponseNorm
from .shapes import CONV_GEOMETRY, layer_shapes


class AlexNet(nn.Module):
    """The network, one module for each of `config.layers`; those for norms and dropout hold no parameters.

    A layer holds both towers, tower 0 in the first half of its outputs. Weights are torch's defaults until `initialise`
    or a checkpoint sets them.
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d  # unless left out
    conv6: nn.Conv2d  # of few networks
    fc6: GroupedLinear
    fc7: GroupedLinear
    fc8: GroupedLinear

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        for name, (inputs, outputs, groups) in layer_shapes(config, num_classes).items():
            if name in CONV_GEOMETRY:
                layer: nn.Module = nn.Conv2d(inputs, outputs, *CONV_GEOMETRY[name], groups=groups)
            else:
                layer = GroupedLinear(inputs, outputs, groups)
            self.add_module(name, layer)
        second = config.lrn and "conv2" in config.layers
        self.norm1 = LocalResponseNorm(config) if config.lrn else nn.Identity()
        self.norm2 = LocalResponseNorm(config) if second else nn.Identity()
        self.spatial2 = SpatialResponseNorm() if second and config.spatial_norm else nn.Identity()
        self.dropout6 = Dropout(config.dropout, config.dropout_style != "mask")
        self.dropout7 = Dropout(config.dropout, config.dropout_style != "mask")

    @classmethod
    def from_checkpoint(cls, path: Path | str) -> Self:
        """Load a trained network, both towers, onto the CPU, without dropout: its `training` is False.

        `path` is a checkpoint, a run folder (its newest checkpoint), or what `alexnet export` writes as safetensors or
        for torchvision. CheckpointError says what is wrong with it.
        """
        return cls.restored(load_saved(path))

    @classmethod
    def restored(cls, saved: Checkpoint) -> Self:
        """Return the network of a checkpoint that was read already."""
        model = cls(saved.config, len(saved.classes))
        restore(saved, model)
        return model.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, 3, crop, crop)."""
        return self.forward_features(images)["fc8"]

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        """Return every activation by name, in order: conv1, norm1, pool1, ... fc7, fc8 (the logits).

        conv1..fc7 are after their activation function and before dropout; with `lrn_before_activation` conv1
        and norm1 are signed and pool1 is rectified.
        """
        return dict(self.layers(images))

    def layers(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield those activations one by one as they are computed, so that a caller keeps only what it needs."""
        config, late = self.config, self.config.lrn_before_activation
        x = self.conv1(F.pad(images, config.conv1_padding))
        x = x if late else self.activate(x)
        yield "conv1", x
        if config.lrn:
            x = self.norm1(x)
            yield "norm1", x
        x = self.pool(x)
        x = self.activate(x) if late else x
        yield "pool1", x
        if "conv2" not in config.without:
            x = self.activate(self.conv2(x))
            yield "conv2", x
            if config.lrn:
                x = self.norm2(x)
                yield "norm2", x
            if config.lrn and config.spatial_norm:
                x = self.spatial2(x)
                yield "spatial2", x
        x = self.pool(x)
        yield "pool2", x
        for name in CONVS[2:]:
            if name not in config.without:
                x = self.activate(getattr(self, name)(x))
                yield name, x
        x = self.pool(x)
        yield "pool5", x
        if config.conv6:
            x = self.activate(self.conv6(x))
            yield "conv6", x
        x = x.flatten(1)  # (B, channels x 6 x 6), a tower's units together
        first = config.dropout_style == "inverted"
        for name, layer, dropout in (("fc6", self.fc6, self.dropout6), ("fc7", self.fc7, self.dropout7)):
            x = dropout(x) if first else x
            x = self.activate(layer(x))
            yield name, x
            x = x if first else dropout(x)
        yield "fc8", self.fc8(x)

    def activate(self, x: Tensor) -> Tensor:
        """Activate `x` in place: it is always the fresh output of a layer or a pooling."""
        return x.relu_() if self.config.activation == "relu" else x.tanh_()

    def pool(self, x: Tensor) -> Tensor:
        """Max-pool (B, C, H, W) to half: 55 -> 27 -> 13 -> 6 with either window."""
        return F.max_pool2d(x, 3 if self.config.overlapping_pooling else 2, 2)


class GroupedLinear(nn.Linear):
    """A linear layer, (B, in) to (B, out), in `groups` parts that each see only their own part of the input.

    weight (out, in / groups) and bias (out,) are like a grouped convolution's.
    """

    def __init__(self, in_features: int, out_features: int, groups: int = 1) -> None:
        super().__init__(in_features // groups, out_features)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return super().forward(x)
        parts = zip(x.chunk(self.groups, 1), self.weight.chunk(self.groups), strict=True)
        return torch.cat([F.linear(part, weight) for part, weight in parts], 1) + self.bias


class Dropout(nn.Module):
    """Drops units of (B, units) with probability `p`.

    Plain (the paper, s4.2): x mask in training, x (1 - p) at test. Inverted: x mask / (1 - p) in training.
    """

    def __init__(self, p: float, inverted: bool) -> None:
        super().__init__()
        self.keep = 1 - p
        self.inverted = inverted

    def mask(self, x: Tensor) -> Tensor:
        """Draw bools in the shape of x, True with probability 1 - p, from the default generator of x's device."""
        return torch.rand(x.shape, device=x.device) < self.keep

    def forward(self, x: Tensor) -> Tensor:
        if self.keep == 1:
            return x
        if self.training:
            x = x * self.mask(x)
            return x / self.keep if self.inverted else x
        return x if self.inverted else x * self.keep


@torch.no_grad()
def initialise(model: AlexNet, seed: int) -> None:
    """Set all parameters from `seed`: drawn in float32 on the CPU, layer by layer, the same for any device.

    Beyond conv1 a layer has `width` times as many inputs as in the paper, so the standard deviation of normal weights
    is 1 / sqrt(width) times the paper's: signals keep their size.
    """
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    for name in config.layers:
        layer = getattr(model, name)
        draws = torch.empty(layer.weight.shape), torch.empty(layer.bias.shape)
        if config.init == "torch":
            bound = 1 / sqrt(layer.weight[0].numel())
            for draw in draws:
                draw.uniform_(-bound, bound, generator=generator)
        else:
            std, bias = _normal_init(config)[name]
            draws[0].normal_(0, std / (1 if name == "conv1" else sqrt(config.width)), generator=generator)
            draws[1].fill_(bias)
        layer.weight.copy_(draws[0])
        layer.bias.copy_(draws[1])


def _normal_init(config: Config) -> dict[str, tuple[float, ...]]:
    """Return the standard deviation of weights and the bias that each layer starts with."""
    others = (name for name in LAYERS if name != "conv6")
    pairs = zip(config.init_std, config.init_bias, strict=True)
    return dict(zip(others, pairs, strict=True)) | {"conv6": config.conv6_init}
