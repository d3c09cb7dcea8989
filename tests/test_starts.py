"""When and where a run was started: one line for each start, and none of it in the results."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from runs import interrupted_at, trainer

from alexnet.pca.stats import RgbStats
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import UserError
from alexnet.pipeline.machine import hardware
from alexnet.train.checkpoint import load
from alexnet.train.starts import read_starts

pytestmark = pytest.mark.usefixtures("quiet_machine")


def test_a_resumed_run_names_both_starts(colour_tree: Path, tmp_path: Path) -> None:
    path = interrupted_at((0, 3), colour_tree, tmp_path, {"epochs": 1})
    running = trainer(colour_tree, tmp_path, {"epochs": 1}, resume=load(path))
    running.fit()
    train_set, val_set = open_dataset(colour_tree, "train"), open_dataset(colour_tree, "val")
    first, second = read_starts(tmp_path)
    assert [(s.epoch, s.step) for s in (first, second)] == [(0, 0), (0, 3)]
    assert datetime.fromisoformat(first.time) <= datetime.fromisoformat(second.time)
    assert (first.data, first.dataset) == (str(colour_tree), train_set.fingerprint)
    assert (first.num_train, first.num_val, first.num_classes) == (len(train_set), len(val_set), 3)
    assert (first.mesh, first.device, first.threads) == ("1x1", "cpu", 1)
    assert first.versions["torch"] == load(path).versions["torch"]
    assert "nvidia-dali-cuda120" in first.versions


def test_a_fresh_start_drops_those_of_an_earlier_run(colour_tree: Path, tmp_path: Path) -> None:
    for _ in range(2):
        trainer(colour_tree, tmp_path, {"epochs": 1, "batch_size": 18}).fit()
        (first,) = read_starts(tmp_path)
        for saved in (tmp_path / "checkpoints").iterdir():
            saved.unlink()
    assert first.epoch == 0


def test_the_run_folder_keeps_the_statistics(colour_tree: Path, tmp_path: Path) -> None:
    running = trainer(colour_tree, tmp_path, {"epochs": 1, "batch_size": 18})
    running.fit()
    assert running.stats is not None
    kept = RgbStats.load(tmp_path / "stats.json")
    assert kept.fingerprint == running.train_set.fingerprint
    assert kept.eigenvectors.tobytes() == running.stats.eigenvectors.tobytes()


def test_a_run_of_an_earlier_version_has_none(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"epoch": 1}', json.dumps({"other": 1})])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "starts.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"starts\.jsonl is damaged"):
        read_starts(tmp_path)


@pytest.mark.parametrize(
    ("listing", "expected"),
    [("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n", "Some CPU @ 2 GHz"), ("", "x86")],
)
def test_processor(listing: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(listing)
    monkeypatch.setattr(hardware, "PROC", tmp_path)
    monkeypatch.setattr("platform.machine", lambda: "x86")
    assert hardware.processor() == expected
