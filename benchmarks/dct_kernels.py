"""The kernels that decode coefficients on a GPU, alone: images per second, and the share of the memory's bandwidth.

    python benchmarks/dct_kernels.py DATA --batch-size 128 --out kernels.json     DATA: a pack of coefficients

The images are on the device before the clock starts. Bytes are the least there is to move: coefficients in, and float16
out; the bandwidth is what a copy on the same device reaches. The first crops are compared with those of `dct.c`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch

from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.dct import DctCropper
from alexnet.pipeline.decode.dct_triton import decode_crops
from alexnet.pipeline.decode.resident import Resident
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.geometry import CROP
from alexnet.pipeline.plan import NUM_OFFSETS

HELD = 2**30  # bytes of images


def seconds(work: Callable[[], object], rounds: int = 9, times: int = 20) -> float:
    """Return the median time of one call, on the device."""
    work()
    found = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1e3 / times)
    return median(found)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--batch-size", "sizes", type=click.IntRange(1), multiple=True, default=(128, 1024))
@click.option("--out", type=click.Path(path_type=Path))
def main(data: Path, sizes: tuple[int, ...], out: Path | None) -> None:
    device, rng = torch.device("cuda"), np.random.default_rng(0)
    dataset = open_dataset(data, "train")
    held = Resident(dataset, device, HELD, Settings())
    images = [image for i in range(len(dataset)) if (image := held.get(i)) is not None]
    mean, factor = torch.full((CROP, CROP, 3), 120.0, device=device), torch.ones(3, device=device)
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    bandwidth = 2 * source.nbytes / seconds(source.clone)
    results = []
    for size in sizes:
        batch = [images[i] for i in rng.integers(0, len(images), size)]
        corners, mirror = rng.integers(0, NUM_OFFSETS, (size, 2)), rng.integers(0, 2, size)
        sent = np.array([i.data_ptr() for i in batch]), corners.astype(np.int32), mirror.astype(np.int32)
        inputs = [*(torch.from_numpy(a).to(device) for a in sent), torch.zeros((size, 3), device=device)]
        crops = torch.empty((size, CROP, CROP, 3), dtype=torch.float16, device=device)
        took = seconds(lambda inputs=inputs, crops=crops: decode_crops(*inputs, mean, factor, crops))
        with DctCropper(CROP, 1, mean.cpu().numpy()) as cropper:
            first = [image.cpu().numpy() for image in batch[:8]]
            expected = cropper.start(first, {"low": corners[:8], "mirror": mirror[:8]})()
        assert torch.equal(crops[:8].cpu(), torch.from_numpy(expected).half()), "the kernels' results are wrong"
        moved = sum(len(image) for image in batch) + crops.nbytes
        results.append({"batch_size": size, "images_per_second": size / took, "share": moved / took / bandwidth})
    record = {"device": torch.cuda.get_device_name(), "copy_bytes_per_second": bandwidth, "results": results}
    print(text := json.dumps(record))
    if out:
        out.write_text(text)


if __name__ == "__main__":
    main()
