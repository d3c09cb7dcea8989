"""The loaders that ours is measured beside: each that is installed does the work that is asked of it."""

import importlib
import io
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet.pipeline.augment import treat
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.dct import decode_dct

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NUM_IMAGES, BATCH_SIZE = 11, 4

sys.path.append(str(BENCHMARKS))
contestants, job, loaders, prepare = map(importlib.import_module, ("contestants", "job", "loaders", "prepare"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Smooth images, upright and wide, larger and smaller than 256: there all filters agree."""
    root = tmp_path_factory.mktemp("benchmarks")
    rng = np.random.default_rng(1)
    for i in range(NUM_IMAGES):
        path = root / f"train/{i % 2}/{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(256, size=(4, 4, 3), dtype=np.uint8))
        size = rng.integers(200, 500, 2).tolist()
        coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=95, subsampling="4:4:4")
    return open_dataset(root, "train")


def _job(name: str, original: Dataset) -> Any:
    contestant = contestants.CONTESTANTS[name]
    images = original if contestant.images == "original" else prepare.packed(original, contestant.images)
    return job.Job(images, BATCH_SIZE, seed=3, cores=2, workers=min(contestant.counts(2), default=None))


@pytest.mark.filterwarnings("default")  # those of other people's packages
@pytest.mark.usefixtures("quiet_machine", "no_thread_is_left")
@pytest.mark.parametrize("name", contestants.CONTESTANTS)
def test_contestants_yield_the_plans_crops(name: str, dataset: Dataset) -> None:
    """Three batches of two epochs, against the treatment in numpy."""
    try:
        run = contestants.CONTESTANTS[name].load()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"not installed: {error}")
    work = _job(name, dataset)
    plans = [work.plan(0), work.plan(1)]
    wanted = np.concatenate([plan.order[: work.epoch_length] for plan in plans])
    with closing(run(work)) as batches:
        for start in range(0, 3 * BATCH_SIZE, BATCH_SIZE):
            images, indices = next(batches)
            assert indices.tolist() == wanted[start : start + BATCH_SIZE].tolist()
            if "decode" in name or (start >= work.epoch_length and "ffcv" in name):
                continue  # no pixels; the first epoch's crops once more
            plan, rows = plans[start // work.epoch_length], range(start % work.epoch_length, work.epoch_length)
            for image, index, row in zip(images, indices.tolist(), rows, strict=False):
                expected = _expected(work.dataset, index, plan.crops[row].tolist(), bool(plan.flips[row]))
                assert np.abs(image.permute(1, 2, 0).numpy() - expected).mean() < 2  # grey levels; a fast DCT costs one


def _expected(dataset: Dataset, index: int, crop: list[int], flip: bool) -> Any:
    content = dataset.read(index)
    if dataset.stored == "raw":
        pixels = content.reshape(256, 256, 3)
    elif dataset.stored == "dct":
        pixels = decode_dct(content)
    else:
        with Image.open(io.BytesIO(content.tobytes())) as image:
            pixels = np.asarray(image)
    return treat(pixels, top=crop[0], left=crop[1], flip=flip, mean=job.MEAN, offset=np.zeros(3, np.float32))


@pytest.mark.usefixtures("quiet_machine")
def test_who_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(contestants.CONTESTANTS, "ffcv", contestants.Contestant("FFCV", "no_such_module"))
    assert loaders._present(["ffcv", "alexnet-pack"]) == ["alexnet", "alexnet-pack"]
    assert "ffcv is left out: No module named 'no_such_module'. benchmarks/README.md says" in capsys.readouterr().out


@pytest.mark.usefixtures("quiet_machine")
def test_what_is_cached_is_whole_or_absent(cache_dir: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare.cached("thing", fail)
    assert not list((cache_dir / "benchmarks").glob("thing*"))
    assert prepare.cached("thing", lambda path: path.write_text("whole") and None).read_text() == "whole"
    assert prepare.cached("thing", fail).read_text() == "whole"


@pytest.mark.usefixtures("quiet_machine")
def test_the_script_writes_figures_that_agree(dataset: Dataset, tmp_path: Path) -> None:
    options = ["--rounds", "3", "--seconds", "0.05", "--batch-size", "4", "--out", str(tmp_path)]
    options += ["--contestants", "alexnet-pack", "alexnet-decode"]
    command = [sys.executable, str(BENCHMARKS / "loaders.py"), str(dataset.root), *options]
    subprocess.run(command, check=True, capture_output=True)
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    entries = {entry["name"]: entry for entry in report["contestants"]}
    assert list(entries) == ["alexnet", "alexnet-decode", "alexnet-pack"]
    ours = entries["alexnet"]["windows"]
    for entry in entries.values():
        assert len(entry["windows"]) == 3
        assert entry["images_per_second"] == sorted(entry["windows"])[1]
        ratios = sorted(a / b for a, b in zip(ours, entry["windows"], strict=True))
        assert entry["which_is_times_as_fast"] == pytest.approx(ratios[1])
        assert 0 < entry["least_cpu_ms_an_image"] < 1000
    table = next(tmp_path.glob("*.md")).read_text()
    assert all(f"| {name} |" in table for name in entries)


def test_the_gpu_script_compiles_every_source() -> None:
    """On a bare checkout, and under the names that `compiled.load` looks for."""
    script = (BENCHMARKS / "gpu.sh").read_text()
    named = re.search(r"for source in (.*); do", script)
    assert named is not None
    checkout = BENCHMARKS.parent
    found = (path for room in ("pipeline", "train") for path in (checkout / room).rglob("*.c"))
    sources = {path.relative_to(checkout).with_suffix("").as_posix() for path in found}
    assert set(named[1].split()) == sources


def test_the_gpu_script_shows_what_it_found(tmp_path: Path) -> None:
    """One line for each figure, and a file that was cut short or is of another kind stops nothing."""
    stages = [{"name": "read", "images_per_second": 12345.6}, {"name": "loader", "images_per_second": 678.9}]
    step = {"contestant": "graph", "batch_size": 128, "images_per_second": 40000.4, "share_of_flops": 0.25}
    failed = {"contestant": "compile", "batch_size": 128, "why": "OutOfMemoryError: no"}
    steps = [
        {"kind": "train", "loss": 7.0 - i, "images_per_second": 100.0 * i, "waiting": 0.01 * i} for i in range(1, 4)
    ]
    files = {
        "loader-raw-gpu.json": json.dumps({"stages": stages}),
        "step.json": json.dumps({"results": [step], "failed": [failed]}),
        "train-dct.jsonl": "\n".join(map(json.dumps, [*steps, {"kind": "val"}])),
        "train-none.jsonl": json.dumps({"kind": "val"}),
        "doctor.json": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, str(BENCHMARKS / "gpu_table.py"), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert [re.sub("  +", " ", line) for line in done.stdout.splitlines()] == [
        "loader-raw-gpu read 12,346 loader 679",
        "step graph batch 128 40,000 images/s 25.0% share_of_flops",
        "step compile batch 128 failed: OutOfMemoryError: no",
        "train-dct 200 images/s, waiting 2.00%, losses 6.000000 .. 4.000000",
        "train-none no step was taken",
    ]


def test_the_gpu_script_goes_on_after_a_failure(tmp_path: Path) -> None:
    """With a Python that answers as the doctor, and whose tests fail."""
    environment = os.environ | {"OUT": str(tmp_path / "out"), "WORK": str(tmp_path / "work"), "DEVICE": "cpu"}
    fake = tmp_path / "python"
    answers = 'case "$*" in *doctor*json) echo "{}";; *-m?pytest*) exit 3;; *) exec '
    fake.write_text(f'#!/bin/sh\n{answers}{sys.executable} "$@";; esac\n')
    fake.chmod(0o755)
    command = [str(BENCHMARKS / "gpu.sh"), str(tmp_path), "tests"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"PYTHON": str(fake)}, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"FAILED \(3, at most 420 s\): .*pytest -m gpu", done.stdout)
    assert (tmp_path / "out/doctor.json").read_text() == "{}\n"
    assert "All that is in" in done.stdout


def test_the_gpu_script_leaves_out_what_it_has_no_time_for(tmp_path: Path) -> None:
    places = {"OUT": str(tmp_path / "out"), "WORK": str(tmp_path / "work"), "DEVICE": "cpu", "PYTHON": sys.executable}
    command = [str(BENCHMARKS / "gpu.sh"), str(tmp_path), "tests", "loader", "step", "train"]
    environment = os.environ | places | {"PART_SECONDS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "LEFT OUT, no time is left: doctor" in done.stdout
    assert "FAILED" not in done.stdout
    assert done.stdout.count("LEFT OUT") > 25
    assert "All that is in" in done.stdout
