"""What the world does wrong: each message says what, where and what to do in one line, and the exit code is 1."""

import errno
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import ALEXNET, alexnet, invoke, outcome, records, trainer
from streams import claim

from alexnet.console.commands import train as run_module
from alexnet.pca.stats import RgbStats
from alexnet.train import memory
from alexnet.train.checkpoint import latest, load, saved_checkpoints

pytestmark = pytest.mark.usefixtures("quiet_machine")

THREADS = ["--threads", "1"]
SMALL = ["--width", "0.02", "--batch-size", "4", "--epochs", "1", "--log-every", "1", *THREADS]


def failure(*arguments: Any) -> str:
    """Run a command that fails; return its message, one or two lines on standard error."""
    result = invoke(*arguments, code=1)
    assert isinstance(result.exception, SystemExit)
    message = result.stderr[result.stderr.rindex("Error: ") :].strip()
    assert message.count("\n") < 2
    return message


@pytest.fixture(scope="module")
def run_dir(colour_tree: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch, checkpoints of steps 3 and 4."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(cache_dir))
        trainer(colour_tree, folder, {"epochs": 1}, checkpoint_every=1).fit()
    return folder


@pytest.fixture
def tree(colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_machine: None) -> Path:
    """A copy of the colour tree to damage, with its own cache, since some damage keeps names and sizes."""
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(colour_tree, tmp_path / "tree"))


def damage(folder: Path, name: str) -> Path:
    """Damage the first image of a class in the way of that name; return its path."""
    path = folder / "0.JPEG"
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:-150])
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "text":
        path.write_text("this is not a picture\n" * 20)
    else:
        path.write_bytes(claim(path.read_bytes(), 20_000, 20_000))
    return path


DAMAGE = {
    "truncated": "truncated",
    "empty": "the file is empty",
    "text": "not an image",
    "huge": r"claims 20000x20000 pixels, more than --max-pixels 100000000",
}


# -- data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["pca-stats"], ["train"], ["bench-loader"]])
def test_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    missing = tmp_path / "nowhere"
    assert re.match(
        rf"Error: No data set at {missing} \(given\). Pass the folder .* or set ALEXNET_DATA",
        failure(*command, missing),
    )
    monkeypatch.setenv("ALEXNET_DATA", str(missing))
    assert f"No data set at {missing} (from $ALEXNET_DATA)" in failure(*command)


def test_the_default_data_set_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("alexnet.pipeline.dataset.open.DEFAULT_DATA", tmp_path / "imagenet")
    assert f"No data set at {tmp_path}/imagenet (the default)" in failure("train")


def test_a_folder_without_images(tmp_path: Path) -> None:
    assert str(tmp_path) in failure("pca-stats", tmp_path)
    (tmp_path / "train/cat").mkdir(parents=True)
    message = failure("pca-stats", tmp_path)
    assert "cat" in message or "No images" in message
    assert str(tmp_path) in message


def test_an_empty_class_is_named(tree: Path) -> None:
    (tree / "train/yellow").mkdir()
    assert "yellow" in failure("train", tree, *SMALL)


def test_a_batch_larger_than_the_training_set(colour_tree: Path, tmp_path: Path) -> None:
    message = failure("train", colour_tree, "--run", tmp_path, *SMALL, "--batch-size", 19)
    assert re.search(r"training set has 18 images, .*batch of 19.* lower --batch-size", message)


# -- images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DAMAGE)
def test_statistics_leave_bad_images_out(tree: Path, tmp_path: Path, kind: str) -> None:
    path, out = damage(tree / "train/green", kind), tmp_path / "stats.json"
    name = str(path.relative_to(tree))
    found = invoke("pca-stats", tree, "--out", out, "--max-bad", 0.1, *THREADS)
    assert "1 images could not be used" in found.stdout
    assert re.search(f"{name}: .*{DAMAGE[kind]}", found.stdout)
    saved = RgbStats.load(out)
    assert saved.num_images == 17
    assert [bad.name for bad in saved.bad_files] == [name]
    path.unlink()
    without = tmp_path / "without.json"
    invoke("pca-stats", tree, "--out", without, *THREADS)
    assert RgbStats.load(without).sum.tolist() == saved.sum.tolist()


@pytest.mark.parametrize("kind", DAMAGE)
def test_too_many_bad_images_end_the_pass(tree: Path, tmp_path: Path, kind: str) -> None:
    path = damage(tree / "train/green", kind)
    message = failure("pca-stats", tree, "--out", tmp_path / "stats.json", "--max-bad", 0.05, *THREADS)
    assert re.search(
        rf"1 of 18 images \(5.56%\) cannot be used, more than --max-bad 0.05 allows. "
        rf"{path.relative_to(tree)}: .*{DAMAGE[kind]}",
        message,
    )
    assert not (tmp_path / "stats.json").exists()


def test_training_and_evaluation_survive_every_kind(tree: Path, tmp_path: Path) -> None:
    """All four at once in both splits: replaced in training, left out of validation, all of them named."""
    for i, kind in enumerate(DAMAGE):
        for split in ("train", "val"):
            folder = tree / split / f"odd{i}"
            shutil.copytree(tree / split / "green", folder)
            damage(folder, kind)
    run = tmp_path / "run"
    result = invoke("train", tree, "--run", run, "--max-bad", 0.5, *SMALL)
    for i, kind in enumerate(DAMAGE):
        for split in ("train", "val"):
            assert re.search(f"Bad image {split}/odd{i}/0.JPEG: .*{DAMAGE[kind]}", result.stderr), (i, split)
    last = records(run)[-1]
    assert (last["num_images"], last["bad"]) == (17, 4)
    assert records(run)[-2]["bad_images"] == 4
    named = [name for record in records(run) for name in record.get("new_bad_images", {})]
    assert sorted(named) == [f"train/odd{i}/0.JPEG" for i in range(4)]
    assert "4 training images could not be used, and others took their places: train/odd0/0.JPEG:" in result.stderr
    text = invoke("evaluate", run, tree, "--max-bad", 0.5, *THREADS).stdout
    assert "17 (4 could not be used)" in text
    message = failure("evaluate", run, tree, *THREADS)
    assert "more than --max-bad 0.01 allows. val/odd" in message
    assert "more than --max-bad 0.01 allows. train/odd" in failure("train", tree, "--run", tmp_path / "2", *SMALL)


def test_predict_names_what_it_cannot_use(tree: Path, run_dir: Path) -> None:
    bad = {
        kind: damage(tree / split / colour, kind)
        for kind, (split, colour) in zip(
            DAMAGE, (("val", "red"), ("val", "blue"), ("val", "green"), ("train", "red")), strict=True
        )
    }
    good = tree / "val/red/1.JPEG"
    result = invoke("predict", run_dir, *bad.values(), good, *THREADS, code=1)
    assert str(good) in result.stdout
    for kind, path in bad.items():
        assert re.search(f"{path}: .*{DAMAGE[kind]}", result.stderr), kind
        assert str(path) not in result.stdout
    assert f"There is no image file {tree}/no.jpg." in failure("predict", run_dir, tree / "no.jpg")


def test_an_image_of_one_pixel_works(tree: Path, run_dir: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        Image.new("RGB", (1, 1), (200, 30, 40)).save(tree / split / "red/0.JPEG")
    out = tmp_path / "stats.json"
    invoke("pca-stats", tree, "--out", out, *THREADS, "--max-bad", 0)
    assert RgbStats.load(out).num_images == 18
    invoke("train", tree, "--stats", out, "--run", tmp_path / "run", *SMALL, "--max-bad", 0)
    assert records(tmp_path / "run")[-1]["num_images"] == 9
    assert "red" in invoke("predict", run_dir, tree / "val/red/0.JPEG", *THREADS).stdout


# -- statistics ---------------------------------------------------------------------------------------------


def test_statistics_of_others_or_damaged(colour_tree: Path, tiny_tree: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "stats.json", tmp_path / "run"
    invoke("pca-stats", tiny_tree, "--out", out, *THREADS)
    message = failure("train", colour_tree, "--stats", out, "--run", run, *SMALL)
    assert f"{out} holds the statistics of another data set than {colour_tree}. Run `alexnet pca-stats" in message
    text = out.read_text()
    out.write_text(text[: len(text) // 2])
    assert f"{out}: expected a JSON file" in failure("train", colour_tree, "--stats", out, "--run", run, *SMALL)
    out.write_text(re.sub(r'"mean": \[\d', '"mean": [9', text))
    assert f"{out}: mean: expected" in failure("train", colour_tree, "--stats", out, "--run", run, *SMALL)
    missing = tmp_path / "none.json"
    message = failure("train", colour_tree, "--stats", missing, "--run", run, *SMALL)
    assert f"{missing}: no such file; `alexnet pca-stats DATA` makes one" in message
    assert not run.exists()


# -- checkpoints and run folders ----------------------------------------------------------------------------


def test_checkpoints_of_others_or_damaged(run_dir: Path, tiny_tree: Path, colour_tree: Path, tmp_path: Path) -> None:
    good = saved_checkpoints(run_dir)[-1]
    message = failure("evaluate", good, tiny_tree, *THREADS)
    assert "has the classes 'n01', 'n02', 'n03', which the checkpoint does not have (it has 'blue', 'green'" in message
    cut, text = tmp_path / "cut.npz", tmp_path / "text.npz"
    cut.write_bytes(good.read_bytes()[:-500])
    text.write_text("hello")
    for path, problem in ((cut, "cut short"), (text, "not an alexnet checkpoint")):
        for command in (
            ("evaluate", path, colour_tree),
            ("predict", path, colour_tree / "val/red/0.JPEG"),
            ("train", colour_tree, "--resume", path),
        ):
            assert f"{path}: {problem}" in failure(*command)
    broken = bytearray(good.read_bytes())
    broken[len(broken) // 2] ^= 255
    cut.write_bytes(broken)
    assert f"{cut}: damaged" in failure("evaluate", cut, colour_tree)
    with np.load(good) as archive:
        entries = {name: archive[name] for name in archive.files}
    np.savez(text, **(entries | {"model/fc8.weight": np.zeros((3, 5), np.float32)}))
    assert re.search(
        rf"{text}: model fc8.weight: expected shape .* found \(3, 5\): another network\?",
        failure("evaluate", text, colour_tree),
    )
    missing = tmp_path / "missing.npz"
    assert f"There is no checkpoint or run folder {missing}" in failure("predict", missing, good)
    assert f"--resume: there is no {missing}. Nothing was started" in failure("train", colour_tree, "--resume", missing)
    assert "whole checkpoint" in failure("evaluate", tmp_path, colour_tree)


def test_run_folders_that_are_taken(run_dir: Path, colour_tree: Path, tmp_path: Path) -> None:
    message = failure("train", colour_tree, "--run", run_dir, *SMALL)
    assert f"{run_dir} holds a run already. Add --resume to continue it, or choose another --run" in message
    busy: list[str] = []

    def listen(record: dict[str, Any]) -> None:
        busy.append(busy[0] if busy else failure("train", colour_tree, "--run", tmp_path, *SMALL))

    trainer(colour_tree, tmp_path, {"epochs": 1}, listener=listen).fit()
    assert f"Another run is writing into {tmp_path}. Choose another --run folder" in busy[0]
    message = failure("train", colour_tree, "--run", colour_tree / "val/red/0.JPEG/run", *SMALL)
    assert "0.JPEG/run is not writable. Choose another with --run DIR." in message


def test_resuming_with_other_numbers_or_another_data_set(
    run_dir: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(run_dir, tmp_path / "run")
    message = failure("train", tree, "--run", run, "--resume", "--lr", 0.5, "--batch-size", 4, *THREADS)
    assert "lr is 0.01 there, 0.5 was asked for. Leave these options out" in message
    (tree / "train/red/5.JPEG").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "stats_for_training", lambda *_: pytest.fail("statistics of the wrong data set"))
        message = failure("train", tree, "--run", run, "--resume", *THREADS)
    assert f"trained on another data set than {tree}" in message
    assert "Give the one it was trained on, or start a new run" in message
    for split in ("train", "val"):
        (tree / split / "red").rename(tree / split / "rose")
    message = failure("train", tree, "--run", run, "--resume", *THREADS)
    assert f"trained on other classes than those of {tree} (class 2: 'red' and 'rose')" in message
    assert outcome(Path(run)) == outcome(run_dir)


def test_a_full_disk_keeps_the_last_checkpoint(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills up while the third checkpoint is being written."""
    written: list[int] = []
    savez = np.savez

    def filling_up(file: Any, **entries: Any) -> None:
        written.append(1)
        if len(written) == 3:
            file.write(b"PK" * 1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, **entries)

    monkeypatch.setattr(np, "savez", filling_up)
    message = failure("train", colour_tree, "--run", tmp_path, *SMALL, "--checkpoint-every", 1)
    assert "The disk is full" in message
    assert f"cannot write {tmp_path}/checkpoints/step-00000003.npz" in message
    assert "Free some space and start again" in message
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000001.npz", "step-00000002.npz"]
    assert latest(tmp_path) == saved_checkpoints(tmp_path)[-1]
    monkeypatch.undo()


def test_a_limit_on_file_sizes_is_met_like_a_full_disk(run_dir: Path, colour_tree: Path, tmp_path: Path) -> None:
    """The kernel's own refusal, in a process that may write small files only."""
    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    earlier = saved_checkpoints(run)[0]
    saved_checkpoints(run)[-1].unlink()
    limit = earlier.stat().st_size // 2
    command = [*ALEXNET, "train", str(colour_tree), "--run", str(run), "--resume", *THREADS]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot write" in done.stderr
    assert "earlier ones are intact" in done.stderr
    assert [p.name for p in (run / "checkpoints").iterdir()] == [earlier.name]
    assert load(earlier).step == 3


# -- numbers and machines -----------------------------------------------------------------------------------


def test_divergence(colour_tree: Path, tmp_path: Path) -> None:
    message = failure("train", colour_tree, "--run", tmp_path, *SMALL, "--lr", 1e12, "--checkpoint-every", 1)
    last = latest(tmp_path)
    assert last is not None
    assert re.search(rf"became (nan|inf) in epoch 1 within .*The last good checkpoint is {last}. Lower --lr", message)
    assert all(bool(weight.isfinite().all()) for weight in load(last).model.values())


def test_too_little_memory(colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000_000)
    message = failure("train", colour_tree, "--run", tmp_path / "run", *SMALL, "--batch-size", 18)
    fits = int(re.search(r"--batch-size (\d+) would fit", message).group(1))  # type: ignore[union-attr]
    assert 1 <= fits < 18
    invoke("train", colour_tree, "--run", tmp_path / "run", *SMALL, "--batch-size", fits)


def test_no_gpu(colour_tree: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    image = colour_tree / "val/red/0.JPEG"
    for command in (
        ("pca-stats", colour_tree),
        ("train", colour_tree),
        ("evaluate", run_dir, colour_tree),
        ("predict", run_dir, image),
        ("bench-loader", colour_tree),
    ):
        message = failure(*command, "--device", "gpu")
        assert "No GPU can be used here. `alexnet doctor` says why; --device cpu works anywhere." in message, command


def test_wrong_numbers_are_explained(colour_tree: Path) -> None:
    assert "epoch_log = (5, 4, 6, 7, 8, 9): list the epochs in rising order" in failure(
        "train", colour_tree, "--epoch-log", "5,4,6,7,8,9"
    )
    assert "lr = -1.0" in failure("train", colour_tree, "--lr", -1)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for arguments, shown in ((["--debug"], True), ([], False)):
        done = alexnet(*arguments, "pca-stats", tmp_path / "nowhere")
        assert done.returncode == 1
        assert ("Traceback (most recent call last)" in done.stderr) == shown
        assert f"No data set at {tmp_path}/nowhere" in done.stderr
