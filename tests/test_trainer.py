"""The loop: it learns, its update is the paper's, and a run that was stopped ends as if it had not been."""

import copy
import json
import os
import random
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import warm
from PIL import Image
from runs import ALEXNET, interrupted_at, outcome, paths_of, records, trainer

from alexnet.pipeline import augment
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import TooManyBadFiles, TrainingError, UserError
from alexnet.pipeline.loader import Batch
from alexnet.pipeline.plan import draw_epoch
from alexnet.train import trainer as trainer_module
from alexnet.train.checkpoint import checkpoint_path, latest, load, saved_checkpoints
from alexnet.train.history import History
from alexnet.train.parallel.mesh import Mesh
from alexnet.train.step import TrainStep

pytestmark = pytest.mark.usefixtures("quiet_machine")

# Drops the rate after every epoch but the first, so its state matters; and the authors' log, one thing an epoch.
PLATEAU = {"epochs": 4, "batch_size": 6, "plateau_patience": 1, "plateau_min_delta": 1.0}
LOG = {"epochs": 6, "batch_size": 8, "epoch_log": (1, 2, 3, 4, 5, 6)}


def test_twenty_steps_reduce_the_loss(colour_tree: Path, tmp_path: Path) -> None:
    trainer(
        colour_tree,
        tmp_path,
        {
            "epochs": 20,
            "batch_size": 18,
            "dropout": 0.0,
            "width": 0.1,
            "init": "torch",
            "lr": 0.003,
            "lighting": "off",
            "lrn": False,
        },
    ).fit()
    losses = [r["loss"] for r in records(tmp_path) if r["kind"] == "train"]
    validations = [r for r in records(tmp_path) if r["kind"] == "val"]
    assert len(losses) == 20
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    assert validations[-1]["top1_error"] < 0.5 < validations[0]["top1_error"]


@pytest.mark.parametrize(
    ("preset", "settings", "positions"),
    [
        ("paper", PLATEAU, [(0, 1), (1, 3), (3, 2)]),
        ("original", LOG, [(0, 2), (2, 2), (3, 1), (4, 1), (5, 2)]),
    ],
    ids=["plateau", "epochs"],
)
def test_a_stopped_run_ends_with_the_same_bits(
    colour_tree: Path, tmp_path: Path, preset: str, settings: dict[str, Any], positions: list[tuple[int, int]]
) -> None:
    """Weights, velocities, rates, schedule and losses; stops within epochs and at their ends, before and after
    colour noise ends and conv1 is frozen, and at the very end."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(colour_tree, whole, settings, preset=preset).fit()
    resume = None
    for position in positions:
        resume = load(interrupted_at(position, colour_tree, parts, settings, preset=preset, resume=resume))
    trainer(colour_tree, parts, settings, preset=preset, resume=resume).fit()
    expected, found = outcome(whole), outcome(parts)
    assert found[1] == expected[1]
    assert len({lr for *_, lr, _ in expected[1] if lr}) > 2, "the rate must have dropped meanwhile"
    assert found[0].keys() == expected[0].keys()
    assert [name for name in expected[0] if found[0][name] != expected[0][name]] == []


@pytest.mark.gpu
@pytest.mark.parametrize("execution", ["plain", "fused", "graphed"])
def test_a_stopped_run_ends_with_the_same_bits_on_a_gpu(colour_tree: Path, tmp_path: Path, execution: str) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    how: dict[str, Any] = {
        "mesh": Mesh(device=torch.device("cuda", 0)),
        "execution": execution,
        "settings": Settings(threads=1, readers=1, device_id=0),
    }
    numbers = PLATEAU | {"width": 0.25}  # narrower groups are too few channels for cuDNN
    trainer(colour_tree, whole, numbers, **how).fit()
    resume = load(interrupted_at((2, 1), colour_tree, parts, numbers, **how))
    trainer(colour_tree, parts, numbers, resume=resume, **how).fit()
    assert outcome(parts) == outcome(whole)


def test_colour_noise_and_conv1_stop_with_the_log(colour_tree: Path, tmp_path: Path) -> None:
    """What the test above relies on: by the log noise ends at epoch 3 and conv1 stands still from epoch 4."""
    run = trainer(colour_tree, tmp_path, LOG, preset="original", checkpoint_every=1, keep=20)
    assert [run.train_step.schedule.rates(epoch).lighting for epoch in range(6)] == [True] * 3 + [False] * 3
    run.fit()
    weights = [load(path).model["conv1.weight"] for path in saved_checkpoints(tmp_path)]
    moved = [not torch.equal(a, b) for a, b in pairwise(weights)]
    assert moved == [True] * 7 + [False] * 4


def test_killed_runs_end_with_the_same_bits(colour_tree: Path, tmp_path: Path) -> None:
    """kill -9 at random moments, a checkpoint after every one to three steps, until one run gets through."""
    settings = ["--width", "0.02", "--batch-size", "4", "--epochs", "3", "--threads", "1", "--log-every", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    trainer(colour_tree, whole, {"epochs": 3}).fit()
    rng = random.Random(time.time_ns())
    for steps in (1, 2, 3):
        resume = ["--resume"] if saved_checkpoints(killed) else []
        command = [*ALEXNET, "train", str(colour_tree), "--run", str(killed), "--checkpoint-every", str(steps)]
        child = warm.Popen([*command, *settings, *resume], stderr=warm.DEVNULL)
        seen, after = len(saved_checkpoints(killed)), rng.uniform(0, 0.4)
        newest = saved_checkpoints(killed)[-1:]
        while child.poll() is None and saved_checkpoints(killed)[-1:] == newest:
            time.sleep(0.01)
        time.sleep(after)
        child.kill()
        assert child.wait() in (-signal.SIGKILL, 0), (steps, seen, after)
    newest_path = latest(killed)
    assert newest_path is not None
    trainer(colour_tree, killed, {"epochs": 3}, resume=load(newest_path)).fit()
    expected, found = outcome(whole), outcome(killed)
    assert found[1] == expected[1]
    assert [name for name in expected[0] if found[0][name] != expected[0][name]] == []


def test_threads_that_decode_change_no_bit(colour_tree: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        trainer(colour_tree, tmp_path / str(threads), {}, settings=Settings(threads=threads, readers=threads)).fit()
    assert outcome(tmp_path / "1") == outcome(tmp_path / "3")


def test_the_seed_changes_the_run(colour_tree: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        trainer(colour_tree, tmp_path / str(seed), {"seed": seed, "epochs": 1}).fit()
    losses = [[loss for kind, _, _, loss, *_ in outcome(tmp_path / s)[1]] for s in "01"]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("same", [set(), {"init_seed"}, {"data_seed"}, {"init_seed", "data_seed"}], ids=sorted)
def test_weights_and_batches_have_seeds_of_their_own(colour_tree: Path, tmp_path: Path, same: set[str]) -> None:
    numbers = {"first": {}, "second": {"seed": 1, **dict.fromkeys(same, 0)}}
    first, second = (trainer(colour_tree, tmp_path / name, seeds) for name, seeds in numbers.items())
    weights = [run.train_step.model.fc6.weight for run in (first, second)]
    batches = [next(run.loader.batches(0, 0)).images for run in (first, second)]
    assert torch.equal(*weights) == ("init_seed" in same)
    assert torch.equal(*batches) == ("data_seed" in same)


def test_seeds_of_their_own_do_what_one_seed_does(colour_tree: Path, tmp_path: Path) -> None:
    for name, seeds in (("one", {"seed": 3}), ("two", {"init_seed": 3, "data_seed": 3})):
        trainer(colour_tree, tmp_path / name, {**seeds, "epochs": 1}).fit()
    (one, one_records), (two, two_records) = (outcome(tmp_path / name) for name in ("one", "two"))
    assert one_records == two_records
    assert {name for name in one if one[name] != two[name]} == {"metadata"}


def test_metrics_go_back_with_the_checkpoint(colour_tree: Path, tmp_path: Path) -> None:
    """To a step before what is written, and past half a line that a killed run left."""
    trainer(colour_tree, tmp_path, {}, checkpoint_every=1, keep=9).fit()
    expected = outcome(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "epo')
    again = trainer(colour_tree, tmp_path, {}, resume=load(checkpoint_path(tmp_path, 3)))
    again.history.go_back(0, 3)
    assert [(r["epoch"], r["step"]) for r in records(tmp_path)] == [(0, 1), (0, 2), (0, 3)]
    again.fit()
    assert outcome(tmp_path) == expected


@pytest.mark.parametrize("lag", [0, 1])
def test_what_is_overdue_is_written_once(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    """By the clock, of which each step takes 250 seconds; the ranks of a mesh hear of it one step late."""
    run = trainer(colour_tree, tmp_path, {"epochs": 4, "batch_size": 3}, keep=99)
    given = [[0, 0]] * lag

    def agree(*numbers: int) -> list[int]:
        given.append([*numbers])
        return given.pop(0)

    monkeypatch.setattr(run, "agree", agree)
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: 250.0 * run._steps_taken))
    run.fit()
    steps = [load(path).step for path in saved_checkpoints(tmp_path)]
    assert steps == ([3, 6, 9, 12, 15, 18, 21, 24] if lag == 0 else [4, 6, 10, 12, 16, 18, 22, 24])


def test_windows_average_their_steps(colour_tree: Path, tmp_path: Path) -> None:
    for every in (1, 3):
        trainer(colour_tree, tmp_path / str(every), {"epochs": 1}, log_every=every).fit()
    single = [r for r in records(tmp_path / "1") if r["kind"] == "train"]
    windows = [r for r in records(tmp_path / "3") if r["kind"] == "train"]
    assert [r["step"] for r in windows] == [3, 4]
    for key in ("loss", "top1_error"):
        expected = [np.mean([r[key] for r in single[:3]]), single[3][key]]
        np.testing.assert_allclose([r[key] for r in windows], expected, rtol=1e-6)


def test_divergence_stops_the_run_and_keeps_what_was_good(colour_tree: Path, tmp_path: Path) -> None:
    run = trainer(colour_tree, tmp_path, {"lr": 1e12}, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"in epoch 1 within the 1 steps before step \d\. ") as failure:
        run.fit()
    last = latest(tmp_path)
    assert str(failure.value).endswith("Lower --lr (now 1e+12) and start again.")
    assert last is not None
    assert f"The last good checkpoint is {last}." in str(failure.value)
    assert all(bool(weight.isfinite().all()) for weight in load(last).model.values())
    *before, end = records(tmp_path)
    assert all(np.isfinite(r["loss"]) for r in before)
    assert end["sign"] == "diverged"
    assert str(failure.value).startswith(end["text"])


@pytest.mark.parametrize(
    ("lr", "what"), [(1e300, "A weight is no longer finite"), (1e38, "The validation loss became")]
)
def test_divergence_at_an_epochs_end_is_seen(colour_tree: Path, tmp_path: Path, lr: float, what: str) -> None:
    """The loss of that step, the only one, was still finite."""
    run = trainer(colour_tree, tmp_path, {"batch_size": 18, "lr": lr, "init": "torch"})
    with pytest.raises(TrainingError, match=f"{what}.* in epoch 1 .* No checkpoint was written") as failure:
        run.fit()
    *before, end = records(tmp_path)
    assert all(np.isfinite(r["loss"]) for r in before)
    assert end["sign"] == "diverged"
    assert str(failure.value).startswith(end["text"])
    assert saved_checkpoints(tmp_path) == []


def test_two_runs_cannot_share_a_folder(colour_tree: Path, tmp_path: Path) -> None:
    second = trainer(colour_tree, tmp_path, {})
    refused: list[str] = []

    def listen(record: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="Another run is writing into") as failure:
            second.fit()
        refused.append(str(failure.value))

    trainer(colour_tree, tmp_path, {"epochs": 1}, listener=listen).fit()
    assert len(refused) == 5  # four steps and a validation
    assert str(tmp_path) in refused[0]
    second.fit()  # free again
    assert records(tmp_path)[-1]["epoch"] == 1


def test_a_bad_image_is_replaced_and_counted(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(colour_tree, tree)
    broken = tree / "train/green/3.JPEG"
    broken.write_bytes(broken.read_bytes()[:-200])
    used: list[int] = []
    run = trainer(
        tree, tmp_path / "run", {"epochs": 1, "batch_size": 6}, settings=Settings(threads=1, readers=1, max_bad=0.1)
    )
    take_step = TrainStep.__call__

    def spy(step: TrainStep, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        used.extend(batch.indices.tolist())
        return take_step(step, batch)

    monkeypatch.setattr(TrainStep, "__call__", spy)
    run.fit()
    index = next(i for i, path in enumerate(paths_of(run.train_set)) if path == broken)
    assert list(run.bad) == [index]
    assert records(tmp_path / "run")[-2]["bad_images"] == 1
    assert sorted(used) == sorted([*(set(range(18)) - {index}), index + 1])  # the next one twice
    strict = trainer(tree, tmp_path / "strict", {"epochs": 1}, settings=Settings(threads=1, max_bad=0.01))
    with pytest.raises(TooManyBadFiles, match=r"1 of 18 images .*--max-bad 0.01.*train/green/3.JPEG: truncated"):
        strict.fit()


def test_bad_images_of_all_ranks_are_counted_once(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(colour_tree, tmp_path, {}, settings=Settings(threads=1, readers=1, max_bad=0.2))
    run.bad[3] = "truncated"

    def exchange(value: Any) -> list[Any]:
        return [json.loads(json.dumps(each)) for each in (value, [[3, "truncated"], [5, "empty"]])]

    monkeypatch.setattr(run.mesh.world, "gather_objects", exchange)
    names = [run.train_set.name(i) for i in (3, 5)]
    new = dict(zip(names, ["truncated", "empty"], strict=True))
    assert run._count_bad() == {"bad_images": 2, "new_bad_images": new}
    assert run._count_bad() == {"bad_images": 2}
    assert run.bad == {3: "truncated", 5: "empty"}


def test_two_steps_by_hand(colour_tree: Path, tmp_path: Path) -> None:
    """From the files to the weights: Pillow, `augment.py`, autograd in float64, and the update of section 5."""
    settings = {"dropout": 0.0, "weight_decay": 0.05, "momentum": 0.8, "init": "torch", "lr": 0.02}
    settings |= {"bias_lr_factor": 2.0, "lighting_divisor": 1.1}
    run = trainer(colour_tree, tmp_path, settings)
    c, stats = run.config, run.stats
    assert stats is not None
    assert stats.mean_image is not None
    by_hand = copy.deepcopy(run.train_step.model).double()
    velocity = {name: torch.zeros_like(p) for name, p in by_hand.named_parameters()}
    plan = draw_epoch(18, c.seed, 0)[:]
    images = [np.asarray(Image.open(path)) for path in paths_of(run.train_set)]
    offsets = augment.lighting_offset(plan.lighting, stats.eigenvectors, np.sqrt(stats.eigenvalues), 0.1)
    for step, batch in zip(range(2), run.loader, strict=False):
        rows = range(4 * step, 4 * step + 4)
        treated = np.stack(
            [
                augment.treat(
                    images[plan.order[i]],
                    top=int(plan.crops[i, 0]),
                    left=int(plan.crops[i, 1]),
                    flip=bool(plan.flips[i]),
                    mean=stats.mean_image[16:240, 16:240],
                    offset=offsets[i],
                    divisor=1.1,
                )
                for i in rows
            ]
        )
        assert np.abs(batch.images.permute(0, 2, 3, 1).numpy() - treated).max() < 1.01  # of 255: rounding
        labels = torch.tensor([int(plan.order[i]) // 6 for i in rows])
        F.cross_entropy(by_hand(batch.images.double()), labels).backward()
        with torch.no_grad():
            for name, w in by_hand.named_parameters():
                bias = name.endswith("bias")
                assert w.grad is not None
                gradient = w.grad + (0 if bias else 0.05) * w
                velocity[name] = 0.8 * velocity[name] - (0.04 if bias else 0.02) * gradient
                w += velocity[name]
                w.grad = None
        run.train_step(batch)
    for (name, found), expected in zip(run.train_step.model.named_parameters(), by_hand.parameters(), strict=True):
        np.testing.assert_allclose(found.detach(), expected.detach(), rtol=2e-4, atol=2e-6, err_msg=name)
        assert float(velocity[name].abs().max()) > 0, name


def test_a_finished_run_says_its_result_again(colour_tree: Path, tmp_path: Path) -> None:
    last = trainer(colour_tree, tmp_path, {"epochs": 1}).fit()
    before = outcome(tmp_path)
    newest = latest(tmp_path)
    assert newest is not None
    again = trainer(colour_tree, tmp_path, {"epochs": 1}, resume=load(newest)).fit()
    assert [again[k] for k in ("top1_error", "loss")] == [last[k] for k in ("top1_error", "loss")]
    assert outcome(tmp_path) == before
    assert os.path.exists(tmp_path / "config.json")  # noqa: PTH110


def test_resuming_from_an_earlier_checkpoint_leaves_the_later_ones(colour_tree: Path, tmp_path: Path) -> None:
    """At once: killed before its first checkpoint, the run must not be found on the course that it left."""
    trainer(colour_tree, tmp_path, {}, checkpoint_every=1, keep=99).fit()
    paths = saved_checkpoints(tmp_path)

    def stop(record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(colour_tree, tmp_path, {}, keep=2, resume=load(paths[4]), listener=stop).fit()
    assert saved_checkpoints(tmp_path) == paths[3:5]


def test_a_full_disk_under_the_metrics_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as failure:
        History(tmp_path).write({"kind": "val"})
    assert failure.value.filename == str(path)
