"""Does a network start to learn? What each layer makes of images before the first step: signal against bias.

    python benchmarks/start.py DATA --out start.json                  # every preset at full width, 1,000 classes
    python benchmarks/start.py DATA --preset paper --width 0.25 --classes 20

The first 128 training images, central views less their mean image (owt: ImageNet's mean and deviation). A layer's
signal is what its weights make of its input, and varies from image to image; its bias is the same for all. Where the
signal is small beside the bias, images look alike to the layers above: the loss stays at ln(classes) until the weights
have grown. `alexnet train` shows how long that takes.
"""

import json
from math import log
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.console.tables import print_table
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.geometry import SHORT_SIDE
from alexnet.pipeline.squares import squares
from alexnet.pipeline.treatment import IMAGENET_MEAN, IMAGENET_STD, Treatment
from alexnet.train.config import LAYERS, Config
from alexnet.train.network.fast_layers import use_fast_layers
from alexnet.train.network.model import AlexNet, initialise
from alexnet.train.settings.presets import PRESETS


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def watch(layer: nn.Module, found: dict[str, float]) -> None:
    """Note what the layer makes of its input, before its activation function."""

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        with torch.no_grad():
            bias = layer.bias.reshape(-1, *[1] * (output.ndim - 2))
            signal = output - bias
            found["signal"] = rms(signal)
            found["from_image_to_image"] = rms(signal.std(dim=0))
            found["bias"] = rms(bias)
            found["active"] = (output > 0).double().mean().item()

    layer.register_forward_hook(note)


def first_steps(config: Config, num_classes: int, pixels: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Return the figures of each layer; `step` is the first step's length relative to the weights'."""
    model = AlexNet(config, num_classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    initialise(model, config.seeds.init_seed)
    use_fast_layers(model, conv1=False)
    edge = (SHORT_SIDE - config.crop) // 2
    inner = slice(edge, edge + config.crop)
    treatment = Treatment(mean=pixels.double().mean(0)[inner, inner].numpy().astype(np.float32), crop=config.crop)
    if config.scaling == "imagenet":
        treatment = Treatment(mean=IMAGENET_MEAN, divisor=IMAGENET_STD, crop=config.crop)
    figures: dict[str, dict[str, float]] = {name: {} for name in LAYERS if hasattr(model, name)}
    for name, found in figures.items():
        watch(getattr(model, name), found)
    logits = model.eval()(treatment.apply(pixels, edge, edge, mirror=False))
    F.cross_entropy(logits, labels).backward()
    for name, found in figures.items():
        weight = getattr(model, name).weight
        found["step"] = config.lr * rms(weight.grad) / rms(weight.detach())
    return figures


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--preset", "presets", multiple=True, type=click.Choice(list(PRESETS)), help="Default: all.")
@click.option("--width", default=1.0, show_default=True)
@click.option("--classes", default=1000, show_default=True)
@click.option("--images", default=128, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the figures here, as JSON.")
def main(data: Path, presets: tuple[str, ...], width: float, classes: int, images: int, out: Path | None) -> None:
    train = open_dataset(data, "train")
    chosen = np.linspace(0, len(train) - 1, min(images, len(train))).astype(np.int64)  # of all classes
    batches = list(squares(train, chosen, batch_size=len(chosen), settings=Settings()))
    pixels = torch.cat([batch.pixels for batch in batches])
    labels = torch.from_numpy(np.concatenate([train.labels[batch.indices] for batch in batches]).astype(np.int64))
    found = {}
    for name in presets or PRESETS:
        config = Config.from_preset(name, width=width)
        found[name] = first_steps(config, classes, pixels, labels % classes)
        rows = [
            (
                layer,
                f"{figures['signal']:.3g}",
                f"{figures['from_image_to_image']:.3g}",
                f"{figures['bias']:.3g}",
                f"{figures['active']:.0%}",
                f"{figures['step']:.1e}",
            )
            for layer, figures in found[name].items()
        ]
        columns = ("layer", "signal", "its change between images", "bias", "active", "first step / weights")
        print_table(f"{name}: {len(pixels)} images, ln({classes}) = {log(classes):.2f}", columns, rows)
    if out:
        out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
