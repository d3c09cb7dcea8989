"""Windows count what they should, contestants take turns, and figures are medians."""

import os
import time
from dataclasses import astuple
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.pipeline.bench.windows import MIN_BATCHES, Batches, Window, measure, ratio, summarise, take_turns
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset

NUM_IMAGES, BATCH_SIZE = 32, 8


@pytest.fixture
def dataset(noise_tree: Path) -> Dataset:
    return open_dataset(noise_tree, "train")


def window(images: int, seconds: float, *, cpu: float = 1.0, latencies: tuple[float, ...] = (0.1, 0.2)) -> Window:
    return Window(images, 1000 * images, seconds, cpu, 0.5, latencies, 10**6)


def test_a_window_counts_neither_the_warm_up_nor_more_than_it_took(dataset: Dataset) -> None:
    closed = []

    def batches() -> Batches:
        try:
            for start in range(1_000_000):
                yield np.arange(start, start + BATCH_SIZE) % NUM_IMAGES
        finally:
            closed.append(True)

    taken = measure(batches(), dataset, seconds=0.0, warm_up=2)
    assert taken.images == MIN_BATCHES * BATCH_SIZE
    expected = dataset.lengths[np.arange(2, 2 + MIN_BATCHES)[:, None] + np.arange(BATCH_SIZE)].sum()
    assert taken.encoded_bytes == expected
    assert sum(taken.latencies) <= taken.seconds
    assert closed


def test_a_window_takes_so_many_batches_at_most(dataset: Dataset) -> None:
    batches = (np.arange(4) for _ in range(1_000_000))
    assert measure(batches, dataset, seconds=60, warm_up=3, most=2).images == 8


def test_a_window_tells_work_from_waiting(dataset: Dataset) -> None:
    def batches(work: bool) -> Batches:
        while True:
            until = time.perf_counter() + 0.02
            while time.perf_counter() < until:
                if not work:
                    time.sleep(0.02)
            yield np.arange(4)

    busy, waiting = (measure(batches(work), dataset, seconds=0.3, warm_up=0) for work in (True, False))
    assert waiting.cpu_seconds < 0.3 * waiting.seconds
    assert busy.cpu_seconds > 2 * waiting.cpu_seconds
    assert min(waiting.latencies) >= 0.02
    assert 0 <= waiting.idle_seconds < 1.5 * len(os.sched_getaffinity(0)) * waiting.seconds


def test_contestants_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    told: list[tuple[int, int]] = []

    def run(name: str) -> Window:
        order.append(name)
        return window(len(order), 1.0)

    windows = take_turns({name: partial(run, name) for name in "abc"}, 3, lambda *report: told.append(report))
    assert "".join(order) == "abc" + "cba" + "abc" + "cba"
    assert [w.images for w in windows["a"]] == [6, 7, 12]
    assert [w.images for w in windows["c"]] == [4, 9, 10]
    assert told == [(done, 12) for done in range(1, 13)]


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.1, 10), st.floats(0.01, 20)), min_size=1, max_size=9))
def test_figures_are_medians_over_windows(taken: list[tuple[int, float, float]]) -> None:
    figures = summarise("x", [window(images, seconds, cpu=cpu) for images, seconds, cpu in taken])
    rates = [images / seconds for images, seconds, _ in taken]
    assert figures.images_per_second == pytest.approx(np.median(rates))
    assert (figures.low, figures.high) == (min(rates), max(rates))
    assert figures.windows == tuple(rates)
    cpu_an_image = np.median([cpu / images for images, _, cpu in taken])
    assert figures.cores_per_1000_images_per_second == pytest.approx(1000 * cpu_an_image)
    assert figures.images_per_second_per_core == pytest.approx(1 / cpu_an_image)
    assert figures.encoded_megabytes_per_second == pytest.approx(figures.images_per_second / 1000)


def test_latencies_are_of_all_windows_together() -> None:
    figures = summarise("x", [window(1, 1, latencies=tuple(range(50))), window(1, 1, latencies=tuple(range(50, 101)))])
    assert (figures.latency_ms_p50, figures.latency_ms_p99, figures.latency_ms_max) == (50_000, 99_000, 100_000)
    assert figures.latency_ms_quantiles == tuple(1000 * q for q in range(101))


def test_ratios_are_those_of_each_round() -> None:
    """A machine that is ten times slower in the second round changes nothing."""
    ours, theirs = [window(300, 1), window(26, 1)], [window(100, 1), window(10, 1)]
    assert astuple(ratio(ours, theirs)) == pytest.approx((2.8, 2.6, 3.0))
    assert str(ratio(ours, theirs)) == "2.80 (2.60..3.00)"
