"""Commands on data behind a URL: the same runs as on a local copy, and what they say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from remotes import be_impatient, write_pack
from servers import FileServer, serving

pytest.importorskip("nvidia.dali")
pytest.importorskip("aiohttp")

from alexnet.cli import main
from alexnet.train.checkpoint import saved_checkpoints

TRAIN = "train --width 0.02 --batch-size 4 --device cpu --threads 1 --log-every 1".split()


@pytest.fixture(scope="module")
def packed(colour_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(colour_tree, tmp_path_factory.mktemp("packed") / "pack")


@pytest.fixture
def server(quiet_machine: None, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    be_impatient(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    with serving(packed.parent) as started:
        yield started


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def losses(folder: str) -> list[tuple[float, float]]:
    records = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [(record["loss"], record["top1_error"]) for record in records if record["kind"] in ("train", "val")]


def test_a_run_within_a_window_goes_on_from_a_local_copy(server: FileServer, packed: Path) -> None:
    size = 8 * max(path.stat().st_size for path in packed.glob("*.tar"))
    remote = run(*TRAIN, f"{server.url}/pack", "--epochs", 2, "--run", "remote", "--cache-size", f"{size}B")
    assert remote.exit_code == 0, remote.output
    assert "Each epoch goes through them in random order and mixes within" in remote.stderr
    assert f"Next: alexnet evaluate remote {server.url}/pack" in remote.stderr
    assert "ALEXNET_CACHE_SIZE" not in os.environ
    window = json.loads(Path("remote/config.json").read_text())["window"]
    assert window < 18
    local = run(*TRAIN, packed, "--epochs", 2, "--run", "local", "--window", window, "--checkpoint-every", 3)
    assert local.exit_code == 0, local.output
    assert losses("remote") == losses("local")
    assert "Each epoch goes" not in local.stderr

    shutil.copytree("local", "broken")
    for path in saved_checkpoints(Path("broken"))[1:]:
        path.unlink()
    on = run(*TRAIN, f"{server.url}/pack", "--run", "broken", "--resume", "--cache-size", "1GB")
    assert on.exit_code == 0, on.output
    assert losses("broken") == losses("remote")


def test_a_run_that_mixes_all_goes_on_only_with_room_for_all(server: FileServer, packed: Path) -> None:
    whole = run(*TRAIN, packed, "--epochs", 1, "--run", "whole", "--checkpoint-every", 2)
    assert whole.exit_code == 0, whole.output
    size = 7 * max(path.stat().st_size for path in packed.glob("*.tar"))
    on = run(*TRAIN, f"{server.url}/pack", "--run", "whole", "--resume", "--cache-size", f"{size}B")
    assert on.exit_code == 1
    assert "wanted in an order that mixes all of them, but --cache-size" in on.stderr


def test_other_commands(server: FileServer, packed: Path) -> None:
    url = f"{server.url}/pack"
    for name, data in (("remote", url), ("local", packed)):
        done = run("pca-stats", data, "--out", f"{name}.json", "--device", "cpu", "--threads", 1)
        assert done.exit_code == 0, done.output
    remote, local = (json.loads(Path(f"{name}.json").read_text()) for name in ("remote", "local"))
    assert (remote["covariance"], remote["mean"]) == (local["covariance"], local["mean"])
    benched = run("bench-loader", url, *"--seconds 0.05 --rounds 1 --batch-size 4 --device cpu --json".split())
    assert benched.exit_code == 0, benched.output
    assert f"Measuring on 18 of the images at {url}: those of its first shards." in benched.stderr
    assert json.loads(benched.stdout)["dataset"]["root"] == url


@pytest.mark.parametrize(
    "words",
    [
        ["pack", "DATA", "s3://bucket/pack"],
        ["train", "DATA", "--run", "gs://bucket/run"],
        ["pca-stats", "DATA", "--out", "https://host/stats.json"],
        ["pca-stats", "DATA", "--classes-file", "s3://bucket/list.txt"],
    ],
)
def test_only_data_may_be_a_url(
    packed: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*(str(packed) if word == "DATA" else word for word in words))
    assert result.exit_code == 2
    assert f"{words[-1]!r} is a URL, which only DATA may be. Give a local path." in result.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "HOST/run", "DATA"], "Error: HOST/run is a URL, which only DATA may be. Fetch the network"),
        (
            ["features", "HOST/run", "DATA", "--layer", "fc7", "--out", "fc7"],
            "Error: HOST/run is a URL, which only DATA",
        ),
        (["predict", "HOST/run", "image.jpg"], "'HOST/run' is a URL, which only DATA may be. Give a local path."),
        (["train", "DATA", "--init-from", "HOST/run"], "'HOST/run' is a URL, which only DATA may be."),
        (["train", "DATA", "--resume", "HOST/run"], "HOST/run is a URL, which only DATA may be."),
    ],
)
def test_networks_are_local(
    packed: Path, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = "https://host/runs"
    result = run(*(str(packed) if word == "DATA" else word.replace("HOST", url) for word in words))
    assert said.replace("HOST", url) in result.stderr
    assert result.stderr.count("is a URL") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["URL/nothing"], 1, "URL/nothing cannot be read: nothing is there. Check the address."),
        (["URL/pack", "--cache-size", "1KB"], 1, "--cache-size 1 KB is too small for the shards of URL/pack"),
        (["URL/pack", "--cache-size", "auto"], 2, "'auto' is not a size, such as 40GB or 500MB."),
    ],
)
def test_errors_are_one_line(server: FileServer, words: list[str], code: int, said: str) -> None:
    result = run("pca-stats", *(word.replace("URL", server.url) for word in words))
    assert result.exit_code == code
    assert said.replace("URL", server.url) in result.stderr
    assert code == 2 or result.stderr.count("\n") == 1
