"""The settings of the treatment of images, from the file to what the network sees. `optimisation.py` comes next."""

from dataclasses import dataclass
from typing import Literal

from ...pipeline.decode.settings import MAX_PIXELS
from .setting import setting


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """The images are the middle 256x256 of uint8 RGB, scaled so that the shorter side is 256."""

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
