"""Our loader beside others: the same images, crops and flips, the same cores, taking turns.

    python benchmarks/loaders.py /data/imagenet --rounds 7

Every contestant yields float32 batches (B, 3, 224, 224) with the mean subtracted, for the same plan: shorter side
to 256 (bilinear), central 256-square, the plan's 224-crop and flip. How far their pixels are from ours is measured
first. Those with worker processes are tried with 0, 1, 2 and as many workers as there are cores, and run at their
best. Then all take turns in windows that begin when a contestant runs steadily; figures are medians over the
rounds, ratios medians of each round's ratio. Another contestant is one more entry in `CONTESTANTS`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, features
from torch.utils.data import DataLoader

from alexnet.pipeline.bench import Window, machine, measure
from alexnet.pipeline.dataset import Dataset, open_dataset
from alexnet.pipeline.geometry import CROP, centre_offset, resized_shape
from alexnet.pipeline.loader import Loader, Treatment
from alexnet.pipeline.plan import draw_epoch
from alexnet.pipeline.stream import Settings

Batches = Generator[tuple[torch.Tensor, NDArray[np.int64]], None, None]  # float32 (B, 3, 224, 224), indices (B,)
OURS = "alexnet"
EPOCHS = 1000  # more than any window uses
TRIALS = 3  # windows of each number of workers; the best one counts, so that a busy moment does not choose
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Job:
    """What every contestant has to do, and with what."""

    dataset: Dataset
    mean: NDArray[np.float32]  # (224, 224, 3), grey levels 0..255
    batch_size: int
    seed: int
    cores: int
    workers: int | None  # processes beside the main one; None for those that have none


@dataclass(frozen=True)
class Contestant:
    """One way to load images."""

    what: str
    run: Callable[[Job], Batches]
    has_workers: bool = False


def run_alexnet(job: Job) -> Batches:
    """What training iterates, without lighting."""
    settings = Settings(threads=job.cores)
    loader = Loader(dataset=job.dataset, treatment=Treatment(mean=job.mean), batch_size=job.batch_size,
                    seed=job.seed, settings=settings, bad={})  # fmt: skip
    for batch in loader.batches(0, 0, EPOCHS, lit=lambda _: False):
        yield batch.images, batch.indices


class PillowImages(torch.utils.data.Dataset[tuple[NDArray[np.float32], int]]):
    """Position by position of the plan, epoch after epoch: float32 (224, 224, 3) and the image's index.

    `region` resamples only what the crop shows, in one call; otherwise the whole image is resized and then
    cropped, as torchvision's transforms do.
    """

    def __init__(self, job: Job, region: bool) -> None:
        self.images = replace(job.dataset, _descriptors={})  # another process opens its archives itself
        self.mean, self.seed, self.region = job.mean, job.seed, region
        self.length = len(job.dataset) // job.batch_size * job.batch_size
        self.epoch = -1

    def __len__(self) -> int:
        return self.length * EPOCHS

    def __getitem__(self, position: int) -> tuple[NDArray[np.float32], int]:
        epoch, row = divmod(position, self.length)
        if epoch != self.epoch:
            self.epoch, self.plan = epoch, draw_epoch(len(self.images), self.seed, epoch)[:]
        index = int(self.plan.order[row])
        with Image.open(io.BytesIO(self.images.read(index).tobytes())) as image:
            crop = self.resample(image.convert("RGB"), *self.plan.crops[row].tolist())
        pixels = np.asarray(crop)[:, ::-1] if self.plan.flips[row] else np.asarray(crop)
        return pixels - self.mean, index

    def resample(self, image: Image.Image, top: int, left: int) -> Image.Image:
        ((height, width),) = resized = resized_shape(np.array([[image.height, image.width]]))
        y, x = (centre_offset(resized)[0] + (top, left)).tolist()
        box = (x, y, x + CROP, y + CROP)
        if not self.region:
            return image.resize((int(width), int(height)), Image.Resampling.BILINEAR).crop(box)
        across, down = image.width / width, image.height / height
        source = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        return image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=source)


def run_pillow(job: Job, region: bool = False) -> Batches:
    """The loader that PyTorch's own ImageNet example has, given our plan."""
    loader = DataLoader(
        PillowImages(job, region),
        job.batch_size,
        num_workers=job.workers or 0,
        multiprocessing_context="forkserver" if job.workers else None,  # DALI's threads do not survive a fork
    )
    for images, indices in loader:
        yield images.permute(0, 3, 1, 2), indices.numpy()  # channels last, like ours


def run_pillow_region(job: Job) -> Batches:
    """The most that Pillow can do: one resampling of the crop alone."""
    yield from run_pillow(job, region=True)


CONTESTANTS: dict[str, Contestant] = {
    OURS: Contestant("this project's loader, DALI on the CPU", run_alexnet),
    "pillow": Contestant("DataLoader, Pillow: resize, then crop", run_pillow, has_workers=True),
    "pillow-region": Contestant("DataLoader, Pillow: resize the crop alone", run_pillow_region, has_workers=True),
}


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    dataset = open_dataset(options.data, "train")
    torch.set_num_threads(1)  # they would only stack batches, and burn the processor time that is measured waiting
    job = Job(dataset, np.full((CROP, CROP, 3), 120, np.float32), options.batch_size, options.seed,
              len(os.sched_getaffinity(0)), None)  # fmt: skip
    names = list(dict.fromkeys((OURS, *options.contestants)))
    entries = {name: _prepare(name, job, options.seconds) for name in names}
    for turn in range(options.rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            rate = _window(name, entries[name]["workers"], job, options.seconds).images_per_second
            entries[name]["windows"].append(rate)
            print(f"round {turn + 1}/{options.rounds}: {name} {rate:,.0f} images/s", flush=True)
    for entry in entries.values():
        entry["images_per_second"] = median(entry["windows"])
        pairs = zip(entries[OURS]["windows"], entry["windows"], strict=True)
        entry["ours_is_times_as_fast"] = median(ours / theirs for ours, theirs in pairs)
    _save(options, job, entries)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="as for every command; $ALEXNET_DATA if left out")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME",
                        help=f"any of {', '.join(CONTESTANTS)}; ours always runs")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each window (default 4)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--cores", type=int, help="use only so many (default all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the report (default benchmarks/results)")
    return parser.parse_args()


def _prepare(name: str, job: Job, seconds: float) -> dict[str, Any]:
    """A contestant's best number of workers, its processor time an image, and how far its pixels are from ours."""
    contestant = CONTESTANTS[name]
    counts = sorted({0, 1, 2, job.cores}) if contestant.has_workers else [None]
    windows: dict[int | None, list[Window]] = {workers: [] for workers in counts}
    for _ in range(TRIALS):
        for workers in counts:
            windows[workers].append(_window(name, workers, job, seconds))
    trials = {workers: max(w.images_per_second for w in tried) for workers, tried in windows.items()}
    print(f"{name}: " + ", ".join(f"{workers} workers {rate:,.0f}" for workers, rate in trials.items()), flush=True)
    return {
        "name": name,
        "what": contestant.what,
        "workers": max(trials, key=lambda workers: trials[workers]),
        "best_of_trials": trials,
        "cpu_ms_an_image": 1e3 * median(w.cpu_seconds / w.images for w in windows[counts[0]]),  # in one process
        "grey_levels_from_ours": _difference(name, job),
        "windows": [],
    }


def _window(name: str, workers: int | None, job: Job, seconds: float) -> Window:
    """One window that begins when every worker has been waited for twice."""
    batches = CONTESTANTS[name].run(replace(job, workers=workers))
    warm_up = 4 + 2 * (workers or 0)
    return measure((i for _, i in batches), job.dataset, seconds=seconds, warm_up=warm_up)


def _difference(name: str, job: Job) -> dict[str, float]:
    """Mean and largest distance of the first batch's pixels from ours; the images must be the same."""
    (ours, wanted), (theirs, found) = (_first_batch(CONTESTANTS[n], replace(job, workers=0)) for n in (OURS, name))
    if not np.array_equal(wanted, found):
        raise RuntimeError(f"{name} yields other images than {OURS}.")
    distance = (ours - theirs).abs()
    return {"mean": round(distance.mean().item(), 4), "max": distance.max().item()}


def _first_batch(contestant: Contestant, job: Job) -> tuple[torch.Tensor, NDArray[np.int64]]:
    with closing(contestant.run(job)) as batches:
        images, indices = next(batches)
        return images.clone(), indices


def _save(options: argparse.Namespace, job: Job, entries: dict[str, dict[str, Any]]) -> None:
    now = datetime.now(UTC)
    versions = {"pillow": PIL.__version__, "pillow_libjpeg_turbo": features.version("libjpeg_turbo")}
    report = {
        "date": now.isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(None) | versions,
        "dataset": {"root": str(job.dataset.root), "fingerprint": job.dataset.fingerprint,
                    "num_images": len(job.dataset), "kilobytes": job.dataset.lengths.mean() / 1e3},
        "config": {key: getattr(options, key) for key in ("batch_size", "rounds", "seconds", "seed")},
        "contestants": list(entries.values()),
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"loaders-{now:%Y-%m-%d-%H%M}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    table = _markdown(report)
    path.with_suffix(".md").write_text(table)
    print(f"\n{table}\nSaved in {path} and {path.with_suffix('.md').name}.")


def _markdown(report: dict[str, Any]) -> str:
    facts, config, dataset = report["machine"], report["config"], report["dataset"]
    columns = ("loader", "what", "workers", "images/s", "slowest-fastest", "CPU ms an image, one process",
               "ours is times as fast", "grey levels from ours, mean / max")  # fmt: skip
    lines = [
        f"# Loaders side by side, {report['date'][:10]}",
        "",
        f"`{report['command']}`",
        "",
        f"{facts['cpu']}, {facts['cores']} cores. {dataset['num_images']:,} JPEGs of {dataset['kilobytes']:.0f} KB "
        f"on average, batches of {config['batch_size']}, {config['rounds']} windows of {config['seconds']:g} s each.",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items() if key not in ("cpu", "cores", "device")),
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(_row(entry) for entry in report["contestants"]),
    ]
    return "\n".join(lines) + "\n"


def _row(entry: dict[str, Any]) -> str:
    workers = "-" if entry["workers"] is None else entry["workers"]
    windows, grey = entry["windows"], entry["grey_levels_from_ours"]
    return (
        f"| {entry['name']} | {entry['what']} | {workers} | {entry['images_per_second']:,.0f} "
        f"| {min(windows):,.0f}-{max(windows):,.0f} | {entry['cpu_ms_an_image']:.2f} "
        f"| {entry['ours_is_times_as_fast']:.2f} | {grey['mean']:.3f} / {grey['max']:.0f} |"
    )


if __name__ == "__main__":
    main()
