"""Samples do not overlap, stages follow the plan, and cold windows read what was dropped."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet.pipeline.bench import conditions, page_cache
from alexnet.pipeline.bench.conditions import Bench
from alexnet.pipeline.bench.stages import STAGES
from alexnet.pipeline.bench.windows import MIN_BATCHES, Window, measure
from alexnet.pipeline.dataset.images import Dataset, Listing
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings

NUM_IMAGES, BATCH_SIZE = 32, 8


@pytest.fixture
def dataset(noise_tree: Path) -> Dataset:
    return open_dataset(noise_tree, "train")


def bench_of(dataset: Dataset, **changes: Any) -> Bench:
    usual: dict[str, Any] = {"settings": Settings(threads=1), "batch_size": BATCH_SIZE, "seconds": 0.05, "rounds": 2}
    return Bench(dataset=dataset, **(usual | changes))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_gives_the_images_of_the_plan(dataset: Dataset, stage: str) -> None:
    loader = replace(bench_of(dataset).loader(dataset, Settings(threads=1, readers=2)), num_epochs=2)
    wanted = [request.indices.tolist() for request in loader.requests([0, 1], 0, lit=True)]
    assert [indices.tolist() for indices in STAGES[stage](loader)] == wanted
    assert len(wanted) == 2 * NUM_IMAGES // BATCH_SIZE


def listing(count: int, length: int) -> Dataset:
    found = Listing()
    for i in range(count):
        found.add(f"{i}.JPEG", 0, length)
    return found.dataset(Path("/nowhere"), "train", ("a",))


def test_samples_hold_a_gibibyte_and_do_not_overlap() -> None:
    many = bench_of(listing(50_000, 110_000))
    parts = [many.sample(part) for part in range(6)]
    assert {len(part) for part in parts} == {2**30 // 110_000}
    names = [{part.names[i] for i in range(len(part))} for part in parts]
    assert len(set.union(*names[:5])) == 5 * len(parts[0])
    assert names[5] & names[0]  # there are no others left
    assert {part.names[0] for part in parts} != {"0.JPEG"}


def test_a_small_data_set_is_its_own_sample() -> None:
    few, large = bench_of(listing(10, 1000)), bench_of(listing(300, 2**30))
    assert [few.sample(3).names[i] for i in range(10)] == [f"{i}.JPEG" for i in range(10)]
    assert len(large.sample(0)) == conditions.SAMPLE_BATCHES * BATCH_SIZE  # however large its images are


def test_what_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "memory", lambda: (5_000_000, 10_000_000))
    assert bench_of(listing(4, 1_000_000)).fits_in_memory
    assert not bench_of(listing(6, 1_000_000)).fits_in_memory


@pytest.mark.usefixtures("no_thread_is_left")
def test_cold_windows_read_what_was_dropped_once(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[float | None] = []

    def spy(*args: Any, **kwargs: Any) -> Window:
        there.append(page_cache.resident_share(dataset))
        return measure(*args, **kwargs)

    monkeypatch.setattr(conditions, "measure", spy)
    cold = bench_of(dataset, seconds=30)
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
