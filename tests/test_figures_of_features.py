"""Neighbours and embeddings: what they show against plain numpy, that they show it, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import CPU, ONE_THREAD, invoke, paths_of

from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import UserError
from alexnet.train.checkpoint import Checkpoint, save
from alexnet.train.classifier import load_classifier
from alexnet.train.config import Config
from alexnet.train.feature_folder import open_features
from alexnet.train.figures.drawing import rendered
from alexnet.train.figures.embedding import Embedding, draw_embedding, embed, paste, shown, side
from alexnet.train.figures.neighbours import Neighbourhoods, Pictured, draw_neighbours, nearest_in_pixels
from alexnet.train.figures.pictures import pictures
from alexnet.train.kept_features import images_of, kept_features, rows_of
from alexnet.train.network.model import AlexNet, initialise

pytestmark = pytest.mark.usefixtures("quiet_machine")
COLOURS = ("blue", "green", "red")
ONE_THREAD_LENIENT = Settings(threads=1, readers=1, max_bad=0.5)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 256-pixel images, so that pixels are Pillow's; a bad one among the training images."""
    root, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(4)
    for split, count in (("train", 4), ("val", 2)):
        for channel, name in enumerate(COLOURS):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                coarse = rng.integers(0, 150, (8, 8, 3), dtype=np.uint8)
                coarse[..., 2 - channel] += 100
                image = Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)
                image.save(root / split / name / f"{i}.JPEG", quality=90)
    (root / "train/green/1.JPEG").write_text("no picture")
    return root


def write_network(path: Path, seed: int = 5, classes: tuple[str, ...] = COLOURS) -> Path:
    config = Config(width=0.02, init="torch")
    model = AlexNet(config, len(classes))
    initialise(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
    arrays = {"mean": np.full((224, 224, 3), 110, np.float32), "divisor": np.ones(3, np.float32)}
    state = dict(model.state_dict())
    save(path, Checkpoint(config=config, classes=list(classes), epoch=1, step=1, model=state, arrays=arrays))
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("network") / "net.npz")


def centres(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path))[16:240, 16:240] for path in paths])


# -- features that are kept, pictures, pixels ---------------------------------------------------------------


def test_features_are_computed_once_and_said_where(network: Path, tree: Path, tmp_path: Path) -> None:
    classifier, val = load_classifier(network, CPU), open_dataset(tree, "val")
    said: list[str] = []
    how: dict[str, Any] = {"device": CPU, "settings": ONE_THREAD, "announce": said.append}
    first = kept_features(classifier, val, tmp_path, **how)
    assert said == [f"fc7 of 6 val images goes into {tmp_path}/val (0.0 MB)."]
    assert (first.array.shape, str(first.array.dtype)) == ((6, 80), "float16")
    np.testing.assert_array_equal(kept_features(classifier, val, tmp_path, **how).array, first.array)
    np.testing.assert_array_equal(kept_features(classifier, val, None, **how).array, first.array)
    kept_features(classifier, val, None, **how)
    assert len(said) == 2
    assert re.search(r"features/[0-9a-f]{32}-[0-9a-f]{32}-fc7 \(", said[1])
    other = load_classifier(write_network(tmp_path / "other.npz", seed=6), CPU)
    with pytest.raises(UserError, match=r"val holds features with another network. Use another folder."):
        kept_features(other, val, tmp_path, **how)
    (tmp_path / "val/features.npy").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"features.npy is damaged or cut short"):
        kept_features(classifier, val, tmp_path, **how)


def test_the_cache_keeps_those_of_each_way_of_decoding(network: Path, tree: Path) -> None:
    """A report decodes as its run did, a figure as it is told."""
    classifier, val, said = load_classifier(network, CPU), open_dataset(tree, "val"), list[str]()
    for _ in range(2):
        said.clear()
        for settings in (ONE_THREAD, replace(ONE_THREAD, decode="fast"), replace(ONE_THREAD, max_pixels=10**6)):
            found = kept_features(classifier, val, None, device=CPU, settings=settings, announce=said.append)
            assert (found.about.decode, found.about.max_pixels) == (f"{settings.decode}, cpu", settings.max_pixels)
    assert not said  # nothing is computed again


def test_features_of_the_features_command_serve_too(network: Path, tree: Path, tmp_path: Path) -> None:
    """They are float32."""
    invoke("features", network, tree, "--out", tmp_path / "val", "--threads", 1)
    found = kept_features(
        load_classifier(network, CPU), open_dataset(tree, "val"), tmp_path, device=CPU, settings=ONE_THREAD
    )
    assert found.array.dtype == np.float32


def test_pictures_are_central_views(tree: Path) -> None:
    val = open_dataset(tree, "val")
    expected = centres(paths_of(val))
    some = np.array([[4, 0], [0, 5]])
    np.testing.assert_array_equal(pictures(val, some, ONE_THREAD), expected[some])
    small = expected[some].reshape(2, 2, 56, 4, 56, 4, 3).mean((3, 5))
    assert np.abs(pictures(val, some, ONE_THREAD, 56) - small).max() <= 0.5


def test_pixels_are_searched_exactly(tree: Path) -> None:
    train, val = open_dataset(tree, "train"), open_dataset(tree, "val")
    usable = np.delete(np.arange(12), 5)  # without green/1
    queries, rows = centres(paths_of(val)), centres([paths_of(train)[i] for i in usable])
    found = nearest_in_pixels(queries, train, usable, 4, ONE_THREAD)
    distances = np.linalg.norm((queries[:, None] - rows.astype(np.float64)).reshape(6, 11, -1), axis=2)
    order = np.argsort(distances, axis=1)[:, :4]
    np.testing.assert_array_equal(found.indices, usable[order])
    np.testing.assert_allclose(found.distances, np.take_along_axis(distances, order, 1), rtol=1e-12)


# -- neighbours ---------------------------------------------------------------------------------------------


def test_the_figure_names_and_marks_neighbours() -> None:
    rng = np.random.default_rng(0)

    def pictured(labels: list[Any]) -> Pictured:
        shape = (*np.shape(labels), 224, 224, 3)
        return Pictured(rng.integers(256, size=shape, dtype=np.uint8), np.array(labels))

    near, far = pictured([[0, 0, 1], [1, 0, 1]]), pictured([[1, 1, 1], [0, 0, 0]])
    found = Neighbourhoods("fc7", ("$cat$", "dog"), pictured([0, 1]), near, far)
    assert (found.hits(near), found.hits(far)) == (4, 0)
    text = rendered(draw_neighbours(found, name="runs/first"), ".svg").decode()
    assert "fc7 4 of 6; pixels 0 of 6" in text
    tick, cross = "\N{CHECK MARK}", "\N{BALLOT X}"
    assert [text.count(f"{tick} {name}<") for name in ("$cat$", "dog")] == [2, 2]
    assert [text.count(f"{cross} {name}<") for name in ("$cat$", "dog")] == [4, 4]


def test_the_command_finds_what_numpy_finds(network: Path, tree: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "n.png", tmp_path / "kept"
    how = ["--out", out, "--features", kept, "--threads", 1, "--max-bad", 0.1]
    found = json.loads(invoke("figure", "neighbours", network, tree, *how, "--json").stdout)
    with Image.open(out) as drawn:
        assert drawn.width == 1360
    val, train = open_features(kept / "val"), open_features(kept / "train")
    rows, names = train.array.astype(np.float64), np.array(train.names)
    assert len(found["queries"]) == 5
    assert {query["class"] for query in found["queries"]} == {*COLOURS}
    same = 0
    for query in found["queries"]:
        own = val.array[val.names.index(query["query"])].astype(np.float64)
        distances = np.linalg.norm(rows - own, axis=1)
        order = np.argsort(distances, kind="stable")[:6]
        assert [near["name"] for near in query["fc7"]] == names[order].tolist()
        assert [near["distance"] for near in query["fc7"]] == pytest.approx(distances[order])
        assert [near["class"] for near in query["pixels"]] == [n["name"].split("/")[1] for n in query["pixels"]]
        same += sum(near["class"] == query["class"] for near in query["pixels"])
    assert found["of_the_same_class"]["pixels"] == same
    named = invoke("figure", "neighbours", network, tree, *how, "--images", "red/1.JPEG,val/blue/0.JPEG").stdout
    assert "of 12 are of the query's class" in named


def test_what_neighbours_cannot_show_is_refused(network: Path, tree: Path, tmp_path: Path) -> None:
    train = open_dataset(tree, "train")
    features = kept_features(
        load_classifier(network, CPU), train.subset(np.arange(3, 6)), tmp_path, device=CPU, settings=ONE_THREAD_LENIENT
    )
    assert images_of(features, train.subset(np.arange(3, 6))).tolist() == [0, 1]
    with pytest.raises(UserError, match=r"green/1.JPEG cannot be used: text, not an image. Name another image."):
        rows_of(features, train.subset(np.arange(3, 6)), np.array([0, 2]))
    few = tmp_path / "few"
    for split, count in (("train", 2), ("val", 1)):
        for name in COLOURS:
            (few / split / name).mkdir(parents=True)
            for i in range(count):
                (few / split / name / f"{i}.JPEG").write_bytes((tree / "val" / name / "0.JPEG").read_bytes())
    how = ["--out", tmp_path / "n.png", "--threads", 1]
    assert "has 3 val images, but the figure needs 5" in one_line("neighbours", network, few, *how)
    assert "an embedding needs" in one_line("embedding", network, few, *how).lower()
    assert "has no image cat.jpg" in one_line("neighbours", network, tree, *how, "--images", "cat.jpg")


def one_line(name: str, *arguments: Any) -> str:
    """What an error says, in one line of any length."""
    return " ".join(invoke("figure", name, *arguments, code=1).stderr.split())


# -- embedding ----------------------------------------------------------------------------------------------


def test_an_embedding_keeps_clusters_together_and_follows_its_seed() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(3), 30)
    features = (10 * np.eye(3)[clusters] @ rng.standard_normal((3, 70)) + rng.standard_normal((90, 70))).astype("f2")
    places = embed(features, 1)
    assert places.min(0).tolist() == [0, 0]
    assert places.max(0).tolist() == [1, 1]
    apart = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(90)
    assert (clusters[apart.argmin(1)] == clusters).all()
    np.testing.assert_array_equal(embed(features, 1), places)
    assert (embed(features, 2) != places).any()
    with pytest.raises(UserError, match="at least 5 images; there are 4"):
        embed(features[:4], 1)


@pytest.mark.parametrize("num", [5, 200, 5000])
def test_no_picture_covers_another_and_none_is_left_out_needlessly(num: int) -> None:
    places, size = np.random.default_rng(num).random((num, 2)), side(num)
    chosen = shown(places, size)
    apart = np.abs(places[:, None] - places[chosen]).max(2)
    apart[np.flatnonzero(chosen), np.arange(chosen.sum())] = 9
    assert (apart[chosen] >= size).all()
    assert (apart[~chosen].min(1, initial=9) < size).all()
    assert chosen.sum() > min(num, 50) / 2


def test_pictures_lie_at_their_places() -> None:
    sheet = paste(np.full((2, 8, 8, 3), [[[[9, 8, 7]]], [[[90, 80, 70]]]], np.uint8), np.array([[0, 0], [1, 0.5]]), 0.1)
    rows, columns = np.nonzero(sheet[..., 3])
    assert (sheet.shape, len(rows)) == ((1360, 1360, 4), 2 * 136**2)
    assert sheet[-1, 0].tolist() == [9, 8, 7, 255]  # the bottom left
    assert sheet[680, -1].tolist() == [90, 80, 70, 255]
    assert columns.max() == 1359


@pytest.mark.parametrize("num_classes", [3, 40])
def test_marks_tell_classes_apart_if_they_are_few(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(120, 8, 8, 3), dtype=np.uint8)
    classes = [f"class {i}" for i in range(num_classes)]
    figure = draw_embedding(Embedding("fc7", rng.random((120, 2)), np.arange(120) % num_classes, classes, pixels))
    lines = figure.axes[0].lines
    looks = {(line.get_color(), line.get_marker()) for line in lines}
    assert len(looks) == (3 if num_classes == 3 else 1)
    text = rendered(figure, ".svg").decode()
    assert (">class 1<" in text) == (num_classes == 3)
    chosen = int(re.findall(r"120 validation images, (\d+) of them as pictures", text)[0])
    assert sum(len(np.asarray(line.get_xdata())) for line in lines) == 120 - chosen


def test_the_embedding_command(network: Path, tree: Path, tmp_path: Path) -> None:
    said = invoke("figure", "embedding", network, tree, "--out", tmp_path / "e.svg", "--num", 5, "--threads", 1).stderr
    assert "5 images" in said
    assert "5 validation images" in (tmp_path / "e.svg").read_text()
