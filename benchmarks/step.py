"""The speed of each way to run a training step, beside torchvision's AlexNet under torch.compile.

    python benchmarks/step.py --batch-size 128 --batch-size 1024 --out step.json

Contestants take turns; rates are medians of rounds. Shares are of an H200's peak: the operations of three products per
layer (conv1 needs no gradient of images), and the bytes of weights, gradients and velocities, the least there is to
move.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import torch
from torch import nn

from alexnet.console.tables import print_table
from alexnet.train.config import Config
from alexnet.train.gradient import Speedups, speed_up
from alexnet.train.network.fast_layers import use_fast_layers
from alexnet.train.network.model import AlexNet, initialise
from alexnet.train.network.size import describe
from alexnet.train.optimizer import build_optimizer

FLOPS, BYTES = 790e12, 4.3e12  # per second: an H200's bfloat16 and memory
CONTESTANTS = {  # channels_last, and the speedups
    "eager": (False, Speedups()),
    "channels_last": (True, Speedups()),
    "fused-norms": (True, Speedups(norms=True)),
    "space-to-depth": (True, Speedups(norms=True, conv1=True)),
    "graph": (True, Speedups(norms=True, conv1=True, graph=True)),
    "compile": (True, Speedups(norms=True, conv1=True, compile=True)),
    "compile+graph": (True, Speedups(norms=True, conv1=True, compile=True, graph=True)),
    "compile-plain": (True, Speedups(compile=True)),
    "torchvision": (True, Speedups(compile=True)),
    "torchvision+graph": (True, Speedups(compile=True, graph=True)),
}


def torchvision_alexnet() -> nn.Module:
    """Return torchvision's layers, written out; its weights are not needed here."""

    def conv(*shape: int) -> list[nn.Module]:
        return [nn.Conv2d(*shape), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *conv(3, 64, 11, 4, 2),
        nn.MaxPool2d(3, 2),
        *conv(64, 192, 5, 1, 2),
        nn.MaxPool2d(3, 2),
        *conv(192, 384, 3, 1, 1),
        *conv(384, 256, 3, 1, 1),
        *conv(256, 256, 3, 1, 1),
        nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d(6),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(9216, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, 1000),
    )


def build(name: str, config: Config, device: torch.device) -> Callable[[], None]:
    """Return a function that takes a whole training step on a fixed batch."""
    last, speedups = CONTESTANTS[name]
    memory = torch.channels_last if last else torch.contiguous_format
    model = torchvision_alexnet() if name.startswith("torchvision") else AlexNet(config, 1000)
    if isinstance(model, AlexNet):
        initialise(model, 0)
    model.to(device, memory_format=memory)  # type: ignore[call-overload]
    if isinstance(model, AlexNet):
        use_fast_layers(model, conv1=speedups.conv1, norms=speedups.norms)
    gradient = speed_up(model, config.batch_size, speedups)
    optimizer = build_optimizer(model, config)
    images = torch.randn(config.batch_size, 3, 224, 224, device=device).contiguous(memory_format=memory)
    labels = torch.randint(1000, (config.batch_size,), device=device)

    def step() -> None:
        torch.manual_seed(0)
        gradient(images, labels)
        optimizer.step()

    return step


def rate(step: Callable[[], None], steps: int, batch_size: int) -> float:
    """Return images per second."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return steps * batch_size / (time.perf_counter() - started)


def shares(name: str, config: Config, images_per_second: float) -> tuple[float, float]:
    """Return the shares of the peak, in operations and in bytes."""
    rows = describe(Config.from_preset("owt") if name.startswith("torchvision") else config, 1000)
    operations = 2 * (3 * sum(row.macs for row in rows) - rows[0].macs)
    moved = 6 * 4 * sum(row.parameters for row in rows) / config.batch_size  # w, g, v are read and written
    return images_per_second * operations / FLOPS, images_per_second * moved / BYTES


@click.command()
@click.option("--contestant", "names", multiple=True, type=click.Choice(list(CONTESTANTS)), help="[default: all]")
@click.option("--batch-size", "sizes", multiple=True, type=click.IntRange(1), default=(128, 1024), show_default=True)
@click.option("--preset", default="paper", show_default=True)
@click.option("--width", default=1.0, show_default=True)
@click.option("--steps", default=50, show_default=True, help="Steps in a window.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write.")
def main(
    names: tuple[str, ...], sizes: tuple[int, ...], preset: str, width: float, steps: int, rounds: int, out: Path | None
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = [n for n in names or CONTESTANTS if device.type == "cuda" or not CONTESTANTS[n][1].graph]
    found = []
    for size in sizes:
        config = Config.from_preset(preset, width=width, batch_size=size)
        running = {name: build(name, config, device) for name in chosen}
        for step in running.values():
            rate(step, 5 if device.type == "cuda" else 1, size)
        windows: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(rounds):
            for name, step in running.items():
                windows[name].append(rate(step, steps, size))
        for name, rates in windows.items():
            operations, moved = shares(name, config, median(rates))
            found.append(
                {
                    "contestant": name,
                    "batch_size": size,
                    "images_per_second": median(rates),
                    "share_of_flops": operations,
                    "share_of_bytes": moved,
                    "windows": rates,
                }
            )
    print_table(
        f"Training step on {torch.cuda.get_device_name() if device.type == 'cuda' else 'a CPU'}",
        ("contestant", "batch", "images/s", "of 790 TFLOP/s", "of 4.3 TB/s"),
        [
            (
                str(f["contestant"]),
                str(f["batch_size"]),
                f"{f['images_per_second']:,.1f}",
                f"{f['share_of_flops']:.2%}",
                f"{f['share_of_bytes']:.2%}",
            )
            for f in found
        ],
    )
    if out:
        out.write_text(json.dumps({"torch": torch.__version__, "device": str(device), "results": found}, indent=2))


if __name__ == "__main__":
    main()
