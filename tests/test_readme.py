"""Every command in the README runs: on a tiny data set, in the order in which the README gives them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text()
SMALLER = ["--width", "0.02", "--batch-size", "4", "--epochs", "1"]  # of a training that takes days


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def folder(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "cat.jpg").write_bytes(next((tiny_tree / "val").rglob("*.JPEG")).read_bytes())
    return folder


def test_the_readme_has_commands() -> None:
    names = {words[1] for words in commands() if words[0] == "alexnet"}
    assert names >= {"doctor", "pca-stats", "train", "evaluate", "predict", "bench-loader"}


def test_every_command_runs(tiny_tree: Path, folder: Path) -> None:
    environment = os.environ | {"ALEXNET_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for words in commands():
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
            continue
        words = [str(tiny_tree) if word == "/data/imagenet" else word for word in words]
        if "train" in words[:2] and "--describe" not in words and "--resume" not in words:
            words += SMALLER
        if "bench-loader" in words:
            words += ["--seconds", "0.05", "--rounds", "1", "--batch-size", "4"]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"


def test_the_library_example_runs(tiny_tree: Path, folder: Path) -> None:
    (example,) = blocks("python")
    example = example.replace("/data/imagenet", str(tiny_tree)).replace("batch_size=128", "batch_size=4")
    done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_files_it_names_exist() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (CHECKOUT / path).exists(), path
