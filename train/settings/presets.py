"""The named presets: what each reproduces, what to expect of it, and how it departs from the paper's text.

`config.py` turns a preset into a configuration and checks its names and values; it also explains the sources [O], [TV]
and [CF].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named configuration."""

    reproduces: str
    expected: str  # errors, and who measured them
    start: str  # how long the loss stays at ln(classes): benchmarks/results/start-2026-11-26.md
    hardware: str  # what it ran on, and for how long
    command: str
    settings: Mapping[str, Any]  # fields of `Config` that differ from the defaults, which are the paper's


_ORIGINAL = {  # [O] layers-145.cfg and what goes with it
    "lrn_alpha_over_n": True,
    "lrn_before_activation": True,
    "spatial_norm": True,
    "init_std": (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
    "augment_run": 32,
    "lighting_divisor": 1.1,
    "bias_lr_factor": 2.0,
    "bias_lr_floor": 0.002,
    "schedule": "epochs",
    "epochs": 91,
}


_ONE_GPU = {"channels": (48, 128, 192, 192, 256), "groups": (1, 1, 1, 1, 1)}


_OWT = {  # [TV]
    "channels": (64, 192, 384, 256, 256),
    "groups": (1, 1, 1, 1, 1),
    "lrn": False,
    "dropout_style": "inverted",
    "conv1_padding": (2, 2, 2, 2),
    "init": "torch",
    "scaling": "imagenet",
    "mean": "channel",
    "lighting": "off",
    "batch_size": 256,
    "weight_decay": 1e-4,
    "decay_biases": True,
    "schedule": "stages",
    "num_stages": 3,
    "stage_factor": 100.0,
    "views": 1,
}


_CONV6 = _ORIGINAL | {"conv6": True}  # [O] layers-146-2012-2011.cfg


_CAFFE = {  # [CF] train_val.prototxt, solver.prototxt
    "crop": 227,
    "conv1_padding": (0, 0, 0, 0),
    "lrn_k": 1.0,
    "lrn_alpha_over_n": True,
    "lrn_across_towers": True,
    "init_std": (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01),
    "init_bias": (0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0),
    "dropout_style": "inverted-outputs",
    "lighting": "off",
    "batch_size": 256,
    "bias_lr_factor": 2.0,
    "schedule": "steps",
    "views": 1,
}


_2012 = "Not run here on ImageNet. The authors: two GTX 580 of 3 GB, five to six days."


PRESETS: dict[str, Preset] = {
    "paper": Preset(
        reproduces="The text of the paper: two towers, each layer and number as printed.",
        expected="ILSVRC-2012 validation, ten views: 40.7% top-1 and 18.2% top-5 error, the paper's '1 CNN'.",
        start="slow. The loss over 1,000 photographs stayed at ln(1000) for some 170 steps of 128, then began to fall.",
        hardware=_2012,
        command="alexnet train /data/imagenet --preset paper",
        settings={},
    ),
    "original": Preset(
        reproduces="What the authors' code did (#145), which gave the published numbers. Beyond the text: "
        "layer 1 is normalised before its ReLU, layer 2 twice; conv3..5 start wider; biases learn faster; "
        "colour noise ends and conv1 freezes before training does.",
        expected="ILSVRC-2012 validation: 40.66% top-1 and 18.21% top-5 error with ten views; 42.3 to 42.9% "
        "and 19.4 to 20.0% with one.",
        start="the loss over 1,000 photographs left ln(1000) after 50 steps of 128, and was at 5.3 after 120.",
        hardware=_2012,
        command="alexnet train /data/imagenet --preset original",
        settings=_ORIGINAL,
    ),
    "one-gpu": Preset(
        reproduces="The paper's comparison: one tower, half the kernels in conv1..conv4, otherwise `paper`.",
        expected="1.7% more top-1 and 1.2% more top-5 error than two towers (ILSVRC-2010 test, ten views).",
        start="not tried; images differ even less in its first logits than in those of `paper`.",
        hardware=_2012,
        command="alexnet train /data/imagenet --preset one-gpu",
        settings=_ONE_GPU,
    ),
    "owt": Preset(
        reproduces="The single tower of 2014 ('one weird trick') that torchvision calls AlexNet; its "
        "published weights load. torchvision's recipe, but with our crops of fixed scale.",
        expected="43.5% top-1 and 20.9% top-5 error with one view, torchvision's published weights.",
        start="not tried.",
        hardware="Not run here on ImageNet. torchvision: eight GPUs.",
        command="alexnet train /data/imagenet --preset owt",
        settings=_OWT,
    ),
    "conv6": Preset(
        reproduces="The network of the paper's pretrained results (#146): `original` with a sixth convolution over the "
        "last pooling. Train it on a larger set of classes, then fine-tune it with --init-from and --schedule "
        "fine-tune.",
        expected="ILSVRC-2012 validation, ten views: 39.0% top-1 and 16.6% top-5 error, the paper's '1 CNN*', trained "
        "on the 15 million images of 22,000 classes of ImageNet's Fall 2011 release before.",
        start="not tried; the first step is like that of `original`.",
        hardware="Not run here on ImageNet. The authors: two GTX 580 of 3 GB, their time is not known.",
        command="alexnet train /data/imagenet-22k --preset conv6",
        settings=_CONV6,
    ),
    "caffe": Preset(
        reproduces="Caffe's reading of the paper (bvlc_alexnet): crops of 227, normalisation over all channels with an "
        "offset of 1, small biases, batches of 256, no colour noise. Caffe also squeezes images to 256x256, and "
        "subtracts the mean image at the crop's own place; we do neither.",
        expected="ILSVRC-2012 validation, one view: 42.9% top-1 and 19.8% top-5 error, after 360,000 batches.",
        start="not tried; images differ twice as much in the first logits as with `paper`, in spite of biases of 0.1.",
        hardware="Not run here on ImageNet. Caffe's authors: one GPU, their time is not known.",
        command="alexnet train /data/imagenet --preset caffe",
        settings=_CAFFE,
    ),
}
