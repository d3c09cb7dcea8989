"""Our loader beside others: the same images, crops and flips, the same cores, taking turns.

    python benchmarks/loaders.py /data/imagenet --rounds 7

Every contestant yields float32 batches (B, 3, 224, 224) with the mean image subtracted, for the same plan: shorter
side to 256, central 256-square, the plan's 224-crop and flip. How far their pixels are from ours is measured first.
Those with worker processes are tried with 0, 1, 2 and as many as there are cores, those with threads from 1, and
run at their best. Then all take turns in windows that begin when a contestant runs steadily; figures are medians
over the rounds, ratios medians of each round's ratio. `README.md` beside this file says what each contestant does,
how to install it and what is not equal. Another one is an entry in `contestants.py`.
"""

from __future__ import annotations

import argparse
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.pipeline.bench.windows import measure
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from contestants import CONTESTANTS, OURS, Contestant, Images
from job import Job
from prepare import packed
from report import Result, save

TRIALS = 3  # windows of each number of workers; the best one counts, so that a busy moment does not choose
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    names = _present(options.contestants)
    torch.set_num_threads(1)  # they would only stack batches, and burn the processor time that is measured waiting
    cores = len(os.sched_getaffinity(0))
    datasets = _datasets(options.data, {CONTESTANTS[name].images for name in names})
    jobs = {images: Job(dataset, options.batch_size, options.seed, cores) for images, dataset in datasets.items()}
    results = {name: _try(name, jobs[CONTESTANTS[name].images], options.seconds) for name in names}
    for turn in range(options.rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            job = replace(jobs[CONTESTANTS[name].images], workers=results[name].workers)
            rate = _window(results[name], job, options.seconds)
            results[name].windows.append(rate)
            print(f"round {turn + 1}/{options.rounds}: {name} {rate:,.0f} images/s", flush=True)
    config = {key: getattr(options, key) for key in ("batch_size", "rounds", "seconds", "seed")}
    save(options.out, results, datasets, config | {"cores": cores})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="as for every command; $ALEXNET_DATA if left out")
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=CONTESTANTS,
        default=list(CONTESTANTS),
        metavar="NAME",
        help=f"any of {', '.join(CONTESTANTS)}; ours run with them",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each window (default 4)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--cores", type=int, help="use only so many (default all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the report (default benchmarks/results)")
    return parser.parse_args()


def _present(chosen: list[str]) -> list[str]:
    """The chosen ones that are installed, and those they are compared with."""
    wanted: set[str] = set()
    for name in chosen:
        try:
            CONTESTANTS[name].load()
        except (ImportError, RuntimeError) as error:
            print(f"{name} is left out: {error}. benchmarks/README.md says how to install it.", flush=True)
            continue
        while name not in wanted:
            wanted.add(name)
            name = CONTESTANTS[name].rival
    return [name for name in CONTESTANTS if name in wanted]


def _datasets(data: Path | None, kinds: set[Images]) -> dict[Images, Dataset]:
    datasets: dict[Images, Dataset] = {"original": open_dataset(data, "train")}
    return datasets | {kind: packed(datasets["original"], raw=kind == "raw") for kind in kinds - datasets.keys()}


def _try(name: str, job: Job, seconds: float) -> Result:
    """How far a contestant's pixels are from ours, and its best number of workers."""
    contestant = CONTESTANTS[name]
    counts = contestant.counts(job.cores)
    distance = _difference(contestant, replace(job, workers=min(counts, default=None)))
    result = Result(name, contestant.what, contestant.rival, distance)
    for _ in range(TRIALS):
        for workers in counts:
            rate = _window(result, replace(job, workers=workers), seconds)
            result.best_of_trials[workers] = max(rate, result.best_of_trials.get(workers, 0))
    trials = result.best_of_trials
    result.workers = max(trials, key=lambda workers: trials[workers], default=None)
    print(f"{name}: " + (", ".join(f"{n} {contestant.workers} {rate:,.0f}" for n, rate in trials.items()) or "ready"))
    return result


def _window(result: Result, job: Job, seconds: float) -> float:
    """The rate in one window that begins when every worker has been waited for twice."""
    contestant = CONTESTANTS[result.name]
    batches = contestant.load()(job)
    warm_up = 4 + 2 * (job.workers or 0)
    window = measure((i for _, i in batches), job.dataset, seconds=seconds, warm_up=warm_up)
    if contestant.workers != "processes" or job.workers == 0:
        result.cpu_ms_an_image.append(1e3 * window.cpu_seconds / window.images)
    return window.images_per_second


def _difference(contestant: Contestant, job: Job) -> dict[str, float] | None:
    """Mean and largest distance of the first batch's pixels from ours; the images must be the same."""
    (ours, wanted), (theirs, found) = (_first_batch(c, job) for c in (CONTESTANTS[OURS[contestant.images]], contestant))
    if not np.array_equal(wanted, found):
        raise RuntimeError(f"'{contestant.what}' yields other images than ours.")
    if not len(theirs):
        return None
    distance = (ours - theirs).abs()
    return {"mean": round(distance.mean().item(), 4), "max": distance.max().item()}


def _first_batch(contestant: Contestant, job: Job) -> tuple[torch.Tensor, NDArray[np.int64]]:
    with closing(contestant.load()(job)) as batches:
        images, indices = next(batches)
        return images.clone(), indices.copy()


if __name__ == "__main__":
    main()
