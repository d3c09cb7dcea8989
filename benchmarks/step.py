"""The speed of each way to run a training step, beside torchvision's AlexNet under torch.compile.

    python benchmarks/step.py --batch-size 128 --batch-size 1024 --out step.json

Contestants take turns; rates are medians of rounds. One that does not fit into memory, or that does not compile here,
is named and left out. On a GPU, shares are of what a product of large matrices and a copy reach on the same device:
operations of three products per layer (conv1 needs no gradient of images), and bytes of weights, gradients and
velocities, the least there is to move.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

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

PLAIN = Speedups()
FAST = Speedups(norms=True, conv1=True)


@dataclass(frozen=True)
class Contestant:
    """A way to run a step. `same_bits`: cuDNN may only use algorithms that give the same bits, as in training."""

    speedups: Speedups = PLAIN
    channels_last: bool = True
    same_bits: bool = True


CONTESTANTS = {
    "eager": Contestant(channels_last=False),
    "channels_last": Contestant(),
    "fused-norms": Contestant(Speedups(norms=True)),
    "space-to-depth": Contestant(FAST),
    "graph": Contestant(Speedups(norms=True, conv1=True, graph=True)),
    "graph, any order": Contestant(Speedups(norms=True, conv1=True, graph=True), same_bits=False),
    "compile": Contestant(Speedups(norms=True, conv1=True, compile=True)),
    "compile+graph": Contestant(Speedups(norms=True, conv1=True, compile=True, graph=True)),
    "compile-plain": Contestant(Speedups(compile=True)),
    "torchvision": Contestant(Speedups(compile=True), same_bits=False),
    "torchvision+graph": Contestant(Speedups(compile=True, graph=True), same_bits=False),
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
    how = CONTESTANTS[name]
    memory = torch.channels_last if how.channels_last else torch.contiguous_format
    model = torchvision_alexnet() if name.startswith("torchvision") else AlexNet(config, 1000)
    if isinstance(model, AlexNet):
        initialise(model, 0)
    model.to(device, memory_format=memory)  # type: ignore[call-overload]
    if isinstance(model, AlexNet):
        use_fast_layers(model, conv1=how.speedups.conv1, norms=how.speedups.norms)
    gradient = speed_up(model, config.batch_size, how.speedups)
    optimizer = build_optimizer(model, config)
    sent = torch.float16 if device.type == "cuda" else torch.float32  # as the loader sends them
    images = torch.randn(config.batch_size, 3, 224, 224, device=device, dtype=sent).contiguous(memory_format=memory)
    labels = torch.randint(1000, (config.batch_size,), device=device)

    def step() -> None:
        torch.backends.cudnn.deterministic = how.same_bits
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


def peaks(device: torch.device) -> tuple[float, float] | None:
    """Return the operations and bytes per second that this GPU reaches in bfloat16 products and in copies."""
    if device.type != "cuda":
        return None
    side, size = 8192, 2**30
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    block = torch.empty(size, dtype=torch.uint8, device=device)
    works: list[tuple[Callable[[], object], float]] = [(lambda: a @ b, 2 * side**3), (block.clone, 2 * size)]
    found = []
    for work, amount in works:
        rate(work, 5, 1)  # type: ignore[arg-type]
        found.append(amount * median(rate(work, 20, 1) for _ in range(5)))  # type: ignore[arg-type]
    return found[0], found[1]


def needs(name: str, config: Config) -> tuple[float, float]:
    """Return the operations and the bytes that one image needs."""
    rows = describe(Config.from_preset("owt") if name.startswith("torchvision") else config, 1000)
    operations = 2 * (3 * sum(row.macs for row in rows) - rows[0].macs)
    return operations, 6 * 4 * sum(row.parameters for row in rows) / config.batch_size  # w, g, v are read and written


def run(
    names: list[str], config: Config, device: torch.device, steps: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return the rates of each contestant, and why others could not run."""
    running: dict[str, Callable[[], None]] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            step = build(name, config, device)
            rate(step, 5 if device.type == "cuda" else 1, config.batch_size)
            running[name] = step
        except Exception as error:  # out of memory, or a compiler's
            failed[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            print(f"{name}, batch of {config.batch_size}: {failed[name]}", flush=True)
    windows: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, step in running.items():
            windows[name].append(rate(step, steps, config.batch_size))
    return windows, failed


def shares_of(result: dict[str, Any]) -> list[str]:
    return [f"{result[name]:.1%}" for name in ("share_of_flops", "share_of_bytes") if name in result]


@click.command()
@click.option("--contestant", "names", multiple=True, type=click.Choice(list(CONTESTANTS)), help="[default: all]")
@click.option("--batch-size", "sizes", multiple=True, type=click.IntRange(1), default=(128, 1024), show_default=True)
@click.option("--preset", default="paper", show_default=True)
@click.option("--width", default=1.0, show_default=True)
@click.option("--steps", default=50, show_default=True, help="Steps in a window.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to write, after each batch size.")
def main(
    names: tuple[str, ...], sizes: tuple[int, ...], preset: str, width: float, steps: int, rounds: int, out: Path | None
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = [n for n in names or CONTESTANTS if device.type == "cuda" or not CONTESTANTS[n].speedups.graph]
    where = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU"
    limits = peaks(device)
    record: dict[str, Any] = {"torch": torch.__version__, "device": where, "peaks": limits, "results": [], "failed": []}
    for size in sizes:
        config = Config.from_preset(preset, width=width, batch_size=size)
        windows, failed = run(chosen, config, device, steps, rounds)
        record["failed"] += [{"contestant": name, "batch_size": size, "why": why} for name, why in failed.items()]
        for name, rates in windows.items():
            images = median(rates)
            shares = [images * need / limit for need, limit in zip(needs(name, config), limits or (), strict=False)]
            result = {"contestant": name, "batch_size": size, "images_per_second": images, "windows": rates}
            record["results"].append(result | dict(zip(("share_of_flops", "share_of_bytes"), shares, strict=False)))
        if out:
            out.write_text(json.dumps(record, indent=2))
    heads = [f"of {limits[0] / 1e12:.0f} TFLOP/s", f"of {limits[1] / 1e12:.2f} TB/s"] if limits else []
    rows = [
        (f["contestant"], str(f["batch_size"]), f"{f['images_per_second']:,.1f}", *shares_of(f))
        for f in record["results"]
    ]
    print_table(f"Training step on {where}", ("contestant", "batch", "images/s", *heads), rows)


if __name__ == "__main__":
    main()
