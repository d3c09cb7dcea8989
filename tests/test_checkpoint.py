"""Checkpoints: bit-exact there and back, whole or absent, and clear about what is wrong with a file."""

import json
import logging
import pickle
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm

from alexnet.pipeline.errors import CheckpointError
from alexnet.train.checkpoint import (
    Checkpoint,
    checkpoint_path,
    latest,
    load,
    prune,
    restore,
    save,
    saved_checkpoints,
)
from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet, initialise
from alexnet.train.optimizer import Rates, build_optimizer, momentum_by_name, rates_by_group, set_rates

CONFIG = Config(width=1 / 32, lighting="off")
CLASSES = ["n01440764", "n01443537", "Kühlschrank"]


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[AlexNet, torch.optim.SGD]:
    model = AlexNet(CONFIG, len(CLASSES)).to(dtype)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    initialise(model, seed)
    return model, build_optimizer(model, CONFIG)


def train(model: AlexNet, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    """A few steps on noise; dropout and images follow from `seed`."""
    torch.manual_seed(seed)
    dtype = model.fc8.weight.dtype
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model.train()(torch.randn(4, 3, 224, 224, dtype=dtype))
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


def snapshot(model: AlexNet, optimizer: torch.optim.Optimizer, step: int = 5, **more: Any) -> Checkpoint:
    return Checkpoint(
        config=CONFIG,
        classes=CLASSES,
        epoch=1,
        step=step,
        model=model.state_dict(),
        momentum=momentum_by_name(model, optimizer),
        rates=rates_by_group(optimizer),
        **more,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run folder with one checkpoint, of step 5."""
    path = checkpoint_path(tmp_path, 5)
    save(path, snapshot(*network()))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    model, optimizer = network(dtype)
    train(model, optimizer, 2, seed=1)
    checkpoint = snapshot(
        model,
        optimizer,
        schedule={"best": None, "drops": 2},
        stats_fingerprint="a1",
        dataset_fingerprint="b2",
        arrays={"mean": np.arange(6.0).reshape(2, 3), "rng/cpu": torch.get_rng_state().numpy()},
    )
    path = checkpoint_path(tmp_path, 5)
    save(path, checkpoint)
    found = load(path)
    for name in "config classes epoch step rates schedule versions stats_fingerprint dataset_fingerprint".split():
        assert getattr(found, name) == getattr(checkpoint, name), name
    for mine, theirs in ((found.model, checkpoint.model), (found.momentum, checkpoint.momentum)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == dtype for name in mine)
    assert all(np.array_equal(found.arrays[name], array) for name, array in checkpoint.arrays.items())
    assert [p.name for p in path.parent.iterdir()] == ["step-00000005.npz"]


def test_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Across a drop and a frozen conv1, whose velocity must wait in the unit it was counted in."""
    late, thawed = (
        Rates({"weights": 1e-3, "biases": 2e-3, "conv1_weights": conv1, "conv1_biases": conv1}, False)
        for conv1 in (0, 1e-4)
    )
    model, optimizer = network()
    train(model, optimizer, 2, seed=1)
    set_rates(optimizer, late)
    train(model, optimizer, 1, seed=2)
    save(tmp_path / "a.npz", snapshot(model, optimizer))
    resumed, resumed_optimizer = network(seed=9)
    restore(load(tmp_path / "a.npz"), resumed, resumed_optimizer)
    set_rates(resumed_optimizer, late)
    for net, its_optimizer in ((model, optimizer), (resumed, resumed_optimizer)):
        train(net, its_optimizer, 1, seed=3)
        set_rates(its_optimizer, thawed)
        train(net, its_optimizer, 2, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def rewrite(path: Path, **changes: Any) -> None:
    """The same file with some entries replaced, or removed where None; metadata changes are merged."""
    with np.load(path) as archive:
        entries = {name: archive[name] for name in archive.files}
    for name, value in changes.items():
        entries[name.replace("__", "/").replace("_W", ".weight")] = value
    if isinstance(changes.get("metadata"), dict):
        with np.load(path) as archive:
            metadata = json.loads(str(archive["metadata"])) | changes["metadata"]
        entries["metadata"] = np.array(json.dumps(metadata))
    np.savez(path, **{name: value for name, value in entries.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": None}, "not an alexnet checkpoint"),
        ({"metadata": {"format": "other"}}, "not an alexnet checkpoint"),
        ({"metadata": {"version": 2}}, "format 2 is newer than this program's, 1"),
        ({"metadata": {"step": "five"}}, "metadata step: expected int, found 'five'"),
        ({"metadata": {"config": {"widht": 1}}}, "unknown setting 'widht': the nearest known one is 'width'"),
        ({"metadata": {"classes": ["a"]}}, r"model fc8.bias: expected shape \(1,\), found \(3,\)"),
        ({"model__fc6_W": None}, "model fc6.weight is missing"),
        ({"model__fc9_W": np.zeros(1, np.float32)}, "model fc9.weight is unknown"),
        ({"model__fc6_W": np.zeros((2, 2), np.float32)}, r"fc6.weight: expected shape .*, found \(2, 2\)"),
        ({"momentum__conv1_W": None}, "momentum conv1.weight is missing"),
        ({"model__conv1_W": np.zeros((4, 3, 11, 11), np.int64)}, "expected float32 or float64, found int64"),
        ({"other": np.zeros(1)}, "unknown entry 'other'"),
    ],
)
def test_wrong_contents_are_explained(saved: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(saved)


def test_a_checkpoint_from_before_decoding_was_recorded(saved: Path) -> None:
    config = {name: value for name, value in asdict(CONFIG).items() if name not in ("decode", "max_pixels")}
    rewrite(saved, metadata={"config": config})
    found = load(saved).config
    assert found == CONFIG
    assert (found.decode, found.max_pixels) == ("exact", 100_000_000)


def test_missing_foreign_and_cut_files_are_explained(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path / "none.npz")
    foreign = tmp_path / "foreign.npz"
    foreign.write_bytes(pickle.dumps({"model": 1}))
    with pytest.raises(CheckpointError, match="not an alexnet checkpoint"):
        load(foreign)
    whole = saved.read_bytes()
    for length in (0, 2, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut short|not an alexnet checkpoint"):
            load(saved)


def test_damage_is_noticed(saved: Path) -> None:
    """A flipped bit anywhere is an error, or was in a field that nobody reads."""
    whole, expected = saved.read_bytes(), load(saved)
    for position in range(0, len(whole), len(whole) // 40):
        saved.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            found = load(saved)
        except CheckpointError:
            continue
        assert all(torch.equal(found.model[name], expected.model[name]) for name in expected.model)


def test_pickles_are_neither_read_nor_written(saved: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (saved.with_name("exploded"),))

    rewrite(saved, array__bomb=np.array([Bomb()], dtype=object))
    with pytest.raises(CheckpointError, match="damaged"):
        load(saved)
    assert not saved.with_name("exploded").exists()
    with pytest.raises(ValueError, match="Python objects"):
        save(saved, snapshot(*network(), arrays={"x": np.array([None])}))


def test_latest_passes_over_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert latest(tmp_path) is None
    model, optimizer = network()
    for step in (5, 10, 200_000_000):
        save(checkpoint_path(tmp_path, step), snapshot(model, optimizer, step))
    (tmp_path / "checkpoints" / "step-best.npz").touch()
    assert latest(tmp_path) == checkpoint_path(tmp_path, 200_000_000)
    newest = checkpoint_path(tmp_path, 200_000_000)
    newest.write_bytes(newest.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING):
        assert latest(tmp_path) == checkpoint_path(tmp_path, 10)
    assert "step-200000000.npz: cut short" in caplog.text


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    model, optimizer = network()
    for step in range(5):
        save(checkpoint_path(tmp_path, step), snapshot(model, optimizer, step))
    (tmp_path / "checkpoints" / ".step-00000009.npz.77.partial").touch()
    prune(checkpoint_path(tmp_path, 4), 2)
    assert saved_checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in (3, 4)]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    with pytest.raises(ValueError, match="at least one"):
        prune(checkpoint_path(tmp_path, 4), 0)


def test_prune_ends_the_course_that_was_left(tmp_path: Path) -> None:
    """A run resumed from step 10 while 20 and 30 are there: they must not be taken for its newest."""
    model, optimizer = network()
    for step in (10, 20, 30, 11):
        save(checkpoint_path(tmp_path, step), snapshot(model, optimizer, step))
    prune(checkpoint_path(tmp_path, 11), 2)
    assert saved_checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in (10, 11)]


FULL_DISK = """
import resource, sys
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[2])
from test_checkpoint import network, snapshot, save
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
save(Path(sys.argv[1]), snapshot(*network(seed=1)))
"""


@pytest.mark.parametrize("limit", [10, 100_000])
def test_a_write_that_fails_leaves_the_previous_one(saved: Path, limit: int) -> None:
    """A real failure: the kernel refuses to let the file grow beyond `limit` bytes."""
    before = saved.read_bytes()
    done = warm.run([sys.executable, "-c", FULL_DISK, saved, Path(__file__).parent, limit])
    assert f"OSError: [Errno 27] cannot write {saved}: File too large; it needs" in done.stderr
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_full_disk_is_noticed_before_writing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"No space left on device; it needs [\d.]+ MB and 0.0 MB are free"):
        save(saved, snapshot(*network(seed=1)))
    assert saved.read_bytes() == before


SAVE_FOREVER = """
import sys
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[2])
from test_checkpoint import checkpoint_path, network, prune, save, snapshot
model, optimizer = network()
print("ready", flush=True)
for step in range(10**6):
    path = checkpoint_path(Path(sys.argv[1]), step)
    save(path, snapshot(model, optimizer, step))
    prune(path, 3)
"""


def test_kill_9_leaves_only_whole_files(tmp_path: Path) -> None:
    for attempt in range(3):
        process = warm.Popen([sys.executable, "-c", SAVE_FOREVER, tmp_path, Path(__file__).parent], stdout=warm.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.15 + 0.0371 * attempt)  # some saves on
        process.send_signal(signal.SIGKILL)
        process.communicate()
        files = saved_checkpoints(tmp_path)
        assert files
        assert all(load(path).step == int(path.stem[5:]) for path in files)
        assert latest(tmp_path) == files[-1]


def test_a_network_from_a_run(saved: Path, tmp_path: Path) -> None:
    model = AlexNet.from_checkpoint(saved.parent.parent)
    assert not model.training
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(model(x), network()[0].eval()(x))
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        AlexNet.from_checkpoint(tmp_path / "checkpoints")


def test_restore_refuses_another_network(saved: Path) -> None:
    other = AlexNet(Config(width=1 / 32), 4)
    with pytest.raises(CheckpointError, match=r"model fc8.bias: expected shape \(4,\), found \(3,\)"):
        restore(load(saved), other)
