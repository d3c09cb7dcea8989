"""Our loader beside torch's DataLoader with Pillow, on the spot: the same images, crops and flips, taking turns.

`conditions.py` sets the conditions; the peer itself is `peer.py`. `benchmarks/` has more loaders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..errors import UserError
from ..geometry import CROP
from ..loader import Loader
from ..machine.hardware import num_cores
from ..treatment import Treatment
from .conditions import Bench, Progress
from .peer import pillow_batches, worker_counts
from .stages import loader_stage
from .windows import Batches, Figures, Ratio, Window, measure, ratio, summarise, take_turns

PEERS = {"resize then crop": False, "resize the crop alone": True}  # torchvision's transforms; Pillow at its best
OURS = "alexnet"
TRIALS = 2  # windows of each number of workers; the best one counts, so that a busy moment does not decide
MEAN = np.full((CROP, CROP, 3), 120, np.float32)


class PeerError(UserError):
    """The other loader failed: unlike ours, it does not survive an image that cannot be decoded."""


@dataclass(frozen=True)
class Peer:
    """Another loader at its best, beside ours."""

    name: str
    workers: int  # processes
    trials: dict[int, float]  # images/s of the best window of each number of workers
    figures: Figures  # of this process: cores and memory do not include the workers'
    cores_per_1000_images_per_second: float  # measured without workers, so complete
    ours_is_times_as_fast: Ratio
    grey_levels_mean: float  # distance of the first batch's pixels from ours
    grey_levels_max: float


@dataclass(frozen=True)
class Comparison:
    ours: Figures
    peers: tuple[Peer, ...]


def compare_torch(bench: Bench, progress: Progress) -> Comparison:
    """Measure ours in turns with DataLoader and Pillow, which resizes in two ways, each with its best worker count."""
    bench.fill()
    with _one_torch_thread():
        trials = {name: _trials(bench, name, progress) for name in PEERS}
        rates = {
            name: {n: max(w.images_per_second for w in tried) for n, tried in windows.items()}
            for name, windows in trials.items()
        }
        best = {name: max(found, key=lambda workers: found[workers]) for name, found in rates.items()}
        contestants = {OURS: partial(bench.warm, loader_stage)}
        contestants |= {name: partial(_window, bench, name, best[name]) for name in PEERS}
        windows = take_turns(contestants, bench.rounds, partial(progress, "beside torch"))
        distances = {name: _distance(bench, name) for name in PEERS}
    peers = [
        Peer(
            name,
            best[name],
            rates[name],
            summarise(name, windows[name]),
            summarise(name, trials[name][0]).cores_per_1000_images_per_second,
            ratio(windows[OURS], windows[name]),
            *distances[name],
        )
        for name in PEERS
    ]
    return Comparison(summarise(OURS, windows[OURS]), tuple(peers))


def _trials(bench: Bench, name: str, progress: Progress) -> dict[int, list[Window]]:
    """Measure windows of each number of workers."""
    contestants = {workers: partial(_window, bench, name, workers) for workers in worker_counts(num_cores())}
    return take_turns(contestants, TRIALS, partial(progress, f"workers, {name}"), discard=0)


def _window(bench: Bench, name: str, workers: int) -> Window:
    """Measure one window, which begins after two batches from every worker and four more."""
    batches = pillow_batches(
        bench.warm_sample,
        mean=MEAN,
        batch_size=bench.batch_size,
        seed=bench.seed,
        workers=workers,
        region=PEERS[name],
        device_id=bench.settings.gpu_id,
    )

    def indices() -> Batches:
        with closing(batches):
            for _, found in batches:
                yield found

    try:
        return measure(
            indices(),
            bench.warm_sample,
            seconds=bench.seconds,
            warm_up=4 + 2 * workers,
            device_id=bench.settings.gpu_id,
        )
    except Exception as error:  # from Pillow, from torch, or a worker's death
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise PeerError(f"torch's DataLoader could not go on ({reason}). Leave --compare out.") from error


def _distance(bench: Bench, name: str) -> tuple[float, float]:
    """Return the mean and largest distance, in grey levels, of the first batch's pixels from ours."""
    sample = bench.warm_sample
    loader = Loader(
        sample,
        Treatment(mean=MEAN),
        batch_size=bench.batch_size,
        seed=bench.seed,
        settings=bench.settings,
    )
    theirs = pillow_batches(sample, mean=MEAN, batch_size=bench.batch_size, seed=bench.seed, region=PEERS[name])
    batch, (images, indices) = next(iter(loader)), next(theirs)
    assert np.array_equal(batch.indices, indices)
    distance = (batch.images.cpu() - images).abs()
    return distance.mean().item(), distance.max().item()


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread: more would only stack batches, and burn time that the workers need."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
