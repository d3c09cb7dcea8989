"""What a command needs before it starts: run folders, resuming, statistics, memory."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import CPU
from torch._C._distributed_c10d import HashStore

from alexnet.console.commands.evaluate import split_data
from alexnet.pca.moments import RgbMoments
from alexnet.pca.stats import Part, RgbStats, stats_path
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import CheckpointError, UserError
from alexnet.train import memory
from alexnet.train.checkpoint import Checkpoint, checkpoint_path, save
from alexnet.train.classifier import find_networks, load_classifier
from alexnet.train.config import Config
from alexnet.train.memory import check_memory
from alexnet.train.network.model import AlexNet
from alexnet.train.parallel.dims import ParallelDims
from alexnet.train.parallel.ranks import RankInfo
from alexnet.train.resume import NEWEST, choose_run_dir, find_checkpoint, resolve_config
from alexnet.train.treatment import stats_for_training

pytestmark = pytest.mark.usefixtures("quiet_machine")

CONFIG = Config(width=0.02, seed=7, lr=0.5)


def checkpoint(run_dir: Path, step: int, **changes: Any) -> Path:
    arrays = {"mean": np.full(3, 100, np.float32), "divisor": np.full(3, 2, np.float32)}
    model = AlexNet(CONFIG, 2).state_dict()
    path = checkpoint_path(run_dir, step)
    save(path, Checkpoint(config=CONFIG, classes=["a", "b"], epoch=0, step=step, model=model, arrays=arrays, **changes))
    return path


def statistics(fingerprint: str, stop: int = 18) -> RgbStats:
    moments = RgbMoments.zero(256)
    moments.update(np.random.default_rng(0).integers(256, size=(2, 256, 256, 3), dtype=np.uint8))
    return RgbStats.from_moments(moments, parts=(Part(fingerprint, 0, stop, 18),))


def test_a_fresh_start_needs_a_folder_without_a_run(tmp_path: Path) -> None:
    assert find_checkpoint(None, tmp_path / "new") is None
    checkpoint(tmp_path, 3)
    with pytest.raises(UserError, match=rf"{tmp_path} holds a run already. Add --resume"):
        find_checkpoint(None, tmp_path)


def test_resume_takes_the_newest_whole_checkpoint_or_the_one_named(tmp_path: Path) -> None:
    old, _, newest = checkpoint(tmp_path, 3), checkpoint(tmp_path, 20), checkpoint(tmp_path, 100)

    def step(resume: str, run_dir: Path) -> int:
        found = find_checkpoint(resume, run_dir)
        assert found is not None
        return found.step

    assert step(NEWEST, tmp_path) == 100
    assert step(str(tmp_path), Path("elsewhere")) == 100
    assert step(str(old), tmp_path) == 3
    newest.write_bytes(newest.read_bytes()[:1000])
    assert step(NEWEST, tmp_path) == 20


@pytest.mark.parametrize("resume", [NEWEST, "named"])
def test_resuming_what_is_not_there_starts_nothing(tmp_path: Path, resume: str) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(CheckpointError, match=rf"--resume: there is no {missing}. Nothing was started"):
        find_checkpoint(NEWEST if resume == NEWEST else str(missing), missing)
    missing.mkdir()
    with pytest.raises(CheckpointError, match=rf"--resume: {missing} holds no complete checkpoint. Nothing"):
        find_checkpoint(NEWEST if resume == NEWEST else str(missing), missing)


def test_all_ranks_take_the_checkpoint_that_the_first_finds(tmp_path: Path) -> None:
    """The others may look later, when there are newer ones, or from a machine that has not heard of the newest."""
    store = HashStore()
    first, second = (RankInfo(rank, 2, rank, 2, store=store) for rank in range(2))
    path = checkpoint(tmp_path, 3)
    assert find_networks([tmp_path, path], first) == [path, path]
    found = [find_checkpoint(NEWEST, tmp_path, first)]
    checkpoint(tmp_path, 20)
    found.append(find_checkpoint(NEWEST, tmp_path, second))
    assert [saved.step for saved in found if saved] == [3, 3]
    assert find_networks([tmp_path, path], second) == [path, path]
    with pytest.raises(CheckpointError, match=r"no checkpoint or run folder .*nowhere"):
        find_networks([tmp_path / "nowhere"])


def test_the_run_folder(tmp_path: Path) -> None:
    """As given, else the one resumed, else a new one; a lone file is no reason to write beside it."""
    path = checkpoint(tmp_path, 3)
    assert choose_run_dir(Path("own"), NEWEST, None) == Path("own")
    assert choose_run_dir(None, str(tmp_path), "owt") == tmp_path
    assert choose_run_dir(None, str(path), None) == tmp_path
    for resume, preset, name in ((None, "owt", "owt-2"), (str(path.rename(tmp_path / "lone.npz")), None, "paper-2")):
        chosen = choose_run_dir(None, resume, preset)
        assert chosen.parent == Path("runs")
        assert chosen.name.startswith(name)
    with pytest.raises(CheckpointError, match="add --run DIR, or give it a path"):
        choose_run_dir(None, NEWEST, None)


def test_nothing_may_contradict_a_checkpoint() -> None:
    saved = Checkpoint(config=CONFIG, classes=[], epoch=0, step=0, model={})
    assert resolve_config(None, {}, saved) == CONFIG
    assert resolve_config("paper", {"lr": 0.5, "channels": (96, 256, 384, 384, 256)}, saved) == CONFIG
    with pytest.raises(CheckpointError, match=r"preset is 'paper' there, 'owt' was asked for.*Leave these options out"):
        resolve_config("owt", {"seed": 7}, saved)
    with pytest.raises(CheckpointError, match=r"lr is 0.5 there, 0.1 was asked for; --epochs is 90 there, 3 was"):
        resolve_config(None, {"lr": 0.1, "epochs": 3, "seed": 7}, saved)
    with pytest.raises(CheckpointError, match=r"--decode is 'exact' there, 'fast' was asked for"):
        resolve_config(None, {"decode": "fast", "max_pixels": 100_000_000}, saved)
    assert resolve_config(None, {"seed": 7, "init_seed": 7, "data_seed": 7}, saved) == CONFIG
    with pytest.raises(CheckpointError, match=r"--init-seed is 7 there, 8 was asked for"):
        resolve_config(None, {"init_seed": 8, "data_seed": 7}, saved)
    assert resolve_config(None, {"epochs": 3}, None) == Config(epochs=3)
    assert resolve_config("original", {"lr": 0.1}, None) == Config.from_preset("original", lr=0.1)


def test_statistics_are_found_computed_once_or_refused(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))
    dataset, calls = open_dataset(colour_tree, "train"), []
    ours = statistics(dataset.fingerprint)

    def compute() -> RgbStats:
        calls.append(1)
        return ours

    assert stats_for_training(Config.from_preset("owt"), dataset, None, compute) is None
    for _ in range(2):
        found = stats_for_training(Config(), dataset, None, compute)
        assert found is not None
        assert found.mean.tolist() == ours.mean.tolist()
    assert calls == [1]
    assert (path := stats_path(dataset)) is not None
    assert path.is_file()
    assert tmp_path in path.parents

    def refused(stats: RgbStats) -> str:
        stats.save(tmp_path / "given.json")
        with pytest.raises(UserError) as failure:
            stats_for_training(Config(), dataset, tmp_path / "given.json", compute)
        return str(failure.value)

    foreign = refused(statistics("0" * 32))
    assert f"{tmp_path}/given.json holds the statistics of another data set than {colour_tree}" in foreign
    assert f"Run `alexnet pca-stats {colour_tree} --out" in foreign
    assert "statistics of a part of" in refused(statistics(dataset.fingerprint, stop=9))


def test_ranks_do_what_the_first_found_about_statistics(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may save them between two ranks' looks; a rank that looks later must compute its part all the same,
    and the other way round would wait for ever."""
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path))
    dataset, store, calls = open_dataset(colour_tree, "train"), HashStore(), list[int]()
    path = stats_path(dataset)
    assert path is not None

    def load(rank: int) -> RgbStats | None:
        def compute() -> RgbStats | None:
            calls.append(rank)
            statistics(dataset.fingerprint).save(path)
            return statistics(dataset.fingerprint) if rank == 0 else None

        info = RankInfo(rank, 2, rank, 2, store=store)
        return stats_for_training(Config(), dataset, None, compute, info, num_ranks=2)

    assert all(load(rank) for rank in range(2))
    assert calls == [0, 1]


def test_the_data_set_is_the_last_path_that_is_no_run(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    path = checkpoint(run, 1)
    data.mkdir()
    assert split_data([path]) == ([path], None)
    assert split_data([run, path]) == ([run, path], None)
    assert split_data([run, path, data]) == ([run, path], data)
    assert split_data([data]) == ([data], None)
    assert split_data([run, tmp_path / "missing"]) == ([run], tmp_path / "missing")


def test_a_classifier_has_its_runs_treatment(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1)
    for where in (path, tmp_path):
        found = load_classifier(where, CPU)
        assert found.classes == ("a", "b")
        assert not found.model.training
        assert found.treatment.apply(torch.full((1, 256, 256, 3), 104, dtype=torch.uint8), 0, 0, False).unique() == 2
    with pytest.raises(CheckpointError, match=r"no checkpoint or run folder .*nowhere"):
        load_classifier(tmp_path / "nowhere", CPU)


def test_too_little_memory_names_a_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(batch_size=4096)

    def refused(gib: float, **changes: Any) -> str:
        monkeypatch.setattr(memory, "available_bytes", lambda device: int(gib * 2**30))
        with pytest.raises(UserError) as failure:
            check_memory(Config(batch_size=4096, **changes), 1000, CPU)
        return str(failure.value)

    message = refused(2)
    assert "cpu memory has 2.0 GiB free" in message
    fits = int(message.split("--batch-size ")[1].split()[0])
    assert 10 < fits < 4096
    check_memory(Config(batch_size=fits), 1000, CPU)
    with pytest.raises(UserError):
        check_memory(Config(batch_size=fits + 1), 1000, CPU)
    assert "Not even one image fits; lower --width" in refused(0.5)  # 61 million parameters are held three times
    assert "--batch-size" in refused(0.5, width=0.1)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**50)
    check_memory(config, 1000, CPU)


def test_memory_on_meshes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Towers and batches are shared out, but not the memory of a device that all ranks are on."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**31)

    def most(dims: ParallelDims, num_sharing: int = 1) -> int:
        with pytest.raises(UserError) as failure:
            check_memory(Config(batch_size=2**20), 1000, CPU, dims, num_sharing)
        return int(str(failure.value).split("--batch-size ")[1].split()[0])

    alone, pair, both = (most(ParallelDims(*dims)) for dims in ((1, 1), (1, 2), (2, 1)))
    assert both // 2 == alone
    assert pair > both, "a tower has half of the weights"
    assert most(ParallelDims(1, 2), num_sharing=2) == alone
    assert most(ParallelDims(2, 1), num_sharing=2) < alone, "two copies of the weights"


def test_memory_needed_is_about_what_is_estimated() -> None:
    """Peak of a real step in a child process, against what `check_memory` would ask for."""
    program = """
import torch
from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet
model = AlexNet(Config(width=0.25), 10).to(memory_format=torch.channels_last)
def memory(name):  # not getrusage, whose peak is at first that of the process it was forked from
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
def step(n):
    images = torch.zeros(n, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    torch.nn.functional.cross_entropy(model(images), torch.zeros(n, dtype=torch.int64)).backward()
step(1); before = memory("VmRSS"); step(64); print(memory("VmHWM") - before)
"""
    used = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available_bytes", lambda device: 0)
        needs = []
        for batch in (1000, 48_000):
            with pytest.raises(UserError) as failure:
                check_memory(Config(width=0.25, batch_size=batch), 10, CPU)
            needs.append(float(re.search(r"about ([\d.]+) GiB", str(failure.value)).group(1)))  # type: ignore
    estimated = (needs[1] - needs[0]) / 47_000 * 64 * 2**30
    assert 0.6 < used / estimated < 1.3
