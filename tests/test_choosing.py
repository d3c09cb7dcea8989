"""Commands that are asked for some of the images: which they take, and what a run remembers of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from planting import plant_named
from runs import alexnet, invoke

from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.dataset.selection import EVERYTHING, Selection
from alexnet.train import checkpoint as checkpoints
from alexnet.train.checkpoint import latest, load
from alexnet.train.saved import load_saved, read_selection
from alexnet.train.starts import read_starts

pytestmark = pytest.mark.usefixtures("quiet_machine")

SMALL = ("--threads", 1, "--device", "cpu")
TINY = (*SMALL, "--width", 0.02, "--batch-size", 2, "--epochs", 1)


@pytest.fixture(scope="module")
def tree(colour_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colours without their val/."""
    root = tmp_path_factory.mktemp("unsplit") / "tree"
    shutil.copytree(colour_tree / "train", root / "train")
    return root


@pytest.fixture(scope="module")
def run(tree: Path, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """A run on half of two of the classes, whose list is gone."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "list.txt").write_text("red, a colour\nblue\n")
    options = ("--val-fraction", 0.5, "--split-seed", 1, "--classes-file", folder / "list.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(cache_dir))
        said = invoke("train", tree, "--run", folder / "run", *options, *TINY).stderr
    assert "2 classes; 5 to validate; --val-fraction 0.5 --split-seed 1 --classes-file FILE)" in said
    (folder / "list.txt").unlink()
    return folder / "run"


def expected(tree: Path, split: str) -> list[str]:
    selection = Selection(val_fraction=0.5, split_seed=1, classes=("blue", "red"))
    dataset = open_dataset(tree, split, selection=selection)  # type: ignore[arg-type]
    assert 0 < len(dataset) < 12
    return [dataset.name(i) for i in range(len(dataset))]


def names_in(features: Path) -> list[str]:
    return [json.loads(line)["name"] for line in (features / "index.jsonl").read_text().splitlines()]


def test_a_run_remembers_its_choice(run: Path, tree: Path, tmp_path: Path) -> None:
    selection = Selection(val_fraction=0.5, split_seed=1, classes=("red, a colour", "blue"))
    newest = latest(run)
    assert newest is not None
    assert load(newest).selection == read_selection(newest) == selection
    assert read_starts(run)[0].selection == str(selection)
    for split in ("train", "val"):
        said = invoke("features", run, tree, "--split", split, "--out", tmp_path / split, *SMALL).stderr
        assert names_in(tmp_path / split) == expected(tree, split)
        assert said.count("Images are chosen as for the run: --val-fraction 0.5") == (split == "val")
    report = json.loads(invoke("evaluate", run, tree, "--json", *SMALL).stdout)
    assert report["num_images"] == len(expected(tree, "val"))


def test_a_resumed_run_goes_on_with_its_choice(run: Path, tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    words = ("train", tree, "--run", copy, "--resume", *SMALL)
    assert "from step" in invoke(*words).stderr
    assert "from step" in invoke(*words, "--val-fraction", 0.5, "--split-seed", 1).stderr
    differing = invoke(*words, "--val-fraction", 0.4, code=1).stderr
    assert "--val-fraction is 0.5 there, 0.4 was asked for. Leave these options out to continue it." in differing
    (tmp_path / "list.txt").write_text("red\ngreen\n")
    other = invoke(*words, "--classes-file", tmp_path / "list.txt", code=1).stderr
    assert "The checkpoint was trained on other classes than those of" in other


def test_what_is_asked_for_comes_before_what_is_remembered(run: Path, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("red\n")
    invoke("features", run, tree, "--classes-file", tmp_path / "list.txt", "--out", tmp_path / "red", *SMALL)
    assert names_in(tmp_path / "red") == [name for name in expected(tree, "val") if "/red/" in name]


@pytest.mark.parametrize(
    ("asked", "warned"),
    [
        (("--val-fraction", 0.6), True),
        (("--val-fraction", 0.5, "--split-seed", 2), True),
        (("--val-fraction", 0.4), False),
    ],
)
def test_images_that_were_trained_on_are_not_held_out_without_a_word(
    run: Path, tree: Path, asked: tuple[object, ...], warned: bool
) -> None:
    asked = (*asked, "--split-seed", 1) if "--split-seed" not in asked else asked
    said = invoke("evaluate", run, tree, *asked, "--json", *SMALL).stderr
    assert ("The run held out --val-fraction 0.5 --split-seed 1: of the same images" in said) == warned


def test_another_data_set_is_evaluated_on_its_own_validation_images(run: Path, colour_tree: Path) -> None:
    done = invoke("evaluate", run, colour_tree, "--json", *SMALL)
    assert "(class folders in val/); the run held out --val-fraction 0.5 of its training images" in done.stderr
    assert json.loads(done.stdout)["num_images"] == 6  # of the two classes


def test_saved_probabilities_remember_it(run: Path, tree: Path, tmp_path: Path) -> None:
    one, again, other = (tmp_path / f"{name}.npy" for name in ("one", "again", "other"))
    expected = json.loads(invoke("evaluate", run, tree, "--json", "--save-probabilities", one, *SMALL).stdout)
    invoke("evaluate", one, "--save-probabilities", again)
    for path in (one, again):
        found = invoke("evaluate", path, tree, "--json", *SMALL)
        assert "Images are chosen as for the run: --val-fraction 0.5" in found.stderr
        assert json.loads(found.stdout)["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    invoke("evaluate", run, tree, "--val-fraction", 0.6, "--save-probabilities", other, *SMALL)
    for words in ((one, other), (one, other, tree), (one, run, tree, "--val-fraction", 0.6)):
        assert ".npy is about another data set" in invoke("evaluate", *words, code=1).stderr
    older = json.loads(one.with_suffix(".json").read_text())
    del older["selection"]
    one.with_suffix(".json").write_text(json.dumps(older))
    report = json.loads(invoke("evaluate", one, run, tree, "--json", *SMALL).stdout)
    assert report["num_images"] == expected["num_images"]


def test_ranks_do_not_repeat_what_was_said_of_the_images(colour_tree: Path, tmp_path: Path) -> None:
    """Neither the first, which the command starts after it has said it, nor the others."""
    tree = shutil.copytree(colour_tree, tmp_path / "tree")
    (tree / "train/red/notes.txt").write_text("none")
    ranks = ("--mesh", "2x1", "--devices", "cpu,cpu")
    done = alexnet("train", tree, "--run", tmp_path / "run", "--per-class", 99, *TINY, *ranks)
    assert done.returncode == 0, done.stderr
    for said in ("Left out 1 file: 1 .txt", "All of them are taken", "Training paper on"):
        assert done.stderr.count(said) == 1, said


def test_networks_that_were_validated_on_different_images(run: Path, tree: Path, tmp_path: Path) -> None:
    invoke("train", tree, "--run", tmp_path / "other", "--val-fraction", 0.4, *TINY)
    words = ("evaluate", run, tmp_path / "other", tree, *SMALL)
    assert "were validated on different images of their data sets. Say on which" in invoke(*words, code=1).stderr


def test_a_report_is_of_the_runs_own_images(run: Path, tree: Path, tmp_path: Path) -> None:
    skipped = [word for name in ("neighbours", "embedding", "activations") for word in ("--skip", name)]
    invoke("report", run, "--out", tmp_path / "r.html", *skipped, *SMALL)
    page = (tmp_path / "r.html").read_text()
    assert "7 training and 5 validation images, chosen by --val-fraction 0.5 --split-seed 1" in page
    assert "are not those of the run" not in page


def test_checkpoints_of_whole_data_sets_are_what_they_were(run: Path, tmp_path: Path) -> None:
    """Those of earlier versions tell no selection, and so do ours."""
    newest = latest(run)
    assert newest is not None
    whole = tmp_path / "whole.npz"
    checkpoints.save(whole, load(newest).__class__(**{**vars(load(newest)), "selection": EVERYTHING}))
    for path, told in ((newest, True), (whole, False)):
        entry = checkpoints._read(path)["metadata"]
        assert ("selection" in json.loads(str(entry))) == told
    assert load(whole).selection == read_selection(whole) == EVERYTHING


def test_an_exported_network_remembers_it_too(run: Path, tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    file = tmp_path / "net.safetensors"
    invoke("export", run, "--to", "safetensors", "--out", file)
    assert load_saved(file).selection == read_selection(file) == load_saved(run).selection
    assert json.loads(invoke("evaluate", file, tree, "--json", *SMALL).stdout)["num_images"] == 5


def test_statistics_are_of_the_chosen_images(tree: Path, tmp_path: Path) -> None:
    words = ("pca-stats", tree, "--val-fraction", 0.5, "--out", tmp_path / "s.json", "--json", "--threads", 1)
    record = json.loads(invoke(*words).stdout)
    chosen = open_dataset(tree, "train", selection=Selection(val_fraction=0.5))
    assert record["fingerprint"] == chosen.fingerprint
    other = ("train", tree, "--stats", tmp_path / "s.json", "--val-fraction", 0.3, "--run", tmp_path / "run", *TINY)
    message = invoke(*other, code=1).stderr
    assert f"Run `alexnet pca-stats {tree} --val-fraction 0.3 --out {tmp_path}/s.json`" in message


def test_a_half_is_packed_as_a_data_set_of_its_own(tree: Path, tmp_path: Path) -> None:
    done = invoke("pack", tree, tmp_path / "out", "--copy", "--val-fraction", 0.5, "--json", "--threads", 1)
    assert [split["num_images"] for split in json.loads(done.stdout)["splits"]] == [
        len(open_dataset(tmp_path / "out", split)) for split in ("train", "val")
    ]


def test_ablate_trains_on_the_chosen_images(tree: Path, tmp_path: Path) -> None:
    options = ("--val-fraction", 0.5, "--per-class", 2, "--seeds", 1, "--only", "no-dropout")
    words = ("--scaling", "imagenet", "--lighting", "off", "--views", 1, *TINY)
    invoke("ablate", tree, "--out", tmp_path / "a", *options, *words)
    (start,) = read_starts(tmp_path / "a/base/seed-0")
    assert (start.num_train, start.selection) == (6, "--val-fraction 0.5 --per-class 2")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["train", "DATA", "--val-fraction", "1"], "1.0 is not in the range 0<x<1"),
        (["train", "DATA", "--val-fraction", "nan"], "is not a finite number"),
        (
            ["train", "DATA", "--split-seed", "1"],
            "--split-seed decides which images --val-fraction or --per-class takes",
        ),
        (["train", "DATA", "--per-class", "0"], "0 is not in the range x>=1"),
        (
            ["features", "CKPT", "cat.jpg", "dog.jpg", "--out", "x", "--per-class", "1"],
            "leave them out with image files",
        ),
        (["bench-loader", "--val-fraction", "0.5"], "need a data set to choose from: give DATA"),
    ],
)
def test_wrong_usage(
    words: list[str], problem: str, run: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plant_named(tmp_path, "cat.jpg", "dog.jpg")
    given = {"DATA": str(tree), "CKPT": str(run)}
    assert problem in invoke(*(given.get(word, word) for word in words), code=2).stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--val-fraction", "0.01"], "--val-fraction 0.01 leaves 3 of 3 classes of"),
        (["--classes-file", "list.txt"], "--classes-file names no class of"),
        (["--classes-file", "gone.txt"], "No such file or directory: gone.txt"),
        ([], "Set some aside with --val-fraction 0.1, or move a few images"),
    ],
)
def test_bad_input(
    options: list[str], problem: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("tench\n")
    done = invoke("train", tree, "--run", "run", *options, *TINY, code=1)
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
