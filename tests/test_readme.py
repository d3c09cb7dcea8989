"""Every command in the README runs: on a tiny data set, in the order in which the README gives them."""

import os
import re
import shlex
import socket
import subprocess
import sys
from functools import partial, reduce
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text()
SMALLER = ["--width", "0.02", "--batch-size", "4", "--epochs", "1"]  # of a training that takes days


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def folder(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "cat.jpg").write_bytes(next((tiny_tree / "val").rglob("*.JPEG")).read_bytes())
    return folder


def test_the_readme_has_commands() -> None:
    names = {words[1] for words in commands() if words[0] == "alexnet"}
    assert names >= {"doctor", "pca-stats", "train", "evaluate", "predict", "pack", "bench-loader", "bench-train"}


def test_every_command_runs(tiny_tree: Path, folder: Path) -> None:
    environment = os.environ | {"ALEXNET_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for words in commands():
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
            continue
        machines = 1
        if "--nnodes" in words:
            machines, words = 2, smaller_machines(words)
        places = {"/data/imagenet-": f"{folder}/pack-", "/data/imagenet": str(tiny_tree)}
        words = [reduce(lambda text, place: text.replace(place, places[place]), places, word) for word in words]
        if "train" in words and not {"--describe", "--resume"} & {*words}:
            words += SMALLER
        if words[1].startswith("bench-"):
            words += ["--seconds", "0.05", "--rounds", "1", "--batch-size", "4"]
        if words[1] == "bench-train":
            words += ["--width", "0.02"]
        start = partial(subprocess.Popen, words, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
        for process in [start(stdout=subprocess.DEVNULL) for _ in range(machines)]:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, f"{shlex.join(words)}: {errors}"


def smaller_machines(words: list[str]) -> list[str]:
    """The same command for two launchers of two ranks each, here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    swaps = {"8": "2", "8x2": "2x2", "HOST:29500": f"127.0.0.1:{port}"}
    return [swaps.get(word, word) for word in words] + ["--device", "cpu"]


def test_the_library_example_runs(tiny_tree: Path, folder: Path) -> None:
    (example,) = blocks("python")
    example = example.replace("/data/imagenet", str(tiny_tree)).replace("batch_size=128", "batch_size=4")
    done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_files_it_names_exist() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (CHECKOUT / path).exists(), path
