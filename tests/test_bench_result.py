"""The whole benchmark on a handful of images: one result, its JSON and its picture."""

import json
import math
import shutil
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexnet.console.bench_tables import print_loader_bench
from alexnet.pipeline.bench import compare, sweep
from alexnet.pipeline.bench.conditions import Bench
from alexnet.pipeline.bench.figures import plot_bench
from alexnet.pipeline.bench.result import BenchResult, bench_loader
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings

NUM_IMAGES, BATCH_SIZE = 32, 8


@pytest.fixture(scope="module")
def result(noise_tree: Path) -> BenchResult:
    """With everything that can be asked for."""
    bench = Bench(
        dataset=open_dataset(noise_tree, "train"),
        settings=Settings(threads=1, readers=1),
        batch_size=BATCH_SIZE,
        rounds=1,
        seconds=0.02,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "num_cores", lambda: 1)
        patch.setattr(sweep, "FACTORS", {"threads": (1, 2), "readers": (1, 2), "prefetch": (0.5, 1)})
        return bench_loader(bench, compare=True, train_step=lambda batch: None, sweeps=True)


def test_json_is_one_object_with_everything(result: BenchResult) -> None:
    saved = json.loads(result.to_json())
    assert [stage["name"] for stage in saved["stages"]] == ["read", "decode", "pipeline", "loader"]
    assert all(math.isfinite(stage["images_per_second"]) for stage in (*saved["stages"], *saved["cold"]))
    assert saved["dataset"]["num_images"] == saved["dataset"]["num_sampled"] == NUM_IMAGES
    assert saved["dataset"]["image_megapixels"] == pytest.approx(96 * 72 / 1e6)
    assert (saved["config"]["threads"], saved["config"]["prefetch"], saved["config"]["batch_size"]) == (1, 2, 8)
    assert "unknown" not in saved["machine"].values()
    assert {symptom["where"] for symptom in saved["symptoms"]} == {"disk", "CPU", "GPU", "hand-off"}
    assert saved["verdict"]
    assert saved["page_cache"]["fits"]
    assert len(saved["comparison"]["peers"]) == 2
    assert 0 <= saved["bottleneck"]["waiting"] <= 1
    tried = [(point["option"], point["value"]) for point in saved["sweep"]["points"]]
    assert tried == [("threads", 1), ("threads", 2), ("readers", 1), ("readers", 2), ("prefetch", 1), ("prefetch", 2)]


def test_only_what_is_asked_for(noise_tree: Path) -> None:
    bench = Bench(
        dataset=open_dataset(noise_tree, "train"),
        settings=Settings(threads=1),
        batch_size=BATCH_SIZE,
        rounds=1,
        seconds=0.01,
    )
    found = bench_loader(bench)
    assert (found.comparison, found.bottleneck, found.sweep) == (None, None, None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("alexnet")]


LESS: dict[str, dict[str, Any]] = {
    "all": {},
    "stages": {"comparison": None, "bottleneck": None, "sweep": None},
    "peer": {"bottleneck": None, "sweep": None},
    "step, sweep": {"comparison": None},
}


@pytest.mark.parametrize("less", LESS)
def test_picture_and_tables_show_what_there_is(
    result: BenchResult, less: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = replace(result, **LESS[less])
    path = tmp_path / "new/folder/loader.png"
    plot_bench(shown, path)
    with Image.open(path) as picture:
        rows = 1 + bool(shown.comparison or shown.bottleneck) + bool(shown.sweep)
        assert picture.height > 400 * rows
        assert len(picture.convert("L").getcolors() or []) > 20  # something is drawn
    print_loader_bench(shown)
    printed = capsys.readouterr().out
    for part, title in (
        ("comparison", "Compared with torch"),
        ("bottleneck", "Is loading the bottleneck?"),
        ("sweep", "Recommended: "),
    ):
        assert (title in printed) == (asdict(shown)[part] is not None)
    for figure in (f"{result.stages[0].images_per_second:,.0f}", "From disk: ", "hand-off"):
        assert figure in printed


@pytest.mark.parametrize(
    ("cache", "says"),
    [
        ({"resident_cold": 0.004}, "0.4% of the files' pages stayed in memory; names and inodes"),
        ({"resident_cold": 1.0, "file_system": "tmpfs"}, "or tmpfs keeps them), so these rates are too high"),
        ({"resident_cold": None}, "the kernel tells only their owner"),
        ({"resident_warm": 0.5}, "Only 50% of the pages fitted in memory"),
    ],
)
def test_what_could_not_be_dropped_is_said(
    result: BenchResult, cache: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"resident_warm": 1.0, "resident_cold": 0.0} | cache
    print_loader_bench(replace(result, page_cache=replace(result.page_cache, **known)))
    assert says in capsys.readouterr().out


@pytest.mark.gpu
def test_gpu(noise_tree: Path) -> None:
    bench = Bench(
        dataset=open_dataset(noise_tree, "train"),
        settings=Settings(threads=2, device_id=0),
        batch_size=BATCH_SIZE,
        rounds=1,
        seconds=0.05,
        half=True,
    )
    found = bench_loader(bench, compare=True, train_step=lambda batch: None, sweeps=True)
    assert "NVIDIA" in found.machine["device"]
    assert all(stage.gpu_megabytes > 0 for stage in found.stages)
    assert found.sweep is not None
    assert "hw_decoder_load" in {point.option for point in found.sweep.points}


def test_a_bad_image_is_named_once_and_counted(
    noise_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = shutil.copytree(noise_tree, tmp_path / "damaged")
    (root / "train/0/4.JPEG").write_bytes(b"this is not a picture")
    bench = Bench(
        dataset=open_dataset(root, "train"),
        settings=Settings(threads=1, max_bad=0.1),
        batch_size=BATCH_SIZE,
        rounds=1,
        seconds=0.01,
    )
    assert bench_loader(bench).dataset["num_bad"] == 1
    assert caplog.text.count("Bad image train/0/4.JPEG: text, not an image") == 1


def test_a_processor_whose_name_looks_like_mathematics(result: BenchResult, tmp_path: Path) -> None:
    plot_bench(replace(result, machine=result.machine | {"cpu": "$x_$ [bold]"}), tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 1000
