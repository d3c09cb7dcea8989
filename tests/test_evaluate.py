"""Evaluation against a plain second computation: Pillow, `augment.py`, numpy and the network itself."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import CPU, ONE_THREAD, paths_of, trainer
from torch import Tensor, nn

from alexnet.pipeline.augment import centre_square, crop_and_flip
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import from_files, open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import TooManyBadFiles
from alexnet.pipeline.treatment import Treatment
from alexnet.train.classifier import Classifier, load_classifier, predict, probabilities, views_of
from alexnet.train.config import Config
from alexnet.train.evaluate import evaluate, in_classes_of, topk_correct
from alexnet.train.network.model import AlexNet, initialise
from alexnet.train.parallel.mesh import Mesh

pytestmark = pytest.mark.usefixtures("quiet_machine")

COLOURS = ("blue", "green", "red")


def classifier(seed: int, classes: tuple[str, ...] = COLOURS) -> Classifier:
    """A network that was never trained, but whose weights are large enough to have opinions."""
    model = AlexNet(Config(width=0.02, init="torch", lrn=False), len(classes))
    initialise(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
    mean = np.random.default_rng(seed).uniform(90, 130, (224, 224, 3)).astype(np.float32)
    divisor = np.array([1, 2, 3], np.float32)
    return Classifier(model, Treatment(mean=mean, divisor=divisor), classes)


def run(classifiers: list[Classifier], dataset: Dataset, views: int = 1, batch: int = 4, **settings: Any) -> Any:
    return evaluate(
        classifiers,
        dataset,
        views=views,
        batch_size=batch,
        mesh=Mesh(),
        settings=Settings(**({"threads": 1, "readers": 1} | settings)),
    )


def plain_probabilities(classifiers: list[Classifier], path: Path, views: int) -> np.ndarray:
    """(classes,): one image, one view and one network at a time."""
    square = centre_square(np.asarray(Image.open(path).convert("RGB")))
    corners = [(16, 16, False)]
    if views == 10:
        places = [(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)]
        corners = [(top, left, flip) for top, left in places for flip in (False, True)]
    found = []
    for one in classifiers:
        for top, left, flip in corners:
            x = (crop_and_flip(square, top, left, flip) - one.treatment.mean) / one.treatment.divisor
            with torch.no_grad():
                logits = one.model.eval()(torch.from_numpy(x.transpose(2, 0, 1)[None])).numpy()[0].astype(np.float64)
            found.append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
    return np.mean(found, axis=0)


@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("batch", [1, 7, 18, 50])
def test_errors_and_loss_are_those_of_a_plain_computation(colour_tree: Path, views: int, batch: int) -> None:
    dataset, two = open_dataset(colour_tree, "train"), [classifier(1), classifier(2)]
    expected = np.array([plain_probabilities(two, path, views) for path in paths_of(dataset)])
    labels = [COLOURS.index(path.parent.name) for path in paths_of(dataset)]
    told: list[int] = []
    found = evaluate(
        two, dataset, views=views, batch_size=batch, mesh=Mesh(), settings=ONE_THREAD, progress=told.append
    )
    wrong = sum(int(p.argmax()) != label for p, label in zip(expected, labels, strict=True))
    assert 0 < wrong < 18, "a network that is always right or always wrong proves nothing"
    assert (found.num_images, found.views, found.bad) == (18, views, {})
    assert found.top1_error == pytest.approx(wrong / 18, abs=1e-12)
    assert found.top5_error == 0  # there are three classes
    assert found.loss == pytest.approx(-np.log(expected[range(18), labels]).mean(), abs=2e-2)
    assert (told[0], told[-1]) == (0, 18)
    assert told == sorted(told)


def test_the_network_is_left_as_it_was(colour_tree: Path) -> None:
    one = classifier(1)
    one.model.train()
    first = run([one], open_dataset(colour_tree, "val"))
    assert one.model.training
    one.model.eval()
    assert run([one], open_dataset(colour_tree, "val")) == first  # and dropout was off


class Says(nn.Module):
    """A network that gives the same logits to every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def test_probabilities_are_averaged_and_not_logits() -> None:
    plain = Treatment(mean=np.zeros(3, np.float32))
    a, b = (Classifier(Says(*logits), plain, COLOURS) for logits in ((21, 0, 20), (-20, 0.5, 0)))  # type: ignore
    found = probabilities([a, b], torch.zeros(2, 256, 256, 3, dtype=torch.uint8), 10)
    softmax = [np.exp(x) / np.exp(x).sum() for x in (np.array([21, 0, 20.0]), np.array([-20, 0.5, 0]))]
    np.testing.assert_allclose(found, np.tile(np.mean(softmax, axis=0), (2, 1)), rtol=1e-7)
    assert found.argmax(1).tolist() == [0, 0]
    assert int((torch.tensor([21, 0, 20.0]) + torch.tensor([-20, 0.5, 0])).argmax()) == 2  # logits say otherwise


@pytest.mark.parametrize("num_classes", [2, 5, 30])
def test_topk_against_a_full_sort(num_classes: int) -> None:
    rng = np.random.default_rng(num_classes)
    values, labels = rng.permuted(np.tile(np.arange(num_classes), (40, 1)), axis=1), rng.integers(num_classes, size=40)
    ranks = [(row > row[label]).sum() for row, label in zip(values, labels, strict=True)]
    found = topk_correct(torch.from_numpy(values), torch.from_numpy(labels))
    assert found.tolist() == [sum(r < 1 for r in ranks), sum(r < 5 for r in ranks)]


def test_ten_views_are_the_corners_the_centre_and_their_mirrors() -> None:
    assert views_of(1) == [(16, 16, False)]
    assert sorted(views_of(10)) == sorted(
        (top, left, mirror) for mirror in (False, True) for top, left in ((16, 16), (0, 0), (0, 32), (32, 0), (32, 32))
    )
    places = ((14, 14), (0, 0), (0, 29), (29, 0), (29, 29))  # of 227
    assert views_of(1, 227) == [(14, 14, False)]
    assert views_of(10, 227) == [(*place, mirror) for mirror in (False, True) for place in places]
    with pytest.raises(ValueError, match="views = 5: choose 1"):
        views_of(5)


def test_published_weights_know_imagenets_synsets_by_their_order(colour_tree: Path) -> None:
    """And those of a network that was trained on them; but a network that knows only numbers does not."""
    synsets = ("n01440764", *(f"n0{1500000 + i}" for i in range(998)), "n15075141")
    colours, numbers = open_dataset(colour_tree, "val"), tuple(map(str, range(1000)))
    dataset = replace(colours, classes=synsets, labels=colours.labels + 7, _descriptors={})
    subset = replace(dataset, classes=synsets[:-1], _descriptors={})
    network = classifier(1)
    numbered, named = replace(network, classes=numbers), replace(network, classes=synsets)
    published = replace(numbered, published=True)
    for known in ([published], [published, named], [named, published]):
        assert in_classes_of(known, dataset).labels.tolist() == dataset.labels.tolist()
    assert in_classes_of([named, published], subset).labels.tolist() == dataset.labels.tolist()
    for known, images in (([numbered], dataset), ([published], subset), ([numbered, named], dataset)):
        with pytest.raises(ValueError, match=r"know different classes|which the checkpoint does not have"):
            in_classes_of(known, images)


def test_a_bad_image_is_left_out_and_named(colour_tree: Path, tmp_path: Path) -> None:
    shutil.copytree(colour_tree, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "train")
    whole = open_dataset(colour_tree, "val")
    (tmp_path / "val/green/1.JPEG").write_text("no picture")
    found = run([classifier(1)], open_dataset(tmp_path, "val"), max_bad=0.5)
    paths = [path for path in paths_of(whole) if path != colour_tree / "val/green/1.JPEG"]
    expected = [plain_probabilities([classifier(1)], path, 1).argmax() for path in paths]
    wrong = sum(COLOURS[k] != path.parent.name for k, path in zip(expected, paths, strict=True))
    assert found.num_images == 8
    assert list(found.bad) == ["val/green/1.JPEG"]
    assert found.top1_error == pytest.approx(wrong / 8)
    with pytest.raises(TooManyBadFiles, match=r"1 of 9 images .*val/green/1.JPEG"):
        run([classifier(1)], open_dataset(tmp_path, "val"), max_bad=0.1)


def test_no_image_that_can_be_used(colour_tree: Path, tmp_path: Path) -> None:
    """However many may be bad."""
    (tmp_path / "val/red").mkdir(parents=True)
    (tmp_path / "val/red/0.JPEG").write_text("no picture")
    with pytest.raises(TooManyBadFiles, match=r"1 of 1 images .*0.JPEG"):
        run([classifier(1)], open_dataset(tmp_path, "val"), max_bad=1.0)


def test_a_network_that_is_wholly_sure_of_a_wrong_class_has_a_loss(colour_tree: Path) -> None:
    one = classifier(1)
    with torch.no_grad():
        one.model.fc8.bias.copy_(torch.tensor([1e4, 0, 0]))
    found = run([one], open_dataset(colour_tree, "val"))
    assert found.top1_error == pytest.approx(2 / 3)
    assert 100 < found.loss < 1e4


def test_other_classes_are_refused(colour_tree: Path) -> None:
    dataset = open_dataset(colour_tree, "val")
    with pytest.raises(ValueError, match=r"has the classes 'red', which the checkpoint does not .* Give a data set of"):
        run([classifier(1, ("blue", "green"))], dataset)
    with pytest.raises(ValueError, match=r"has '0', '1', '2'\). .* A classes.txt beside a .pth names its classes"):
        run([classifier(1, ("0", "1", "2"))], dataset)  # as many
    with pytest.raises(ValueError, match=r"know different classes .class 1: 'green' and 'grey'.: they cannot be"):
        run([classifier(1), classifier(1, ("blue", "grey", "red"))], dataset)
    with pytest.raises(ValueError, match=r"know different classes .class 0: 'blue' and 'a'.: they cannot be"):
        list(
            predict(
                [classifier(1), classifier(1, ("a", "b", "c"))],
                dataset,
                views=1,
                device=CPU,
                settings=ONE_THREAD,
                bad={},
            )
        )


@pytest.mark.parametrize("known", [("red", "blue", "green"), ("aqua", "blue", "green", "grey", "red", "zinc")])
def test_classes_are_matched_by_name(colour_tree: Path, known: tuple[str, ...]) -> None:
    """In another order, and among others: the network's own outputs decide which class an image is of."""
    dataset, one = open_dataset(colour_tree, "val"), classifier(3, known)
    expected = np.array([plain_probabilities([one], path, 1) for path in paths_of(dataset)])
    labels = [known.index(path.parent.name) for path in paths_of(dataset)]
    found = run([one], dataset)
    wrong = sum(int(p.argmax()) != label for p, label in zip(expected, labels, strict=True))
    assert found.top1_error == pytest.approx(wrong / 9)
    assert found.loss == pytest.approx(-np.log(expected[range(9), labels]).mean(), abs=2e-2)


def test_numbers_are_matched_to_more_numbers(colour_tree: Path, tmp_path: Path) -> None:
    for number, colour in ((2, "blue"), (10, "green"), (9, "red")):
        shutil.copytree(colour_tree / "val" / colour, tmp_path / "val" / f"{number:03d}")
    labels = in_classes_of([classifier(1, tuple(map(str, range(11))))], open_dataset(tmp_path, "val")).labels
    assert labels.tolist() == [2] * 3 + [9] * 3 + [10] * 3
    with pytest.raises(ValueError, match="has the classes '010', which the checkpoint does not have"):
        in_classes_of([classifier(1, tuple(map(str, range(10))))], open_dataset(tmp_path, "val"))


def test_predictions_are_the_probabilities_in_order(colour_tree: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.JPEG").write_bytes(b"")
    paths = [colour_tree / "val/red/0.JPEG", tmp_path / "broken.JPEG", colour_tree / "val/blue/2.JPEG"]
    bad: dict[int, str] = {}
    found = list(
        predict(
            [classifier(2)],
            from_files(paths),
            views=10,
            device=CPU,
            bad=bad,
            settings=Settings(threads=1, readers=1, max_bad=1.0),
            batch_size=2,
        )
    )
    assert bad == {1: "the file is empty"}
    assert [p.index for p in found] == [0, 2]
    for prediction in found:
        expected = plain_probabilities([classifier(2)], paths[prediction.index], 10)
        assert [name for name, _ in prediction.classes] == [COLOURS[i] for i in np.argsort(-expected)]
        np.testing.assert_allclose([p for _, p in prediction.classes], -np.sort(-expected), atol=5e-3)


def test_torchvisions_weights_are_evaluated_by_their_order(
    colour_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with torchvision's names, and its network written out: the same probabilities after its treatment."""
    torch.manual_seed(3)
    relu, pool = nn.ReLU(), nn.MaxPool2d(3, 2)
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2),
        relu,
        pool,
        nn.Conv2d(64, 192, 5, padding=2),
        relu,
        pool,
        nn.Conv2d(192, 384, 3, padding=1),
        relu,
        nn.Conv2d(384, 256, 3, padding=1),
        relu,
        nn.Conv2d(256, 256, 3, padding=1),
        relu,
        pool,
    )
    last = nn.Linear(4096, 3)
    head = nn.Sequential(nn.Dropout(), nn.Linear(9216, 4096), relu, nn.Dropout(), nn.Linear(4096, 4096), relu, last)
    with torch.no_grad():
        last.weight *= 60
    network = nn.ModuleDict({"features": features, "classifier": head}).eval()
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    loaded = load_classifier(tmp_path / "alexnet.pth", CPU)
    assert not loaded.published  # torchvision's have a thousand classes
    monkeypatch.setattr("alexnet.train.published.NUM_SYNSETS", 3)
    assert load_classifier(tmp_path / "alexnet.pth", CPU).published
    for number, colour in enumerate(COLOURS):
        shutil.copytree(colour_tree / "val" / colour, tmp_path / "val" / str(number))
    dataset = open_dataset(tmp_path, "val")
    expected = []
    for path in paths_of(dataset):
        crop = centre_square(np.asarray(Image.open(path)))[16:240, 16:240] / 255.0
        x = (crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        with torch.no_grad():
            logits = head(features(torch.from_numpy(x.transpose(2, 0, 1)[None]).float()).flatten(1))
        expected.append(logits.double().softmax(1)[0].numpy())
    labels = [int(path.parent.name) for path in paths_of(dataset)]
    found = run([loaded], dataset)
    assert found.top1_error == pytest.approx(np.mean([p.argmax() != k for p, k in zip(expected, labels, strict=True)]))
    assert found.loss == pytest.approx(-np.log(np.array(expected)[range(9), labels]).mean(), rel=0.02)


def test_predictions_say_classes_in_words(colour_tree: Path, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(colour_tree, tmp_path / "tree"))
    names = open_dataset(tree, "train").classes
    (tree / "words.txt").write_text(f"{names[0]}\tthe first thing\n")
    running = trainer(tree, tmp_path / "run", {"epochs": 1})
    running.fit()
    classifier = load_classifier(tmp_path / "run", torch.device("cpu"))
    images = from_files(sorted((tree / "val").rglob("*.JPEG"))[:2])
    found = predict([classifier], images, views=1, device=torch.device("cpu"), settings=Settings(), bad={})
    expected = {f"the first thing ({names[0]})", *names[1:]}
    assert [set(dict(p.classes)) for p in found] == [expected] * 2
