"""Windows count what they should, contestants take turns, and cold windows read what was dropped."""

import os
import threading
import time
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.pipeline import bench, page_cache
from alexnet.pipeline.bench import MIN_BATCHES, Batches, Bench, Window, ratio, summarise, take_turns
from alexnet.pipeline.dataset import Dataset, Listing, open_dataset
from alexnet.pipeline.stages import STAGES
from alexnet.pipeline.stream import Settings

NUM_IMAGES, BATCH_SIZE = 32, 8


@pytest.fixture
def dataset(noise_tree: Path) -> Dataset:
    return open_dataset(noise_tree, "train")


def conditions(dataset: Dataset, **changes: Any) -> Bench:
    usual: dict[str, Any] = {"settings": Settings(threads=1), "batch_size": BATCH_SIZE, "seconds": 0.05, "rounds": 2}
    return Bench(dataset=dataset, **(usual | changes))


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

    taken = bench.measure(batches(), dataset, seconds=0.0, warm_up=2)
    assert taken.images == MIN_BATCHES * BATCH_SIZE
    expected = dataset.lengths[np.arange(2, 2 + MIN_BATCHES)[:, None] + np.arange(BATCH_SIZE)].sum()
    assert taken.encoded_bytes == expected
    assert sum(taken.latencies) <= taken.seconds
    assert closed


def test_a_window_ends_with_its_batches(dataset: Dataset) -> None:
    batches = (np.arange(4) for _ in range(5))
    assert bench.measure(batches, dataset, seconds=60, warm_up=3).images == 8


def test_a_window_tells_work_from_waiting(dataset: Dataset) -> None:
    def batches(work: bool) -> Batches:
        while True:
            until = time.perf_counter() + 0.02
            while time.perf_counter() < until:
                if not work:
                    time.sleep(0.02)
            yield np.arange(4)

    busy, waiting = (bench.measure(batches(work), dataset, seconds=0.3, warm_up=0) for work in (True, False))
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


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_gives_the_images_of_the_plan(dataset: Dataset, stage: str) -> None:
    loader = conditions(dataset).loader(dataset, Settings(threads=1, readers=2))
    wanted = [request.indices.tolist() for request in loader.requests([0, 1], 0, lit=True)]
    assert [indices.tolist() for indices in STAGES[stage](loader, 2)] == wanted
    assert len(wanted) == 2 * NUM_IMAGES // BATCH_SIZE


def listing(count: int, length: int) -> Dataset:
    found = Listing()
    for i in range(count):
        found.add(f"{i}.JPEG", 0, length)
    return found.dataset(Path("/nowhere"), "train", ("a",))


def test_samples_hold_a_gibibyte_and_do_not_overlap() -> None:
    conditions_of_many = conditions(listing(50_000, 110_000))
    parts = [conditions_of_many.sample(part) for part in range(6)]
    assert {len(part) for part in parts} == {2**30 // 110_000}
    names = [{part.names[i] for i in range(len(part))} for part in parts]
    assert len(set.union(*names[:5])) == 5 * len(parts[0])
    assert names[5] & names[0]  # there are no others left
    assert {part.names[0] for part in parts} != {"0.JPEG"}


def test_a_small_data_set_is_its_own_sample() -> None:
    few, large = conditions(listing(10, 1000)), conditions(listing(300, 2**30))
    assert [few.sample(3).names[i] for i in range(10)] == [f"{i}.JPEG" for i in range(10)]
    assert len(large.sample(0)) == bench.SAMPLE_BATCHES * BATCH_SIZE  # however large its images are


def test_what_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "memory", lambda: (5_000_000, 10_000_000))
    assert conditions(listing(4, 1_000_000)).fits_in_memory
    assert not conditions(listing(6, 1_000_000)).fits_in_memory


@pytest.mark.usefixtures("no_thread_is_left")
def test_cold_windows_read_what_was_dropped_once(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[float | None] = []

    def spy(*args: Any, **kwargs: Any) -> Window:
        there.append(page_cache.resident_share(dataset))
        return measure(*args, **kwargs)

    measure = bench.measure
    monkeypatch.setattr(bench, "measure", spy)
    cold = conditions(dataset, seconds=30)
    cold.fill()
    warm = page_cache.resident_share(dataset)
    taken, stayed = cold.cold(STAGES["loader"], part=1)
    assert taken.images == MIN_BATCHES * BATCH_SIZE  # of 4 batches, long before the 30 s are over
    assert taken.seconds < 30
    assert there == [stayed]
    if page_cache.file_system(dataset.root) in ("ext4", "xfs", "btrfs"):  # tmpfs is memory itself
        assert warm == 1
        assert stayed == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("alexnet")]
