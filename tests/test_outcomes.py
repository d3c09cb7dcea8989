"""Errors by class, confusion and saved probabilities, against scikit-learn, csv and plain numpy."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from runs import alexnet, paths_of
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from alexnet.cli import main
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.train.checkpoint import Checkpoint, save
from alexnet.train.classifier import load_classifier, probabilities
from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet, initialise
from alexnet.train.outcomes import Outcomes
from alexnet.train.parallel.mesh import Mesh
from alexnet.train.probabilities import ProbabilityRecorder, load_probabilities

pytestmark = pytest.mark.usefixtures("quiet_machine")

ODD = ('a,"b"', "line\nbreak", "b\udce9", " c; ", "green", "=red", "zebra")  # \udce9: a byte that is no UTF-8
CLASSES = ("blue", "green", "grey", "pink", "red", "white", "zinc")


def invoke(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--threads", "1"])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def evaluated(*arguments: Any) -> dict[str, Any]:
    return json.loads(invoke(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks of seven classes that were never trained, but have opinions."""
    paths = [tmp_path_factory.mktemp("networks") / f"{seed}.npz" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        config = Config(width=0.02, init="torch", lrn=False)
        model = AlexNet(config, len(CLASSES))
        initialise(model, seed)
        state = {name: weight * 1.7 for name, weight in model.state_dict().items()}
        mean = np.random.default_rng(seed).uniform(90, 130, 3).astype(np.float32)
        arrays = {"mean": mean, "divisor": np.ones(3, np.float32)}
        save(path, Checkpoint(config=config, classes=list(CLASSES), epoch=0, step=0, model=state, arrays=arrays))
    return paths


@pytest.fixture(scope="module")
def saved(colour_tree: Path, checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The probabilities of both."""
    paths = [tmp_path_factory.mktemp("saved") / f"{i}.npy" for i in range(2)]
    for checkpoint, path in zip(checkpoints, paths, strict=True):
        invoke(checkpoint, colour_tree, "--save-probabilities", path)
    return paths


@pytest.mark.parametrize("classes", [ODD, ODD[:2]])
def test_scikit_learn_counts_the_same(classes: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n, num_classes = 200, len(classes)
    labels = rng.integers(num_classes, size=n).astype(np.int32)
    probability = rng.dirichlet(np.ones(num_classes), n) + 0.3 * np.eye(num_classes)[labels]
    usable = np.sort(rng.choice(n, 170, replace=False))
    outcomes = Outcomes(labels, classes)
    for part in np.array_split(rng.permutation(usable), 7):
        outcomes.add(part, torch.from_numpy(probability[part]))
    outcomes.combine(Mesh())
    outcomes.write_confusion(tmp_path / "confusion.csv")

    true, predicted, names = labels[usable], probability[usable].argmax(1), list(range(num_classes))
    with (tmp_path / "confusion.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *rows = csv.reader(file)
    assert (tuple(header[1:]), tuple(row[0] for row in rows)) == (classes, classes)
    expected = confusion_matrix(true, predicted, labels=names)
    assert [list(map(int, row[1:])) for row in rows] == expected.tolist()
    assert 0 < np.trace(expected) < 170

    found = outcomes.class_errors()
    assert [c.top1_error for c in found] == sorted((c.top1_error for c in found), reverse=True)
    for one in found:
        mine = true == classes.index(one.name)
        scores = probability[usable][mine]
        assert one.num_images == mine.sum()
        assert one.top1_error == pytest.approx(np.mean(predicted[mine] != true[mine]))
        ranks = (scores > scores[:, [classes.index(one.name)]]).sum(1)
        assert one.top5_error == pytest.approx(np.mean(ranks >= 5))
    if num_classes > 5:
        five = sum(c.num_images * (1 - c.top5_error) for c in found)
        scores = probability[usable] / probability[usable].sum(1, keepdims=True)
        assert five == pytest.approx(top_k_accuracy_score(true, scores, k=5, labels=names, normalize=False))


def test_saved_rows_are_the_networks_in_the_order_of_the_data_set(
    colour_tree: Path, checkpoints: list[Path], saved: list[Path]
) -> None:
    """And what the command says follows from them by plain numpy."""
    rows = np.load(saved[0], mmap_mode="r")
    about = json.loads(saved[0].with_suffix(".json").read_text())
    dataset = open_dataset(colour_tree, "val")
    assert (rows.dtype, rows.shape) == (np.float32, (9, 7))
    assert about["images"] == [dataset.name(i) for i in range(9)]
    assert (about["dataset_fingerprint"], about["views"], about["bad"]) == (dataset.fingerprint, 1, {})
    assert (tuple(about["classes"]), about["checkpoints"]) == (CLASSES, [str(checkpoints[0])])
    true = np.array([CLASSES.index(path.parent.name) for path in paths_of(dataset)])
    assert about["labels"] == true.tolist()

    found = evaluated(checkpoints[0], colour_tree, "--per-class", "--batch-size", 4)
    ranks = (rows > rows[range(9), true][:, None]).sum(1)
    assert 0 < (ranks >= 5).sum() <= (ranks >= 1).sum() <= 9
    assert (found["top1_error"], found["top5_error"]) == (np.mean(ranks >= 1), np.mean(ranks >= 5))
    assert found["loss"] == pytest.approx(-np.log(rows[range(9), true]).mean(), rel=1e-6)
    assert {c["name"]: (c["num_images"], c["top1_error"], c["top5_error"]) for c in found["classes"]} == {
        name: (3, np.mean(ranks[true == k] >= 1), np.mean(ranks[true == k] >= 5))
        for name in ("blue", "green", "red")
        for k in [CLASSES.index(name)]
    }


def test_saved_probabilities_stand_for_their_networks(
    colour_tree: Path, checkpoints: list[Path], saved: list[Path], tmp_path: Path
) -> None:
    """Alone, where the images need not be there, beside a checkpoint, and as an average that counts for two."""
    expected = evaluated(*checkpoints, colour_tree)
    both = [evaluated(path, colour_tree) for path in checkpoints]
    for one, alone in zip(expected["networks"], both, strict=True):
        assert {key: alone[key] for key in ("top1_error", "top5_error", "loss")} == {
            key: one[key] for key in ("top1_error", "top5_error", "loss")
        }
    assert expected["loss"] != both[0]["loss"] != both[1]["loss"]
    average = tmp_path / "average.npy"
    for paths in (saved, [*saved, colour_tree], [saved[0], checkpoints[1], colour_tree]):
        found = evaluated(*paths, "--save-probabilities", average)
        for key in ("num_images", "top1_error", "top5_error", "views", "bad"):
            assert found[key] == expected[key], key
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert [n["loss"] for n in found["networks"]] == pytest.approx([n["loss"] for n in both], rel=1e-6)
        np.testing.assert_allclose(np.load(average), (np.load(saved[0]) + np.load(saved[1])) / 2, rtol=1e-6)
        assert json.loads(average.with_suffix(".json").read_text())["checkpoints"] == [*map(str, checkpoints)]
    weighted = tmp_path / "weighted.npy"
    text = invoke(average, saved[0], "--save-probabilities", weighted).stdout
    assert "3 networks averaged" in text
    assert "the average" in text
    np.testing.assert_allclose(np.load(weighted), (2 * np.load(saved[0]) + np.load(saved[1])) / 3, rtol=1e-6)


def test_bad_images_have_no_probabilities_and_stay_left_out(
    colour_tree: Path, checkpoints: list[Path], tmp_path: Path
) -> None:
    tree = Path(shutil.copytree(colour_tree, tmp_path / "tree"))
    (tree / "val/green/1.JPEG").write_bytes(b"")
    file, bad = tmp_path / "a.npy", open_dataset(tree, "val")
    place = [bad.name(i) for i in range(9)].index("val/green/1.JPEG")
    expected = evaluated(checkpoints[0], tree, "--max-bad", 0.2, "--save-probabilities", file, "--per-class")
    assert np.flatnonzero(np.isnan(np.load(file)).any(1)).tolist() == [place]
    assert sorted(c["num_images"] for c in expected["classes"]) == [2, 3, 3]
    for more in ([], [checkpoints[0], tree]):
        found = evaluated(file, *more, "--max-bad", 0.2)
        assert (found["bad"], found["num_images"]) == (expected["bad"], 8)
        assert found["top1_error"] == expected["top1_error"]
    assert "more than --max-bad" in invoke(file, code=1).stderr


def test_what_does_not_fit_is_refused(
    colour_tree: Path, checkpoints: list[Path], saved: list[Path], tmp_path: Path
) -> None:
    def refusal(*arguments: Any) -> str:
        message = invoke(*arguments, code=1).stderr.splitlines()[-1]
        assert message.startswith("Error: ")
        return message

    tree = Path(shutil.copytree(colour_tree, tmp_path / "tree"))
    (tree / "val/red/2.JPEG").rename(tree / "val/red/9.JPEG")
    assert "it has val/red/2.JPEG where" in refusal(saved[0], tree)
    (tree / "val/red/9.JPEG").unlink()
    assert "there are 9 images in it, and 8 in" in refusal(saved[0], checkpoints[0], tree)
    assert "has the average of 1 views, and --views is 10" in refusal(
        *saved, checkpoints[0], colour_tree, "--views", 10
    )
    assert "has the average of 1 views, and --views is 10" in refusal(*saved, "--views", 10)
    copy, beside = tmp_path / "copy.npy", tmp_path / "copy.json"
    assert f"There is no {copy}" in refusal(saved[0], copy)
    shutil.copy(saved[0], copy)
    assert f"There is no {beside}" in refusal(copy)
    beside.write_text("{}")
    assert "is not what this version's --save-probabilities writes" in refusal(copy)
    shutil.copy(saved[0].with_suffix(".json"), beside)
    about = json.loads(beside.read_text())
    beside.write_text(json.dumps(about | {"classes": [*CLASSES[:-1], "other"]}))
    assert "know different classes (class 6: 'zinc' and 'other')" in refusal(saved[0], copy)
    beside.write_text(json.dumps(about | {"classes": [*CLASSES, "other"]}))
    assert "do not belong together" in refusal(copy)
    beside.write_text(json.dumps(about))
    copy.write_bytes(copy.read_bytes()[:-1])
    assert "is damaged" in refusal(copy)
    assert "leave out options that choose others" in invoke(saved[0], "--val-fraction", 0.5, code=2).stderr
    for option in ("--confusion", "--save-probabilities"):
        assert "must end in one of" in invoke(checkpoints[0], colour_tree, option, tmp_path / "a.txt", code=2).stderr


def test_a_file_beside_that_is_another_is_kept(saved: list[Path], tmp_path: Path) -> None:
    """Such as the evaluation's own JSON, which the shell has opened; a file of probabilities gives way."""
    beside = tmp_path / "first.json"
    for text in ("", '{"top1_error": 0.4}'):
        beside.write_text(text)
        message = invoke(saved[0], "--save-probabilities", tmp_path / "first.npy", code=1).stderr
        assert "first.json is not what" in message
        assert "choose another name for first.npy" in message
        assert beside.read_text() == text
    shutil.copy(saved[0].with_suffix(".json"), beside)
    invoke(saved[0], "--save-probabilities", tmp_path / "first.npy")
    assert beside.with_suffix(".npy").exists()


def test_two_ranks_write_what_one_writes(
    colour_tree: Path, checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine images, so that the shares differ."""
    found = []
    for mesh in ("1x1", "2x1"):
        files = ["--confusion", tmp_path / f"{mesh}.csv", "--save-probabilities", tmp_path / f"{mesh}.npy"]
        how = ["--mesh", mesh, "--device", "cpu", "--threads", 1, "--batch-size", 2, "--per-class", "--json"]
        done = alexnet("evaluate", *checkpoints, colour_tree, *files, *how, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0].pop("loss") == pytest.approx(found[1].pop("loss"))
    for one, other in zip(found[0].pop("networks"), found[1].pop("networks"), strict=True):
        assert one == pytest.approx(other)
    assert found[0] == found[1]
    assert (tmp_path / "1x1.csv").read_bytes() == (tmp_path / "2x1.csv").read_bytes()
    np.testing.assert_allclose(np.load(tmp_path / "1x1.npy"), np.load(tmp_path / "2x1.npy"), rtol=1e-6)
    assert (tmp_path / "1x1.json").read_bytes() == (tmp_path / "2x1.json").read_bytes()


def test_the_file_holds_what_was_recorded_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks smaller than the whole, and with the network's own numbers."""
    monkeypatch.setattr("alexnet.train.probabilities.BLOCK", 3)
    rng = np.random.default_rng(1)
    probability = torch.from_numpy(rng.dirichlet(np.ones(4), 10))
    recorder = ProbabilityRecorder(10, 4, Mesh())
    for part in np.array_split(rng.permutation(10), 4):
        recorder.add(part, probability[part])
    metadata = {"classes": [*"abcd"], "images": [*"0123456789"], "labels": [0] * 10, "views": 10}
    recorder.write(tmp_path / "a.npy", metadata | {"dataset_fingerprint": "f", "checkpoints": ["c"], "bad": {}})
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), probability.numpy().astype(np.float32))
    (one,) = load_probabilities([tmp_path / "a.npy"])
    np.testing.assert_allclose(one.rows_of(np.array([7, 2])), probability[[7, 2]], rtol=1e-6)
    assert (one.views, one.num_networks, one.dataset().classes) == (10, 1, ("a", "b", "c", "d"))


def test_saved_rows_are_those_of_the_classifier(colour_tree: Path, checkpoints: list[Path], saved: list[Path]) -> None:
    from PIL import Image

    from alexnet.pipeline.augment import centre_square

    classifier = load_classifier(checkpoints[1], torch.device("cpu"))
    classifier.model.eval()
    paths = paths_of(open_dataset(colour_tree, "val"))
    pixels = np.stack([centre_square(np.asarray(Image.open(path))) for path in paths])
    expected = probabilities([classifier], torch.from_numpy(pixels.astype(np.uint8)), 1)
    np.testing.assert_allclose(np.load(saved[1]), expected, atol=5e-3)
