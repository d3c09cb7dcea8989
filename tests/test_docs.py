"""What the documents say can be done can be done: commands run, options and links exist, files come in the order given.

Each page's commands run on a tiny data set, in the order in which the page gives them.
"""

import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from itertools import cycle
from pathlib import Path

import click
import pyarrow
import pytest
import warm
from click.testing import CliRunner
from drawn_cifar import write_binary
from pyarrow import parquet
from servers import serving

from alexnet.cli import main

CHECKOUT = Path(__file__).parents[1]
README, CONTRIBUTING = CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
MODULES = {"alexnet": "alexnet.cli", "torchrun": "torch.distributed.run"}
SMALLER = ["--width", "0.02", "--batch-size", "4", "--epochs", "1"]  # of a training that takes days


def options_of(command: click.Command) -> set[str]:
    """Those of a group are those of its commands."""
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    own = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return own.union(*map(options_of, inner))


OPTIONS = {name: options_of(command) for name, command in main.commands.items()}

PACKAGES = [
    CHECKOUT,
    *(
        init.parent
        for room in ("console", "pca", "pipeline", "train")
        for init in (CHECKOUT / room).rglob("__init__.py")
    ),
]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Those in blocks of their own, with loops unrolled."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    lines = re.sub(r"for (\w+) in (.+?); do (.+?); done", unrolled, text).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def unrolled(loop: re.Match[str]) -> str:
    name, values, command = loop.groups()
    return "\n".join(command.replace(f"${name}", value) for value in values.split())


def spans(page: Path) -> list[str]:
    """`code` within the text."""
    return re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


# -- commands ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes, which some figures need, of the tiny tree's images, each several times."""
    root, images = tmp_path_factory.mktemp("tree"), cycle(sorted(tiny_tree.rglob("*.JPEG")))
    for split, count in (("train", 4), ("val", 2)):
        for name in (f"n{label:02}" for label in range(1, 6)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                os.link(next(images), root / split / name / f"{name}_{i}.JPEG")
    return root


@pytest.fixture(scope="module")
def unsplit(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images alone, enough of each class for a half."""
    root, images = tmp_path_factory.mktemp("unsplit"), cycle(sorted(tree.rglob("*.JPEG")))
    for name in ("n01", "n02"):
        (root / "train" / name).mkdir(parents=True)
        for i in range(9):
            os.link(next(images), root / "train" / name / f"{name}_{i}.JPEG")
    return root


@pytest.fixture(scope="module")
def hub(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet files of the tree's images."""
    root = tmp_path_factory.mktemp("hub")
    for split in ("train", "val"):
        files = sorted((tree / split).rglob("*.JPEG"))
        rows = [{"image": {"bytes": f.read_bytes(), "path": f.name}, "label": int(f.parent.name[1:])} for f in files]
        parquet.write_table(pyarrow.Table.from_pylist(rows), root / f"{split}-0.parquet")
    return root


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_binary(tmp_path_factory.mktemp("cifar"), num_train=20, num_test=10)


@pytest.fixture(scope="module")
def folder(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "imagenet100.txt").write_text("n01 one\nn03 another\n")
    (folder / "cat.jpg").write_bytes(next((tiny_tree / "val").rglob("*.JPEG")).read_bytes())
    return folder


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    """The URL of what stands for a bucket: a server of the folder."""
    with serving(folder) as server:
        yield server.url


@pytest.fixture(scope="module")
def places(tree: Path, unsplit: Path, hub: Path, cifar: Path, folder: Path, bucket: str) -> dict[str, str]:
    """What is here where the documents say something else, in the order in which it is put there."""
    folders = {"/data/imagenet": tree, "/data/cifar10": cifar, "/data/fall2009": unsplit, "/data/hub": hub}
    packs = {"/data/imagenet-": f"{folder}/pack-", "s3://bucket/imagenet-": f"{bucket}/pack-"}
    return {**packs, **{name: str(place) for name, place in folders.items()}}


def test_commands_are_found() -> None:
    found = {words[1] for page in PAGES for words in commands(page) if words[0] == "alexnet"}
    assert found >= {"doctor", "pca-stats", "train", "evaluate", "predict", "pack", "bench-loader", "bench-train"}


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_runs(page: Path, places: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ALEXNET_CACHE", str(folder / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for words in commands(page):
        if words[0] not in ("alexnet", "torchrun"):
            check_tool(words)
            continue
        if "--nnodes" in words:
            words = one_machine(words)
        words = [reduce(lambda text, place: text.replace(place, places[place]), places, word) for word in words]
        if "torchvision" in words:
            continue  # its networks are as wide as the paper's: test_export.py
        if "train" in words and not {"--describe", "--resume"} & {*words}:
            words += SMALLER
        if words[1] == "figure1":
            words += ["--scale", "0.001"] if "normalisation" in words else ["--epochs", "1"]
        if words[1] == "ablate":
            words += [*SMALLER, *"--only base --seeds 1 --views 1".split()]
        if words[1].startswith("bench-"):
            words += ["--seconds", "0.05", "--rounds", "1", "--batch-size", "4"]
        if words[1] == "bench-train":
            words += ["--width", "0.02"]
        if words[0] == "alexnet" and "--mesh" not in words:  # in this process
            result = CliRunner().invoke(main, words[1:])
            assert result.exit_code == 0, f"{shlex.join(words)}: {result.output} {result.exception}"
            continue
        command = [sys.executable, "-m", MODULES[words[0]], *words[1:]]
        done = warm.run(command, timeout=300)  # hangs; on a busy machine workers take long to start
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"


def check_tool(words: list[str]) -> None:
    """A command for developers, which would run for minutes: what it names is there."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE), words
        return
    assert (Path(sys.executable).parent / words[0].removeprefix(".venv/bin/")).exists(), words
    for path in words[1:]:
        assert "/" not in path or (CHECKOUT / path).exists(), words


def one_machine(words: list[str]) -> list[str]:
    """The same command for a launcher of two ranks, here. `test_launch.py` has two launchers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    swaps = {"2": "1", "8": "2", "8x2": "1x2", "HOST:29500": f"127.0.0.1:{port}"}
    return [swaps.get(word, word) for word in words] + ["--device", "cpu"]


@every_page
def test_what_is_imported_exists(page: Path) -> None:
    for module, names in re.findall(r"^from (alexnet[\w.]*) import ([\w, ]+)", "".join(blocks(page, "python")), re.M):
        found = import_module(module)
        assert [name for name in names.split(", ") if not hasattr(found, name)] == [], module


@every_page
def test_options_exist(page: Path) -> None:
    """Those of commands within the text, and those named alone."""
    of_any = set().union(*OPTIONS.values(), ["--debug", "--help"])
    for span in spans(page):
        program, *words = span[max(0, span.find("alexnet ")) :].split()
        options = {word for word in [program, *words] if word.startswith("--")}
        if program == "alexnet" and words and words[0] not in options:
            assert options <= OPTIONS[words[0]], span
        elif program == "python" and words:  # a benchmark hands on what is not its own
            text = (CHECKOUT / words[0]).read_text()
            assert {option for option in options if f'"{option}"' not in text} <= of_any, span
        elif program in ("alexnet", *options):
            assert options <= of_any, span


def test_the_library_example_runs(tree: Path) -> None:
    (example,) = blocks(README, "python")
    example = example.replace("/data/imagenet", str(tree)).replace("batch_size=128", "batch_size=4")
    done = warm.run([sys.executable, "-c", example], timeout=120)
    assert done.returncode == 0, done.stderr


# -- links and files ---------------------------------------------------------------------------------------


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_leads_to_every_page() -> None:
    links = re.findall(r"\]\(([\w./-]+)", README.read_text())
    assert {str(page.relative_to(CHECKOUT)) for page in PAGES} - {"README.md"} <= {*links}


@every_page
def test_text_is_wrapped(page: Path) -> None:
    assert [line for line in page.read_text().splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_the_reading_order_names_files_once() -> None:
    """In each item a path is relative to the folder named last, or to the checkout."""
    order = README.read_text().partition("## Reading order\n")[2].partition("```")[0]
    seen = list[Path]()
    for item in re.split(r"\n\d+\. ", order)[1:]:
        folder = CHECKOUT
        for name in re.findall(r"`([\w/]+(?:/|\.py))`", item.partition("\n\n")[0]):
            if name.endswith("/"):
                folder = CHECKOUT / name
            else:
                seen.append(folder / name)
    assert [path for path in seen if not path.is_file()] == []
    assert len(seen) == len({*seen}) > 30


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(CHECKOUT)))
def test_a_package_names_its_modules(package: Path) -> None:
    """All of them, and none that is not there."""
    named = {*re.findall(r"`(\w+(?:\.py|/)?)`", (package / "__init__.py").read_text())}
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert modules - {name.removesuffix(".py").rstrip("/") for name in named} == {"__init__"}
    files = {name for name in named if not name.isidentifier()}
    assert [name for name in files if not ((package / name).exists() or (package.parent / name).exists())] == []
