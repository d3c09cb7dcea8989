"""The command line as users meet it: help, JSON, exit codes, signals, torchrun. Errors are in test_bad_input.py."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
import warm
from runs import ALEXNET, alexnet_from_cold, invoke, outcome, records, trainer

from alexnet.cli import main
from alexnet.console.types import FiniteRange
from alexnet.pca.stats import RgbStats
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.train.checkpoint import load, saved_checkpoints
from alexnet.train.config import Config

pytestmark = pytest.mark.usefixtures("quiet_machine")

COMMANDS: dict[str, click.Command] = {}  # by how they are called, those of groups too
for _name, _command in sorted(main.commands.items()):
    COMMANDS[_name] = _command
    if isinstance(_command, click.Group):
        COMMANDS |= {f"{_name} {inner}": command for inner, command in sorted(_command.commands.items())}
SMALL = ["--width", "0.02", "--batch-size", "4", "--threads", "1", "--log-every", "1"]


@pytest.fixture(scope="module")
def run_dir(colour_tree: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(cache_dir))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the tests, for the same bits
        trainer(colour_tree, folder, {}).fit()
        torch.set_num_threads(threads)
    return folder


# -- help, usage --------------------------------------------------------------------------------------------


def test_the_commands_of_the_design_are_there() -> None:
    assert {"pca-stats", "train", "evaluate", "predict", "bench-loader", "doctor", "demo"} <= set(COMMANDS)
    listed = invoke("--help").output
    assert all(re.search(rf"^  {name} ", listed, re.MULTILINE) for name in main.commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(command: str) -> None:
    text = invoke(*command.split(), "--help").output
    example = re.search(rf"Example: alexnet {command}\b(.*)", text)
    assert example is not None
    parser = COMMANDS[command].make_parser(click.Context(COMMANDS[command]))
    parser.parse_args(example.group(1).split())  # no unknown option


def test_help_and_version_load_neither_torch_nor_dali() -> None:
    program = """
import sys
from click.testing import CliRunner
from alexnet.cli import main
for command in ("", *main.commands, *(f"figure {name}" for name in main.commands["figure"].commands)):
    assert CliRunner().invoke(main, [*command.split(), "--help"]).exit_code == 0
assert CliRunner().invoke(main, ["--version"]).exit_code == 0
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "nvidia", "sklearn", "matplotlib"}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_setting_has_an_option() -> None:
    options = {name: option for option in main.commands["train"].params for name in option.opts}
    for spec in fields(Config):
        name = f"--{spec.name.replace('_', '-')}"
        assert name in options, name
        if spec.name not in ("preset", "decode", "max_pixels"):  # which other commands have too
            assert spec.metadata["source"] in (options[name].help or ""), name
    assert "--no-lrn" in invoke("train", "--help").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--preset", "vgg"], "'vgg' is not one of"),
        (["train", "--lighting", "disco"], "'disco' is not one of"),
        (["train", "--views", "5"], "'5' is not one of 1, 10"),
        (["train", "--channels", "1,two"], "is not a list of int"),
        (["train", "--epochs", "many"], "'many' is not a valid integer"),
        (["train", "--no-such"], "No such option"),
        (["evaluate"], "Missing argument"),
        (["evaluate", "x", "--threads", "0"], "0 is not in the range"),
        (["pca-stats", "--merge", "a.json"], "--merge needs --out"),
        (["pca-stats", "--part", "0", "2"], "--part needs --out"),
        (["pca-stats", "--part", "2", "2", "--out", "a.json"], "the parts of 2 are 0 to 1"),
        (["pca-stats", "data", "--merge", "a.json", "--out", "b.json"], "leave DATA and --part out"),
        (["pca-stats", "data", "--out", "a.npy"], "choose a name like stats.json"),
        (["fly"], "No such command"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], message: str) -> None:
    assert message in invoke(*arguments, code=2).output


def test_no_option_takes_a_number_that_is_not_finite() -> None:
    """click's own range of numbers lets "nan" through."""
    kinds = [option.type for command in COMMANDS.values() for option in command.params]
    ranges = [kind for kind in kinds if isinstance(kind, click.FloatRange)]
    assert len(ranges) > 5
    assert all(isinstance(kind, FiniteRange) for kind in ranges)
    for text in ("nan", "inf"):
        with pytest.raises(click.BadParameter, match="is not a finite number"):
            FiniteRange(0).convert(text, None, None)


def test_describe_counts_what_the_paper_counts() -> None:
    text = invoke("train", "--describe").output
    for number in ("60,965,224", "724,406,816", "659,272", "paper s3.5"):
        assert number in text, number
    changed = invoke("train", "--describe", "--preset", "original", "--lr", "0.123", "--classes", "10").output
    assert re.search(r"│ \* *│ lr +│ +0.123 +│", changed)
    assert "60,965,224" not in changed


# -- statistics ---------------------------------------------------------------------------------------------


def test_pca_stats_prints_the_contracts_json(colour_tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "stats.json"
    printed = json.loads(invoke("pca-stats", colour_tree, "--out", out, "--json", "--threads", 1).stdout)
    assert printed == json.loads(out.read_text())
    assert printed["pixel_range"] == "0..255"
    assert (printed["num_images"], printed["num_pixels"]) == (18, 18 * 256**2)
    values, vectors = np.array(printed["eigenvalues"]), np.array(printed["eigenvectors"])
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, printed["covariance"], atol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(printed["covariance"])), printed["std"])
    np.testing.assert_allclose(np.load(out.with_suffix(".npy")).mean((0, 1)), printed["mean"], rtol=1e-9)
    table = invoke("pca-stats", colour_tree, "--out", out, "--threads", 1)
    assert f"{printed['mean'][0]:.4f}" in table.stdout
    assert str(out) in table.stderr


def test_data_may_come_from_the_environment(colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DATA", str(colour_tree))
    invoke("pca-stats", "--out", tmp_path / "stats.json", "--threads", 1)
    assert RgbStats.load(tmp_path / "stats.json").fingerprint == open_dataset(colour_tree, "train").fingerprint


def numbers(path: Path) -> dict[str, Any]:
    """All of a statistics file but which parts it came in and the sample that checks it."""
    values = json.loads(path.read_text())
    return {key: value for key, value in values.items() if key != "self_check"}


def test_parts_merged_and_ranks_of_torchrun_give_the_same_file(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    whole, merged, shared = (tmp_path / name for name in ("whole.json", "merged.json", "shared.json"))
    invoke("pca-stats", colour_tree, "--out", whole, "--threads", 1)
    parts = [tmp_path / f"{i}.json" for i in range(2)]
    for i, part in enumerate(parts):
        invoke("pca-stats", colour_tree, "--part", i, 2, "--out", part, "--threads", 1)
    assert sum(RgbStats.load(part).num_images for part in parts) == 18
    invoke("pca-stats", "--merge", parts[1], "--merge", parts[0], "--out", merged)
    assert numbers(merged) == numbers(whole)
    environment = os.environ | {"ALEXNET_CACHE": str(tmp_path / "other")}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "alexnet.cli", "pca-stats", str(colour_tree), "--out", str(shared), "--threads", "1"]
    warm.run(command, env=environment, timeout=120).check_returncode()
    assert numbers(shared) == numbers(whole)
    assert all(
        np.array_equal(np.load(p.with_suffix(".npy")), np.load(whole.with_suffix(".npy"))) for p in (merged, shared)
    )


def test_pca_stats_survives_kill_9(tiny_tree: Path, tmp_path: Path) -> None:
    """Many copies of the tree, killed again and again; the same file as of a pass that was left in peace."""
    for i in range(60):
        for path in (tiny_tree / "train").glob("*/*"):
            copy = tmp_path / "data/train" / path.parent.name / f"{i}-{path.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, copy)
    out, whole = tmp_path / "killed.json", tmp_path / "whole.json"
    environment = os.environ | {"ALEXNET_CACHE": str(tmp_path / "cache")}
    command = [*ALEXNET, "pca-stats", str(tmp_path / "data"), "--out", str(out), "--threads", "1"]
    states: set[Path] = set()
    for _ in range(3):
        child = warm.Popen(command, env=environment, stdout=warm.DEVNULL, stderr=warm.DEVNULL)
        times = {p: p.stat().st_mtime_ns for p in states}
        while child.poll() is None:  # until it has written down some progress of its own
            states = set((tmp_path / "cache/passes").glob("*.npz"))
            if any(p.stat().st_mtime_ns != times.get(p) for p in states):
                break
            time.sleep(0.005)
        child.kill()
        child.wait()
    assert states
    warm.run(command, env=environment, timeout=120).check_returncode()
    fresh = os.environ | {"ALEXNET_CACHE": str(tmp_path / "fresh")}
    warm.run([*command, "--out", str(whole)], env=fresh, timeout=120).check_returncode()
    assert json.loads(out.read_text()) == json.loads(whole.read_text())
    assert out.with_suffix(".npy").read_bytes() == whole.with_suffix(".npy").read_bytes()


# -- training -----------------------------------------------------------------------------------------------


def test_train_then_resume_with_and_without_a_path(colour_tree: Path, run_dir: Path, tmp_path: Path) -> None:
    """The command gives what the trainer gives; a finished run says its result again; an earlier step goes on."""
    run = tmp_path / "run"
    common = ["train", colour_tree, "--epochs", 2, *SMALL]
    first = invoke(*common, "--run", run, "--checkpoint-every", 3, "--keep", 9)
    assert outcome(run) == outcome(run_dir)
    assert Config.from_json((run / "config.json").read_text()) == Config(width=0.02, batch_size=4, epochs=2)
    error = records(run)[-1]["top1_error"]
    assert f"Done: top-1 error {error:.2%}" in first.stderr
    assert first.stdout == ""
    assert f"Done: top-1 error {error:.2%}" in invoke(*common, "--run", run, "--resume").stderr
    for resume in (["--resume", saved_checkpoints(run)[0]], ["--resume", run], ["--run", run, "--resume"]):
        invoke("train", colour_tree, "--threads", 1, "--log-every", 1, *resume)
        assert outcome(run) == outcome(run_dir)
    elsewhere = tmp_path / "elsewhere"
    invoke("train", colour_tree, "--threads", 1, "--resume", saved_checkpoints(run)[0], "--run", elsewhere)
    assert outcome(elsewhere)[0] == outcome(run_dir)[0]


def test_a_resumed_run_decodes_as_it_did(colour_tree: Path, tmp_path: Path) -> None:
    """By its own --decode and --max-pixels, which a resume need not name and must not change."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    usual = ["train", colour_tree, "--threads", 1, "--log-every", 1, "--max-bad", 0.2, "--checkpoint-every", 3]
    own = ["--decode", "fast", "--max-pixels", 4600]  # fewer than three of the 18 images have
    for folder in (whole, run):
        invoke(*usual, *SMALL, *own, "--preset", "owt", "--epochs", 1, "--run", folder, "--keep", 9)
    config = Config.from_json((run / "config.json").read_text())
    assert (config.decode, config.max_pixels) == ("fast", 4600)
    for named in ([], own):
        invoke(*usual, "--run", run, "--resume", saved_checkpoints(run)[0], *named)
        assert outcome(run) == outcome(whole)
        assert [r["bad_images"] for r in records(run) if r["kind"] == "train"][-1] > 0
    refused = invoke(*usual, "--run", run, "--resume", "--decode", "exact", "--max-pixels", 100_000_000, code=1).stderr
    assert "--decode is 'fast' there, 'exact' was asked for" in refused
    assert "--max-pixels is 4600 there, 100000000 was asked for" in refused


def test_a_resumed_run_keeps_its_statistics(colour_tree: Path, tmp_path: Path) -> None:
    """Those that --stats named when it began, here of whole images: a resume need not name them again."""
    run, stats = tmp_path / "run", tmp_path / "full.json"
    invoke("pca-stats", colour_tree, "--region", "full", "--out", stats, "--threads", 1)
    usual = ["train", colour_tree, *SMALL, "--epochs", 1, "--mean", "channel"]
    invoke(*usual, "--run", run, "--stats", stats, "--checkpoint-every", 3, "--keep", 9)
    expected, first = outcome(run), saved_checkpoints(run)[0]
    stats.unlink()
    for where in ((), ("--run", tmp_path / "elsewhere")):
        invoke("train", colour_tree, *SMALL, "--resume", first, *where, "--keep", 9)
        assert outcome(where[-1] if where else run)[0] == expected[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_to_continue_from(
    colour_tree: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [*ALEXNET, "train", str(colour_tree), "--run", str(tmp_path), "--epochs", "1000", *SMALL]
    child = warm.Popen(command, stderr=warm.PIPE)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("epoch 1/1000 step 2/4"):
            child.send_signal(number)
            break
    rest = child.stderr.read()
    child.close()
    assert child.wait() == 128 + number, rest
    path = saved_checkpoints(tmp_path)[-1]
    assert "Traceback" not in rest
    assert re.sub(r"\s", "", f"continue with --resume (checkpoint {path})") in re.sub(r"\s", "", rest)
    saved = load(path)
    assert saved.step >= 2
    last = [r for r in records(tmp_path) if r["kind"] == "train"][-1]
    assert last["epoch"] * 4 + last["step"] == saved.step
    continued = trainer(colour_tree, tmp_path, {"epochs": 1000}, resume=saved)
    assert (continued.epoch * 4 + continued.step) == saved.step


# -- evaluation and the rest --------------------------------------------------------------------------------


def test_evaluate_prints_the_contracts_json_and_text(colour_tree: Path, run_dir: Path) -> None:
    found = json.loads(invoke("evaluate", run_dir, colour_tree, "--json", "--threads", 1).stdout)
    last = records(run_dir)[-1]
    assert {k: found[k] for k in ("top1_error", "top5_error", "num_images")} == {
        k: last[k] for k in ("top1_error", "top5_error", "num_images")
    }
    assert found["loss"] == pytest.approx(last["loss"])
    assert (found["views"], found["bad"], found["checkpoints"]) == (1, {}, [str(run_dir)])
    newest = saved_checkpoints(run_dir)[-1]
    text = invoke("evaluate", run_dir, newest, colour_tree, "--views", 10, "--batch-size", 5, "--threads", 1).stdout
    assert re.search(r"top-1 error +\d", text)
    assert re.search(r"top-5 error +0.00%", text)
    assert "2 networks averaged" in text


def test_predict_names_five_classes_at_most(colour_tree: Path, run_dir: Path) -> None:
    images = [colour_tree / "val/red/0.JPEG", colour_tree / "val/blue/1.JPEG"]
    found = json.loads(invoke("predict", run_dir, *images, "--json", "--threads", 1).stdout)
    assert list(found["predictions"]) == [str(path) for path in images]
    for classes in found["predictions"].values():
        assert sorted(classes) == ["blue", "green", "red"]
        assert sum(classes.values()) == pytest.approx(1)
        assert list(classes.values()) == sorted(classes.values(), reverse=True)
    text = invoke("predict", run_dir, images[0], "--views", 10, "--threads", 1).stdout
    assert "red/0.JPEG" in text
    assert all(name in text for name in ("blue", "green", "red"))


def test_bench_loader_prints_the_contracts_json(colour_tree: Path) -> None:
    found = json.loads(
        invoke(
            "bench-loader", colour_tree, "--json", "--seconds", 0.05, "--rounds", 1, "--batch-size", 6, "--threads", 1
        ).stdout
    )
    stages = {stage["name"]: stage["images_per_second"] for stage in found["stages"]}
    assert list(stages) == ["read", "decode", "pipeline", "loader"]
    assert all(rate > 0 for rate in stages.values())


def test_doctor_reports_and_the_module_can_be_run() -> None:
    done = alexnet_from_cold("doctor", "--json")
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert len(findings) > 3
    assert all({"status", "area", "found", "cost", "remedy"} <= set(finding) for finding in findings)
