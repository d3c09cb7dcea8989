"""nvJPEG's batches through torchvision, decoding whole images and nothing else: a yardstick for DALI on a GPU.

    python benchmarks/nvjpeg.py DATA --batch-size 256 --out nvjpeg.json

Without torchvision, or in one that is not made for GPUs, it says so and measures nothing.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from alexnet.pipeline.dataset.open import open_dataset


def nvjpeg() -> Any:
    """Return torchvision's decoder of lists into RGB on the GPU, or end here."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except (ImportError, RuntimeError) as error:
        sys.exit(f"torchvision cannot be used here: {error}")
    return partial(decode_jpeg, mode=ImageReadMode.RGB, device="cuda")  # without a mode nvJPEG leaves out the colours


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--batch-size", default=256, show_default=True)
@click.option("--images", default=1024, show_default=True, help="From memory, again and again.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(data: Path, batch_size: int, images: int, rounds: int, out: Path | None) -> None:
    decode, dataset = nvjpeg(), open_dataset(data, "train")
    found = (dataset.read(i) for i in range(min(images, len(dataset))))
    encoded = [torch.from_numpy(image.copy()) for image in found if image[:2].tobytes() == b"\xff\xd8"]
    batches = [encoded[i : i + batch_size] for i in range(0, len(encoded) - batch_size + 1, batch_size)] or [encoded]
    rates = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for batch in batches:
            decode(batch)
        torch.cuda.synchronize()
        rates.append(sum(map(len, batches)) / (time.perf_counter() - started))
    rates = rates[1:]
    result = {"contestant": "nvjpeg", "batch_size": batch_size, "images_per_second": median(rates), "windows": rates}
    print(text := json.dumps({"results": [result]}))
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
