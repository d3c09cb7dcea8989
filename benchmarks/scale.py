"""Listing, indexing and planning at the size of the Fall 2011 release: 15 million images of 21,841 synsets.

    python benchmarks/scale.py --folder /data/scratch

It needs no 15 million files: generated names go through the listing's and the index's own code, and the class folders
are real. Only the speed of listing a file system and an archive is measured on fewer files and extrapolated. Each stage
runs in its own process, so its peak memory (VmHWM) is its own. Everything is written below `--folder`, about 3 GB, and
removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np

RELEASE = 15_000_000  # images
SYNSETS = 21_841
PER_SYNSET = RELEASE // SYNSETS  # images
JPEG_BYTES = 110_000
TRAIN = ["--preset", "original", "--epochs", "1", "--device", "cpu", "--threads", "2"]
RESULTS = Path(__file__).parent / "results"

Found = dict[str, dict[str, float]]  # part -> wall and CPU seconds, and further figures


def main() -> None:
    options = _options()
    if options.stage:
        found: Found = {}
        STAGES[options.stage](options, found)
        _print_result(found)
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="alexnet-scale-") as folder:
        results = [_run(stage, Path(folder), options) for stage in STAGES if stage != "start"]
    _save(options, results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for scratch files")
    parser.add_argument("--images", type=int, default=RELEASE, help="generated names")
    parser.add_argument("--files", type=int, default=200_000, help="real files, and members of an archive")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(stage: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one stage in its own process, with its own cache."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
    command += ["--images", str(options.images), "--files", str(options.files)]
    environment = os.environ | {"ALEXNET_CACHE": str(folder / "cache"), "STARTED": str(time.time())}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout.splitlines()[-1], flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def _print_result(found: Found) -> None:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"parts": found, "peak_mib": int(peak[1]) // 1024 if peak else None}), flush=True)


@contextmanager
def _timed(found: Found, part: str) -> Iterator[dict[str, float]]:
    """Time the block, in wall and CPU seconds; it may add figures of its own."""
    figures = found.setdefault(part, {})
    wall, cpu = time.perf_counter(), time.process_time()
    yield figures
    figures["seconds"] = round(time.perf_counter() - wall, 2)
    figures["cpu_seconds"] = round(time.process_time() - cpu, 2)


# -- real files --------------------------------------------------------------------------------------------


def list_folders(options: argparse.Namespace, found: Found) -> None:
    """List class folders of empty files, as many in each as the release has on average; the kernel has them cached."""
    from alexnet.pipeline.dataset.open import open_dataset

    root = options.folder / "tree"
    for synset in range(options.files // PER_SYNSET):
        folder = root / "train" / f"n{synset:08d}"
        folder.mkdir(parents=True)
        for number in range(PER_SYNSET):
            (folder / _name(synset, number)).touch()
    os.sync()
    with _timed(found, "list class folders") as figures:
        figures["images"] = len(open_dataset(root, "train"))


def list_archive(options: argparse.Namespace, found: Found) -> None:
    """List a tar of class tars, like ILSVRC2012_img_train.tar; its images are holes, as no byte of them is read."""
    from alexnet.pipeline.dataset.open import open_dataset

    root = options.folder / "archive"
    root.mkdir()
    padded = -(-JPEG_BYTES // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    inner = PER_SYNSET * (tarfile.BLOCKSIZE + padded) + tarfile.RECORDSIZE
    with (root / "ILSVRC2012_img_train.tar").open("wb") as file:
        for synset in range(options.files // PER_SYNSET):
            _write_header(file, f"n{synset:08d}.tar", inner)
            for number in range(PER_SYNSET):
                _write_header(file, _name(synset, number), JPEG_BYTES)
                file.seek(padded, os.SEEK_CUR)
            file.seek(tarfile.RECORDSIZE, os.SEEK_CUR)
        file.truncate(file.tell() + tarfile.RECORDSIZE)
    os.sync()
    with _timed(found, "list a tar of tars") as figures:
        figures["images"] = len(open_dataset(root, "train"))


def _name(synset: int, number: int) -> str:
    return f"n{synset:08d}_{number}.JPEG"


def _write_header(file: IO[bytes], name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    file.write(member.tobuf(tarfile.GNU_FORMAT))


# -- generated names ---------------------------------------------------------------------------------------


def make_index(options: argparse.Namespace, found: Found) -> None:
    """Build an index. Each class folder holds one real file, so that the list depends on 21,841 folders."""
    from alexnet.pipeline.dataset.images import Listing, index
    from alexnet.pipeline.dataset.layouts import find_layout

    root = options.folder / "release"
    for synset in range(SYNSETS):
        for split in ("train", "val"):
            folder = root / split / f"n{synset:08d}"
            folder.mkdir(parents=True)
            (folder / _name(synset, 0)).touch()
    listing = Listing()
    with _timed(found, "add the names to a listing") as figures:
        for number in range(options.images):
            synset = number * SYNSETS // options.images
            listing.add(f"train/n{synset:08d}/{_name(synset, number)}", synset, JPEG_BYTES + number % 90_000)
        figures["images"] = options.images
    dataset = listing.dataset(root, "train", (f"n{synset:08d}" for synset in range(SYNSETS)))
    path = index.index_path(root, "train")
    with _timed(found, "fingerprint, once") as figures:
        assert len(dataset.fingerprint) == 32
    with _timed(found, "save the index") as figures:
        layout = find_layout(root, "train")
        layout.list_images(False)  # reads the folders
        stamp = index.stamp_of(root, "train", layout.describe, layout.stamp())
        index.save_index(path, stamp, dataset, layout.folders)
        figures["mib"] = path.stat().st_size // 2**20


def open_index(options: argparse.Namespace, found: Found) -> None:
    from alexnet.pipeline.dataset import index
    from alexnet.pipeline.dataset.layouts import find_layout
    from alexnet.pipeline.dataset.open import open_dataset

    root = options.folder / "release"
    with _timed(found, "find the layout and its stamp"):
        layout = find_layout(root, "train")
        index.stamp_of(root, "train", layout.describe, layout.stamp())
    with _timed(found, "open the cached index, a look at each folder included") as figures:
        dataset = open_dataset(root, "train")
        figures["images"] = len(dataset)
    assert len(dataset) == options.images
    with _timed(found, "its fingerprint"):
        assert len(dataset.fingerprint) == 32


def draw_plans(options: argparse.Namespace, found: Found) -> None:
    from alexnet.pipeline.plan import draw_epoch

    for epoch in range(2):
        with _timed(found, f"draw the order of epoch {epoch}") as figures:
            plan = draw_epoch(options.images, 0, epoch)
            figures["images"] = len(plan)
    with _timed(found, "draw 1,000 batches of 128"):
        for step in range(1000):
            plan[128 * step : 128 * (step + 1)]


def start_training(options: argparse.Namespace, found: Found) -> None:
    """Start `alexnet train` three times, with statistics cached as after a first run."""
    from alexnet.pca.moments import RgbMoments
    from alexnet.pca.stats import Part, RgbStats, stats_path
    from alexnet.pipeline.cache import needed_cache
    from alexnet.pipeline.dataset.open import open_dataset

    dataset = open_dataset(options.folder / "release", "train")
    moments = RgbMoments.zero(256)
    moments.update(np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8))
    parts = (Part(dataset.fingerprint, 0, len(dataset), len(dataset)),)
    needed_cache("`train` finds the statistics there.")
    RgbStats.from_moments(moments, parts=parts).save(stats_path(dataset))
    for attempt in range(1, 4):
        result = _run("start", options.folder, options)
        part = f"`alexnet train {' '.join(TRAIN)}` from its start to the first request to the loader, {attempt}"
        found[part] = result["parts"]["start"] | {"peak_mib": result["peak_mib"]}


def start(options: argparse.Namespace, found: Found) -> None:
    """Run the command itself, up to the loader's first request."""
    from alexnet import cli
    from alexnet.pipeline.loader import Loader

    requests = Loader.requests

    def first_request(self: Loader, *arguments: Any) -> Any:
        next(requests(self, *arguments))
        seconds, cpu = time.time() - float(os.environ["STARTED"]), os.times()
        found["start"] = {"seconds": round(seconds, 2), "cpu_seconds": round(cpu.user + cpu.system, 2)}
        _print_result(found)
        os._exit(0)

    Loader.requests = first_request  # type: ignore[method-assign]
    cli.main(["train", str(options.folder / "release"), "--run", str(options.folder / "run"), *TRAIN])


STAGES: dict[str, Callable[[argparse.Namespace, Found], None]] = {
    "list folders": list_folders,
    "list archive": list_archive,
    "make index": make_index,
    "open index": open_index,
    "draw plans": draw_plans,
    "start training": start_training,
    "start": start,
}


# -- report ------------------------------------------------------------------------------------------------


def _save(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    from alexnet.pipeline.bench.conditions import machine

    facts, now = machine(None), datetime.now(UTC)
    lines = [
        f"# Fifteen million images, {now:%Y-%m-%d}",
        "",
        f"`{shlex.join(['python', *sys.argv])}`",
        "",
        f"{facts['cpu']}, {facts['cores']} cores; load before: {os.getloadavg()[2]:.1f}. {options.images:,} generated "
        f"names in {SYNSETS:,} synsets; real files and archive members: {options.files:,}, read from memory.",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items() if key not in ("cpu", "cores", "device")),
        "",
        "| | seconds | CPU seconds | images/s of CPU | 15 million would take | peak memory of the process, MiB | |",
        "|---|---|---|---|---|---|---|",
        *(_row(part, figures, result["peak_mib"]) for result in results for part, figures in result["parts"].items()),
    ]
    path = options.out / f"scale-{now:%Y-%m-%d}.md"
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    print(path.read_text())


def _row(part: str, figures: dict[str, float], peak_mib: int) -> str:
    images, seconds, cpu = figures.get("images"), figures["seconds"], figures["cpu_seconds"]
    rate = f"{images / max(cpu, 0.01):,.0f}" if images else ""
    whole = f"{RELEASE / images * seconds:,.0f} s" if images and images < RELEASE else ""
    more = f"{figures['mib']:,} MiB on disk" if "mib" in figures else ""
    return f"| {part} | {seconds} | {cpu} | {rate} | {whole} | {figures.get('peak_mib', peak_mib):,} | {more} |"


if __name__ == "__main__":
    main()
