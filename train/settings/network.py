"""The settings of the network: its layers and how they begin. `images.py` comes next; `config.py` joins them."""

from dataclasses import dataclass
from typing import Literal

from ...pipeline.geometry import CROP
from .setting import setting

CONV1_PADDING = {CROP: (0, 3, 0, 3), 227: (0, 0, 0, 0)}  # by the crop: conv1 makes 55x55 of either


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """`channels` and `groups` list conv1..conv5; `init_std` and `init_bias` list conv1..conv5, fc6..fc8."""

    width: float = setting(
        1.0,
        "scales channels and units, but not the image's 3 channels or the classes; towers stay equal",
        "ours; the paper is 1",
        low=1e-3,
        high=16,
    )
    channels: tuple[int, ...] = setting(
        (96, 256, 384, 384, 256), "outputs of conv1..conv5, both towers together", "paper s3.5", low=2
    )
    groups: tuple[int, ...] = setting(
        (1, 2, 1, 2, 2), "1: the layer sees both towers; 2: each tower sees only itself", "paper s3.5", low=1
    )
    fc: int = setting(4096, "units of fc6 and of fc7, both towers together", "paper s3.5", low=2)
    activation: Literal["relu", "tanh"] = setting("relu", "function after every layer but the last", "paper s3.1")
    lrn: bool = setting(
        True,
        "normalise conv1 and conv2 within each tower (our reading: the paper's GPUs talk only before conv3 "
        "and fc6..fc8); off removes spatial_norm too",
        "paper s3.3; [O] #145 and #148",
    )
    lrn_size: int = setting(5, "channels in the window, the middle one included", "paper s3.3", low=1)
    lrn_alpha: float = setting(1e-4, "weight of the window's squares", "paper s3.3", low=0)
    lrn_beta: float = setting(0.75, "exponent", "paper s3.3", low=0)
    lrn_k: float = setting(2.0, "offset", "paper s3.3", low=1e-3)
    lrn_alpha_over_n: bool = setting(
        False,
        "divide alpha by lrn_size, as torch does; off: alpha times the plain sum (torch's alpha 5e-4)",
        "paper s3.3; original divides, [O] layer.py",
    )
    lrn_before_activation: bool = setting(
        False,
        "layer 1 is conv, LRN, pool, activation (the last two commute); off: conv, activation, LRN, pool",
        "paper s3.5; original on, [O] layers-145.cfg",
    )
    lrn_across_towers: bool = setting(
        False, "normalise over all channels, as if there were one tower; a mesh cannot split that", "[CF]"
    )
    spatial_norm: bool = setting(
        False,
        "after norm2, 5x5 response normalisation inside each channel",
        "not in the paper; original on, [O] layers-145.cfg rnorm2",
    )
    overlapping_pooling: bool = setting(
        True,
        "3x3 windows, stride 2; off: 2x2, dropping odd last rows and columns; maps are 55, 27, 13, 6 either way",
        "paper s3.4; [O] #147 rounds up and changes paddings instead",
    )
    dropout: float = setting(0.5, "share of fc6 and fc7 units dropped; 0: none", "paper s4.2", low=0, high=0.99)
    dropout_style: Literal["mask", "inverted", "inverted-outputs"] = setting(
        "mask",
        "mask: outputs of fc6 and fc7 x 0/1 mask in training, x (1-dropout) at test; inverted: "
        "inputs of fc6 and fc7 x mask/(1-dropout) in training; inverted-outputs: their outputs x that",
        "paper s4.2; owt inverted, [TV]; caffe inverted-outputs, [CF]",
    )
    cross_talk: bool = setting(
        True,
        "off: conv3, fc6 and fc7 see only their own tower too, at the same widths; only fc8 sees both",
        "paper s3.2; off is the idea of [O] #150",
    )
    without: tuple[Literal["conv2", "conv3", "conv4", "conv5"], ...] = setting(
        (),
        "layers to leave out, conv2 with its normalisation but not its pooling, so that maps keep their sizes; the "
        "others keep their groups and widths (without conv3 the towers first meet at fc6), but the last one gets "
        "conv5's width, so that fc6 stays the same",
        "paper s7",
    )
    conv6: bool = setting(
        False,
        "a sixth convolution, 3x3 over the last pooling, as wide as conv5; it sees both towers",
        "paper s7; [O] layers-146-2012-2011.cfg",
    )
    conv1_padding: tuple[int, ...] = setting(
        CONV1_PADDING[CROP],
        "zeros left, right, above and below the image minus its mean: 224 becomes 55; none if --crop is 227",
        "[O] layer.py rounds 54.25 up; owt 2 all round, [TV]",
        low=0,
        high=6,
    )
    init: Literal["normal", "torch"] = setting(
        "normal",
        "normal: init_std (over sqrt(width) after conv1) and init_bias; torch: weights and biases "
        "uniform within 1/sqrt(fan-in)",
        "paper s5; owt torch, [TV]",
    )
    init_std: tuple[float, ...] = setting(
        (0.01,) * 8, "standard deviation of weights", "paper s5; original .03 in conv3..5, [O] layers-145.cfg", low=0
    )
    init_bias: tuple[float, ...] = setting((0, 1, 0, 1, 1, 1, 1, 0), "initial biases", "paper s5; [O] agrees")
    conv6_init: tuple[float, ...] = setting(
        (0.03, 1), "standard deviation of conv6's weights, and its initial biases", "[O] layers-146-2012-2011.cfg"
    )
