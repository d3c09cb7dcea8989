"""Our loader beside others: the same images, crops and flips, the same cores, taking turns.

    python benchmarks/loaders.py /data/imagenet --rounds 7

Every contestant yields float32 batches (B, 3, 224, 224) with the mean image subtracted, for the same plan: shorter
side to 256, central 256-square, the plan's 224-crop and flip. First their pixels are compared with ours. Those with
worker processes try 0, 1, 2 and one per core, those with threads the same from 1, and keep the best number. Then all
take turns in windows that begin when a contestant runs steadily; figures are medians over the rounds, ratios medians
over each round's ratio. `README.md` beside this file says what each contestant does, how to install it and what is not
equal. To add one, add an entry to `contestants.py`.
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

TRIALS = 3  # windows of each number of workers; the best one counts, so that a busy moment does not decide
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    names = _present(options.contestants)
    torch.set_num_threads(1)  # more would only stack batches, and their waiting would count as CPU time
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
    parser.add_argument("data", nargs="?", type=Path, help="as for every command (default $ALEXNET_DATA)")
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=CONTESTANTS,
        default=list(CONTESTANTS),
        metavar="NAME",
        help=f"any of {', '.join(CONTESTANTS)}; those they are compared with run too",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window (default 4)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--cores", type=int, help="use only this many (default all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the report (default benchmarks/results)")
    return parser.parse_args()


def _present(chosen: list[str]) -> list[str]:
    """Return the chosen ones that are installed, and those they are compared with."""
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
    return datasets | {kind: packed(datasets["original"], kind) for kind in kinds - datasets.keys()}


def _try(name: str, job: Job, seconds: float) -> Result:
    """Compare a contestant's pixels with ours, and find its best number of workers."""
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
    """Return the rate in one window, which begins after at least two batches from every worker."""
    contestant = CONTESTANTS[result.name]
    batches = contestant.load()(job)
    warm_up = 4 + 2 * (job.workers or 0)
    window = measure((i for _, i in batches), job.dataset, seconds=seconds, warm_up=warm_up)
    if contestant.workers != "processes" or job.workers == 0:
        result.cpu_ms_an_image.append(1e3 * window.cpu_seconds / window.images)
    return window.images_per_second


def _difference(contestant: Contestant, job: Job) -> dict[str, float] | None:
    """Return how far the first batch's pixels are from ours, mean and largest; the images must be the same."""
    ours, wanted = _first_batch(CONTESTANTS[OURS[contestant.images]], job)
    theirs, found = _first_batch(contestant, job)
    if not np.array_equal(wanted, found):
        raise RuntimeError(f"'{contestant.what}' yields different images from ours.")
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
