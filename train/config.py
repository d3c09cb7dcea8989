"""Every number and switch of the network, the image treatment and the optimisation.

First in `train/`, with `presets.py`: the network, its optimizer and the treatment of images are built from it, and
checkpoints store it. Nothing here needs torch. Defaults follow the paper's text. The command line makes its options and
`--describe` from the help line and source of each field.
Sources: paper = Krizhevsky, Sutskever, Hinton, NIPS 2012; [O] = the authors' code on GitHub,
computerhistory/AlexNet-Source-Code (#145 is the run of that number in its layers/); [TV] = torchvision's alexnet and
its training recipe; [CF] = Caffe's bvlc_alexnet.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, Self

from ..pipeline.decode.settings import MAX_PIXELS, Settings
from ..pipeline.errors import UserError
from ..pipeline.geometry import CROP
from .contradictions import contradictions
from .presets import PRESETS
from .setting import check_names, checked, parsed, setting

CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")
CONV1_PADDING = {CROP: (0, 3, 0, 3), 227: (0, 0, 0, 0)}  # by the crop: conv1 makes 55x55 of either
LAYERS = (*CONVS, "conv6", "fc6", "fc7", "fc8")  # all that have parameters; few networks have conv6


class Seeds(NamedTuple):
    """The seeds that a run uses, where `Config` leaves one to `seed` too."""

    init_seed: int
    data_seed: int


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a training run. Frozen and checked: a wrong value raises a UserError that says what to do.

    `channels` and `groups` list conv1..conv5; `init_std` and `init_bias` list conv1..conv5, fc6..fc8.
    """

    preset: str = setting("paper", "the values to start from", "ours")
    seed: int = setting(0, "seeds all that is random: see init_seed and data_seed", "ours", low=0)
    init_seed: int | None = setting(None, "seeds the initial weights; none: as seed", "ours", low=0)
    data_seed: int | None = setting(
        None,
        "seeds what is drawn anew for each epoch or step: order, crops, flips, lighting, and dropout; none: as seed",
        "ours",
        low=0,
    )

    # The network.
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

    # The images: the middle 256x256 of uint8 RGB, scaled so that the shorter side is 256.
    decode: Literal["exact", "fast"] = setting(
        "exact", "exact: bit for bit like libjpeg and Pillow; fast: fewer instructions, a few grey levels off", "ours"
    )
    max_pixels: int = setting(
        MAX_PIXELS, "images that claim more are refused unopened, and others take their places", "ours", low=1
    )
    scaling: Literal["raw", "imagenet"] = setting(
        "raw",
        "raw: 0..255 minus the mean; imagenet: 0..1 minus ImageNet's mean, divided by its std",
        "paper s2; owt imagenet, [TV]",
    )
    mean: Literal["image", "channel"] = setting(
        "image", "what raw subtracts: the middle of the mean image, or the mean colour", "paper s2, [O]"
    )
    crop: Literal[224, 227] = setting(
        224, "side of what the network sees of a 256-square", "paper s4.1; [O] agrees; caffe 227, [CF]"
    )
    random_crop: bool = setting(True, "at one of 33x33 places (227: 30x30); off: the middle", "paper s4.1")
    random_flip: bool = setting(True, "mirror half of the images", "paper s4.1")
    augment_run: int = setting(
        1, "consecutive images that share crop and flip", "paper s4.1; original 32, [O] convdata.py", low=1
    )
    lighting: Literal["std", "eigenvalue", "off"] = setting(
        "std",
        "colour noise along the principal components; std: times their standard deviation in grey levels; "
        "eigenvalue: times the variance of 0..1 pixels, the paper to the letter, 2 to 17 times weaker",
        "paper s4.1; std by [O] convdata.py",
    )
    lighting_sigma: float = setting(0.1, "standard deviation of the noise's three draws", "paper s4.1", low=0)
    lighting_divisor: float = setting(
        1.0, "divides images while the noise is on", "paper s4.1; original 1.1, [O] convdata.py", low=1
    )

    # The optimisation.
    window: int | None = setting(
        None,
        "an epoch goes through the shards in random order and mixes within this many images; none: mix all images, "
        "unless --cache-size holds too few of remote ones: then as many as it allows",
        "ours",
        low=1,
    )
    batch_size: int = setting(128, "images per step, all devices together", "paper s5; owt 256, [TV]", low=1)
    lr: float = setting(0.01, "initial learning rate of weights", "paper s5", low=1e-12)
    bias_lr_factor: float = setting(
        1.0, "rate of biases / rate of weights", "paper s5; original 2, [O] layer-params-120-4gpu.cfg", low=1e-6
    )
    bias_lr_floor: float = setting(
        0.0, "lowest rate of biases", "paper s5; original .002, [O] layer-params-145-2010.cfg", low=0
    )
    momentum: float = setting(0.9, "share of the velocity kept", "paper s5", low=0, high=0.9999)
    weight_decay: float = setting(5e-4, "inside the velocity", "paper s5; owt 1e-4, [TV]", low=0)
    decay_biases: bool = setting(False, "weight decay on biases too", "[O] layer.cu; owt on, [TV]")
    epochs: int = setting(90, "passes over the training set", "paper s5; original 91, [O] #145", low=1)
    schedule: Literal["plateau", "epochs", "stages", "fine-tune", "steps"] = setting(
        "plateau",
        "plateau: drop when the validation error stalls; epochs: the authors' log; stages: equal "
        "stages, the last without colour noise; fine-tune: the authors' log of a network that learned other "
        "classes before; steps: drops at given epochs",
        "paper s5; original epochs; stages is [O] #170, fine-tune #146; caffe steps, [CF]",
    )
    drop_factor: float = setting(10.0, "what a drop divides the rate by, of any schedule but stages", "paper s5", low=1)
    num_drops: int = setting(3, "plateau: number of drops", "paper s5", low=0)
    plateau_patience: int = setting(5, "plateau: epochs without gain before a drop", "ours; by hand in 2012", low=1)
    plateau_min_delta: float = setting(1e-3, "plateau: least fall of top-1 error that is a gain", "ours", low=0, high=1)
    epoch_log: tuple[int, ...] = setting(
        (25, 51, 67, 72, 79, 91),
        "epochs: first drop; second drop; third drop of conv1 alone, and no more colour noise; conv1 frozen; "
        "third drop of the rest; end. Stretched to --epochs",
        "[O] layer-params-145.cfg",
        low=1,
    )
    fine_tune_log: tuple[int, ...] = setting(
        (7, 22, 38, 42, 54),
        "fine-tune: conv1 frozen; first drop; no more colour noise; second drop; end. Stretched to --epochs. fc8 "
        "learns at lr, the others one drop below it, conv1 two",
        "[O] layer-params-146-2012-2011.cfg",
        low=1,
    )
    fc8_wait: int = setting(
        300,
        "fine-tune: batches of the first epoch in which fc8 learns no faster than the others",
        "[O] layer-params-146-2012-2011.cfg",
        low=0,
    )
    step_log: tuple[int, ...] = setting(
        (20, 40, 60, 80, 90),
        "steps: the drops; end. Stretched to --epochs",
        "[CF]: every 100,000 of 450,000 batches of 256",
        low=1,
    )
    num_stages: int = setting(4, "stages: how many", "[O] layer-params-170.cfg; owt 3, [TV]", low=1)
    stage_factor: float = setting(
        250.0, "stages: first rate / last rate", "[O] layer-params-170.cfg; owt 100, [TV]", low=1
    )
    freeze: tuple[str, ...] = setting((), "layers that do not learn, such as conv1,conv2", "ours")
    layer_lr: tuple[str, ...] = setting(
        (), "factors of single layers' rates, such as fc8=10,conv1=0.1", "ours; [O] has a rate for each layer"
    )
    views: Literal[1, 10] = setting(10, "views of each image in the final evaluation", "paper s4.1; owt 1, [TV]")

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, checked(spec, getattr(self, spec.name)))
        for problem in contradictions(self):
            raise UserError(problem)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of this network that have parameters, in order."""
        missing = self.without if self.conv6 else (*self.without, "conv6")
        return tuple(name for name in LAYERS if name not in missing)

    @property
    def rate_factors(self) -> dict[str, float]:
        """The rate of each layer named in `layer_lr` or `freeze`, as a factor of what the schedule gives it."""
        pairs = (item.split("=") for item in self.layer_lr)
        return {name: float(factor) for name, factor in pairs} | dict.fromkeys(self.freeze, 0.0)

    @property
    def seeds(self) -> Seeds:
        """The seeds in use."""
        given = (self.init_seed, self.data_seed)
        return Seeds(*(self.seed if one is None else one for one in given))

    @property
    def towers(self) -> int:
        """Number of towers: the groups of conv2. Normalisation keeps them apart."""
        return self.groups[1]

    @property
    def separable(self) -> int:
        """Into how many parts a mesh can split the network: its towers, unless normalisation reaches across them."""
        return 1 if self.lrn and self.lrn_across_towers else self.towers

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""
        return 3, self.crop, self.crop

    def scaled(self, channels: int) -> int:
        """Return `channels` x width, rounded to a positive multiple of 2 x towers."""
        multiple = 2 * self.towers
        return max(1, int(channels * self.width / multiple + 0.5)) * multiple

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Self:
        """Return the named preset with some values changed; another crop brings the padding that it needs in conv1."""
        if name not in PRESETS:
            raise UserError(f"preset = {name!r}: choose one of {', '.join(PRESETS)}")
        settings = {"preset": name, **PRESETS[name].settings}
        if (crop := overrides.get("crop")) != settings.get("crop", CROP) and crop in CONV1_PADDING:
            settings["conv1_padding"] = CONV1_PADDING[crop]
        return cls.from_dict(settings | overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Check names and values; a missing name takes its default."""
        check_names(values, [spec.name for spec in fields(cls)])
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(parsed(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def pin_decoding(self, settings: Settings) -> Settings:
        """Return the settings with this run's `decode` and `max_pixels`, because they change pixels."""
        return replace(settings, decode=self.decode, max_pixels=self.max_pixels)
