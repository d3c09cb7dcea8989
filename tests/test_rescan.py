"""Commands with `--rescan` or only one split: what they say, and which rank lists the images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
from runs import invoke

from alexnet.console.on_mesh import without_rescan
from alexnet.pipeline.dataset import open as dataset_module
from alexnet.pipeline.errors import DatasetError
from alexnet.train.parallel.ranks import RankInfo

pytestmark = pytest.mark.usefixtures("quiet_machine")


@pytest.fixture
def tree(colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(colour_tree, tmp_path / "tree"))


def test_a_repaired_file_is_used_after_a_rescan(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "CACHE_FROM_IMAGES", 1)
    command = ("pca-stats", tree, "--out", tmp_path / "stats.json", "--threads", 1, "--max-bad", 0.1)
    path = tree / "train/red/0.JPEG"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "Bad image train/red/0.JPEG: truncated" in invoke(*command).stderr
    path.write_bytes(whole)
    shutil.rmtree(tmp_path / "cache/passes")  # or the pass need not be made again
    assert "the data set has changed; start again with --rescan" in invoke(*command).stderr
    for extra in (["--rescan"], []):
        assert "Bad image" not in invoke(*command, *extra).stderr


class Store:
    """The ranks' store, as if the first were done with everything."""

    def wait(self, *_: Any) -> None: ...
    def set(self, *_: Any) -> None: ...
    def get(self, *_: Any) -> bytes:
        return b""


@pytest.mark.parametrize(
    "command",
    [
        ["train", "DATA", "--run", "RUN", "--mesh", "2x1"],
        ["evaluate", "RUN", "DATA", "--mesh", "2x1"],
        ["bench-train", "DATA", "--mesh", "2x1"],
        ["pca-stats", "DATA"],
        ["bench-loader", "DATA"],
        ["pack", "DATA", "RUN"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("asked", [True, False])
def test_the_first_rank_alone_lists_anew(
    tree: Path, tmp_path: Path, command: list[str], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def opened(*_: Any, rescan: bool, **__: Any) -> NoReturn:
        seen.append(rescan)
        raise DatasetError("enough")

    for name in ("console.data_options.open_dataset", "pipeline.dataset.open.open_to_pack"):
        monkeypatch.setattr(f"alexnet.{name}", opened)
    monkeypatch.setattr("alexnet.console.commands.evaluate.find_networks", lambda *_: [])
    words = [{"DATA": str(tree), "RUN": str(tmp_path / "run")}.get(word, word) for word in command]
    for rank in range(1 if command[0] in ("bench-loader", "pack") else 2):
        place = RankInfo(rank=rank, size=2, local_rank=rank, local_size=2, store=Store())
        for module in ("train", "evaluate", "bench", "stats"):
            monkeypatch.setattr(f"alexnet.console.commands.{module}.join_ranks", lambda place=place: place)
        result = invoke(*words, *(["--rescan"] if asked else []), code=1)
        assert result.stderr.endswith("Error: enough\n")
        assert seen.pop() == (asked and rank == 0)


def test_ranks_that_are_started_need_not_list_again() -> None:
    assert without_rescan(["train", "data", "--rescan", "--mesh", "1x2"]) == ["train", "data", "--mesh", "1x2"]


def test_a_data_set_with_train_alone(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "val")
    small = ("--threads", 1, "--width", 0.02, "--batch-size", 4, "--epochs", 1)
    expected = f"No val images in {tree}. Looked for val/<class>/*.JPEG, "
    by_hand = "or move a few images of each class from train/<class>/ to val/<class>/.\n"
    message = invoke("train", tree, "--run", tmp_path / "run", *small, code=1).stderr
    assert f"Error: {expected}" in message
    assert message.endswith(f"Set some aside with --val-fraction 0.1, {by_hand}")
    packed = invoke("pack", tree, tmp_path / "packed", "--threads", 1)
    assert f"Only the train split is there. {expected}" in packed.stderr
    assert len(list((tmp_path / "packed").glob("*.tar"))) == 1
    assert expected in invoke("pack", tree, tmp_path / "both", "--split", "val", code=1).stderr
