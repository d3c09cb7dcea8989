"""Every number and switch of the network, the image treatment and the optimisation.

First in `train/`, with `settings/`: the network, its optimizer and the treatment of images are built from it, and
checkpoints store it. Nothing here needs torch. Defaults follow the paper's text. The command line makes its options and
`--describe` from the help line and source of each field.
Sources: paper = Krizhevsky, Sutskever, Hinton, NIPS 2012; [O] = the authors' code on GitHub,
computerhistory/AlexNet-Source-Code (#145 is the run of that number in its layers/); [TV] = torchvision's alexnet and
its training recipe; [CF] = Caffe's bvlc_alexnet.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from ..pipeline.decode.settings import Settings
from ..pipeline.errors import UserError
from ..pipeline.geometry import CROP
from .settings.contradictions import contradictions
from .settings.images import ImageSettings
from .settings.network import CONV1_PADDING, NetworkSettings
from .settings.optimisation import OptimisationSettings
from .settings.presets import PRESETS
from .settings.run import RunSettings
from .settings.setting import check_names, checked, parsed

CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")
LAYERS = (*CONVS, "conv6", "fc6", "fc7", "fc8")  # all that have parameters; few networks have conv6


@dataclass(frozen=True, kw_only=True)
class Config(OptimisationSettings, ImageSettings, NetworkSettings, RunSettings):
    """All settings of a training run. Frozen and checked: a wrong value raises a UserError that says what to do."""

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
