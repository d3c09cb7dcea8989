"""Memory, threads and open files over 200 epochs of a small set: none of them may grow.

    python benchmarks/memory.py

Each case runs in its own process and is sampled at the end of every epoch. The first tenth of the samples is warm-up;
the median of the last tenth is compared with that of the second. With several arenas, whether glibc reuses freed memory
is a matter of chance, tens of MiB either way; with one (MALLOC_ARENA_MAX=1) a leak shows.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
BATCH = 16
Usage = tuple[float, int, int]  # resident memory in MiB, threads, open files of this process
ARENAS = {"one arena": {"MALLOC_ARENA_MAX": "1"}, "as usual": {}}


def main() -> None:
    options = _options()
    if options.case:
        samples: list[Usage] = []
        CASES[options.case](options.data, options.epochs, lambda: samples.append(_usage()))
        print(json.dumps(_growth(samples)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = _make_data(Path(folder) / "data")
        found = {
            (case, how): _in_child(case, data, options.epochs, environment)
            for case in options.only or CASES
            for how, environment in ARENAS.items()
            if how in (options.arenas or ARENAS)
        }
    if options.json:
        print(json.dumps({f"{case}, {how}": figures for (case, how), figures in found.items()}))
    else:
        _save(options, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--only", choices=CASES, action="append", help="a case to run (default all)")
    parser.add_argument("--arenas", choices=ARENAS, action="append")
    parser.add_argument("--json", action="store_true", help="print the figures, save nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _make_data(root: Path) -> Path:
    """Draw ten classes of five training and two validation images, and truncate one."""
    from alexnet.pipeline.synthetic.generate import generate_tree

    generate_tree(root, train_per_class=5, val_per_class=2, processes=1)
    victim = sorted((root / "train").rglob("*.JPEG"))[7]
    victim.write_bytes(victim.read_bytes()[:-500])
    return root


def _in_child(case: str, data: Path, epochs: int, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--data", str(data), "--epochs", str(epochs)]
    child = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(child.stdout.splitlines()[-1])


def _growth(samples: list[Usage]) -> dict[str, float]:
    """Return the growth from the second to the last tenth of the samples; the first is warm-up."""
    few = max(1, len(samples) // 10)
    first, last = (
        [median(values) for values in zip(*part, strict=True)] for part in (samples[few:][:few], samples[-few:])
    )
    figures: dict[str, float] = {"epochs": len(samples)}
    for kind, before, after in zip(("mib", "threads", "files"), first, last, strict=True):
        figures |= {kind: round(after, 1), f"{kind}_grown": round(after - before, 2)}
    return figures


def _usage() -> Usage:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return mib, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# -- cases: each calls `ended` at the end of every epoch -----------------------------------------------------


def one_stream(data: Path, epochs: int, ended: Callable[[], None]) -> None:
    """Take all epochs from one stream, as training does."""
    loader = _loader(data, epochs)
    for batch in loader:
        if batch.step == len(loader) - 1:
            ended()


def stream_an_epoch(data: Path, epochs: int, ended: Callable[[], None]) -> None:
    """Start a new stream for every epoch, as validation does, and abandon every other one half way."""
    for epoch in range(epochs):
        for batch in _loader(data, epoch + 1).batches(epoch):
            if epoch % 2 and batch.step == 1:
                break
        ended()


def training(data: Path, epochs: int, ended: Callable[[], None]) -> None:
    """Run the trainer itself: loader, a small network, validation, checkpoints, metrics."""
    from alexnet.pca.compute import compute_stats
    from alexnet.pipeline.dataset.open import open_dataset
    from alexnet.train.config import Config
    from alexnet.train.trainer import RunOptions, Trainer

    train_set, val_set = open_dataset(data, "train"), open_dataset(data, "val")
    config = Config.from_preset("paper", width=0.02, batch_size=BATCH, epochs=epochs, schedule="epochs")
    stats = compute_stats(train_set, work_dir=data.parent / "passes", settings=_settings())
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(run_dir=Path(folder), settings=_settings(), checkpoint_every=30)
        Trainer(
            config, train_set, val_set, stats, options, lambda record: ended() if record["kind"] == "val" else None
        ).fit()


def _loader(data: Path, epochs: int) -> Any:
    import numpy as np

    from alexnet.pipeline.dataset.open import open_dataset
    from alexnet.pipeline.loader import Loader
    from alexnet.pipeline.treatment import Treatment

    return Loader(
        open_dataset(data, "train"),
        Treatment(mean=np.zeros(3, np.float32)),
        batch_size=BATCH,
        seed=0,
        num_epochs=epochs,
        settings=_settings(),
    )


def _settings() -> Any:
    from alexnet.pipeline.decode.settings import Settings

    return Settings(threads=2, readers=4, max_bad=0.1)


CASES: dict[str, Callable[[Path, int, Callable[[], None]], None]] = {
    "one stream": one_stream,
    "a stream an epoch": stream_an_epoch,
    "training": training,
}


# -- report ------------------------------------------------------------------------------------------------


def _save(options: argparse.Namespace, found: dict[tuple[str, str], dict[str, float]]) -> None:
    from alexnet.pipeline.bench.conditions import machine

    facts, now = machine(None), datetime.now(UTC)
    lines = [
        f"# Memory over {options.epochs} epochs, {now:%Y-%m-%d}",
        "",
        f"`{shlex.join(['python', *sys.argv])}`",
        "",
        f"{facts['cpu']}, {facts['cores']} cores. 50 generated training images, one of them bad, in batches of "
        f"{BATCH}; 20 validation images.",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items() if key not in ("cpu", "cores", "device")),
        "",
        "| case | malloc | MiB at the end | grown since warm-up, MiB | threads | grown | open files | grown |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {case} | {how} | {f['mib']:.0f} | {f['mib_grown']:+.1f} | {f['threads']:g} | {f['threads_grown']:+g} "
            f"| {f['files']:g} | {f['files_grown']:+g} |"
            for (case, how), f in found.items()
        ),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"memory-{now:%Y-%m-%d}.md"
    path.write_text("\n".join(lines) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
