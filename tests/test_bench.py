"""The loader's benchmark on a handful of images: does it run, and do its figures agree with one another?"""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.pipeline import bench
from alexnet.pipeline.bench import STAGES, BenchResult, Stage
from alexnet.pipeline.dataset import Dataset, open_dataset
from alexnet.pipeline.stream import Settings

NUM_IMAGES, BATCH_SIZE, ROUNDS = 32, 8, 2
SIZE = (96, 72)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        path = root / f"train/{i % 2}/{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(*SIZE, 3), dtype=np.uint8)).save(path)
    return open_dataset(root, "train")


@pytest.fixture(scope="module")
def progress() -> list[tuple[int, int, str]]:
    return []


@pytest.fixture(scope="module")
def result(dataset: Dataset, progress: list[tuple[int, int, str]]) -> BenchResult:
    settings = Settings(threads=2)
    return bench.bench_loader(dataset, settings=settings, batch_size=BATCH_SIZE, rounds=ROUNDS, seconds=0.1,
                              progress=lambda *report: progress.append(report))  # fmt: skip


def test_stages_come_in_order_with_figures_that_agree(result: BenchResult) -> None:
    assert tuple(stage.name for stage in result.stages) == STAGES
    for stage in result.stages:
        assert len(stage.windows) == ROUNDS
        assert 0 < stage.low <= stage.images_per_second <= stage.high < 1e7
        assert 0 <= stage.latency_ms_p50 <= stage.latency_ms_p99 <= stage.latency_ms_max
        cores = 1000 / stage.images_per_second_per_core
        assert cores == pytest.approx(stage.cores_per_1000_images_per_second)
        bytes_an_image = 1e6 * stage.encoded_megabytes_per_second / stage.images_per_second
        assert bytes_an_image == pytest.approx(1e3 * result.dataset["image_kilobytes"], rel=0.2)
        assert 50 < stage.peak_rss_megabytes < 50_000


def test_stages_differ_as_their_work_does(result: BenchResult) -> None:
    work = {stage.name: stage.cores_per_1000_images_per_second for stage in result.stages}
    assert work["read"] < work["decode"]
    assert work["read"] < work["loader"]


def test_json_is_one_object_with_stages(result: BenchResult) -> None:
    saved = json.loads(result.to_json())
    assert [stage["name"] for stage in saved["stages"]] == ["read", "decode", "pipeline", "loader"]
    assert all(math.isfinite(stage["images_per_second"]) for stage in saved["stages"])
    assert saved["dataset"]["num_images"] == NUM_IMAGES
    assert saved["dataset"]["image_megapixels"] == pytest.approx(SIZE[0] * SIZE[1] / 1e6)
    assert saved["config"]["threads"] == 2
    assert saved["config"]["batch_size"] == BATCH_SIZE
    assert "unknown" not in saved["machine"].values()
    assert saved["verdict"]


def test_progress_counts_every_window(result: BenchResult, progress: list[tuple[int, int, str]]) -> None:
    total = (ROUNDS + 1) * len(STAGES)
    assert [(done, of) for done, of, _ in progress] == [(done, total) for done in range(1, total + 1)]
    assert {text.split()[0] for *_, text in progress[: len(STAGES)]} == set(STAGES)


def test_no_thread_is_left_behind(result: BenchResult) -> None:
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("alexnet")]


def test_a_window_counts_neither_the_warm_up_nor_more_than_it_took(dataset: Dataset) -> None:
    closed = []

    def batches() -> bench.Batches:
        try:
            for start in range(1_000_000):
                yield np.arange(start, start + BATCH_SIZE) % NUM_IMAGES
        finally:
            closed.append(True)

    window = bench.measure(batches(), dataset, seconds=0.0, warm_up=2)
    assert window.images == bench.MIN_BATCHES * BATCH_SIZE
    expected = dataset.lengths[np.arange(2, 2 + bench.MIN_BATCHES)[:, None] + np.arange(BATCH_SIZE)].sum()
    assert window.encoded_bytes == expected
    assert sum(window.latencies) <= window.seconds
    assert closed


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize(
    ("rates", "bottleneck"),
    [
        ((1000, 5000, 990, 990), "Reading"),
        ((9000, 5000, 4000, 2000), "Handing"),
        ((9000, 5000, 3000, 2900), "Resampling"),
        ((9000, 3000, 2900, 2900), "Decoding"),
        ((9000, 3000, 4000, 4000), "Decoding"),  # the region alone may decode faster than the whole
    ],
)
def test_verdict_names_the_bottleneck(
    result: BenchResult, rates: tuple[int, ...], bottleneck: str, on_gpu: bool
) -> None:
    stages = [_at(stage, rate) for stage, rate in zip(result.stages, rates, strict=True)]
    words = bench.verdict(stages, on_gpu)
    assert words.startswith(bottleneck)
    assert "not quiet" not in words


def test_verdict_on_a_busy_processor_goes_by_processor_time(result: BenchResult) -> None:
    stages = [_at(stage, rate) for stage, rate in zip(result.stages, (9000, 3000, 2900, 2900), strict=True)]
    stages[3] = replace(stages[3], images_per_second=1500, low=700)  # a neighbour took the rest
    words = bench.verdict(stages, on_gpu=False)
    assert words.startswith("Decoding")
    assert "not quiet" in words


def _at(stage: Stage, rate: float) -> Stage:
    return replace(stage, images_per_second=rate, low=rate, high=rate, images_per_second_per_core=rate)


def test_generated_dataset_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))
    drawn: list[tuple[int, int]] = []
    first = bench.generated_dataset(4, progress=lambda *report: drawn.append(report))
    again = bench.generated_dataset(4, progress=lambda *report: drawn.append(report))
    assert len(first) == len(drawn) == 4
    assert again.fingerprint == first.fingerprint
    assert first.root.is_relative_to(tmp_path / "bench-jpegs")


@pytest.mark.gpu
def test_gpu(dataset: Dataset) -> None:
    settings = Settings(threads=2, device_id=0)
    result = bench.bench_loader(dataset, settings=settings, batch_size=8, rounds=1, seconds=0.1, half=True)
    assert "NVIDIA" in result.machine["device"]
