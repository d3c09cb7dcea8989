"""Is loading the bottleneck? Steps whose cost is known give the answer that is known."""

import time
from pathlib import Path

import pytest

from alexnet.pipeline.bench.bottleneck import Bottleneck, measure_bottleneck, verdict
from alexnet.pipeline.bench.conditions import Bench
from alexnet.pipeline.bench.windows import Figures, Ratio, Window, summarise
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.loader import Batch

BATCH_SIZE = 8
pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def measured(tree: Path, step_seconds: float, seen: list[Batch] | None = None, rounds: int = 2) -> Bottleneck:
    """With a step that takes as long and needs no processor."""

    def step(batch: Batch) -> None:
        if step_seconds:  # a sleep of nothing lets others have their turn
            time.sleep(step_seconds)
        if seen is not None:
            seen.append(batch)

    bench = Bench(
        dataset=open_dataset(tree, "train"),
        settings=Settings(threads=1),
        batch_size=BATCH_SIZE,
        rounds=rounds,
        seconds=0.1,
    )
    return measure_bottleneck(bench, step, lambda *report: None)


def test_a_slow_step_never_waits(noise_tree: Path) -> None:
    found = measured(noise_tree, 0.15, rounds=1)
    assert 0.5 < found.step.images_per_second / (BATCH_SIZE / 0.15) <= 1
    assert found.speed_kept.median > 0.5
    assert found.waiting < 0.5
    assert found.loader.images_per_second > found.step.images_per_second


def test_a_step_that_costs_nothing_waits_all_the_time(noise_tree: Path) -> None:
    found = measured(noise_tree, 0.0)
    assert found.waiting > 0.9
    assert found.speed_kept.high < 0.5
    assert found.verdict.startswith("Loading is the bottleneck")
    assert "alone the loader is slower" in found.verdict


def test_the_step_sees_real_batches_or_one_cached(noise_tree: Path) -> None:
    seen: list[Batch] = []
    measured(noise_tree, 0.0, seen, rounds=1)
    assert {batch.images.shape for batch in seen} == {(BATCH_SIZE, 3, 224, 224)}
    pointers = [batch.images.data_ptr() for batch in seen]
    assert max(pointers.count(p) for p in set(pointers)) > 10  # the cached one, again and again
    assert len({tuple(batch.indices) for batch in seen}) > 3  # the loader's


def figures(rate: float) -> Figures:
    return summarise("", [Window(int(rate), 1, 1.0, 1.0, 0.0, (0.1,), 1)])


@pytest.mark.parametrize(
    ("kept", "loader", "says"),
    [
        (Ratio(0.99, 0.9, 1.0), 5000, "Loading is not the bottleneck: training with it has 99%"),
        (Ratio(0.8, 0.6, 1.1), 5000, "It is unclear"),
        (Ratio(0.5, 0.4, 0.6), 500, "alone the loader is slower than the step"),
        (Ratio(0.5, 0.4, 0.6), 5000, "the two compete for the same cores"),
    ],
)
def test_verdict(kept: Ratio, loader: float, says: str) -> None:
    words = verdict(kept, 0.25, figures(1000), figures(loader))
    assert says in words
    assert "25% of the time" in words
