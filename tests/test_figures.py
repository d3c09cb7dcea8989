"""The figures: what they show against plain numpy, that they show it, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from runs import CPU, ONE_THREAD, invoke
from torch import nn

from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.errors import UserError
from alexnet.train.checkpoint import Checkpoint, save
from alexnet.train.classifier import load_classifier
from alexnet.train.config import Config
from alexnet.train.figures import predictions
from alexnet.train.figures.activations import activations_of, draw_activations, grey_centred, strongest
from alexnet.train.figures.drawing import PALETTE, class_labels, rendered, save_figure, shorten
from alexnet.train.figures.kernels import Kernels, conv1_kernels, draw_kernels, mosaic
from alexnet.train.figures.predictions import Panel, choose_images, draw_predictions, find_images, predict_panel
from alexnet.train.network.model import AlexNet, initialise

pytestmark = pytest.mark.usefixtures("quiet_machine")

CLASSES = ("n0", "n1", "n2", "n3", "n4", "n5")
WORDS = {"n0": "crane, bird", "n1": "crane, machine", "n2": "kite, bird", "n3": "$5, a note", "n4": "eel", "n5": "eel"}
LABELS = ("crane, bird", "crane, machine", "kite", "$5", "eel (n4)", "eel (n5)")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`val/` of six classes of two images, of 256 pixels: nothing is resampled, so the pixels are Pillow's."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(12)
    for name in CLASSES:
        (root / "val" / name).mkdir(parents=True)
        for i in range(2):
            coarse = Image.fromarray(rng.integers(256, size=(9, 9, 3), dtype=np.uint8))
            coarse.resize((256, 256), Image.Resampling.BICUBIC).save(root / "val" / name / f"{i}.JPEG")
    return root


def write_checkpoint(path: Path, classes: tuple[str, ...] = CLASSES, **numbers: Any) -> Path:
    """A network that was never trained, but whose layers have something to say."""
    config = Config(width=0.02, init="torch", **numbers)
    model = AlexNet(config, len(classes))
    initialise(model, 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
    arrays = {"mean": np.full((224, 224, 3), 110, np.float32), "divisor": np.array([1, 2, 3], np.float32)}
    state, words = dict(model.state_dict()), {name: WORDS[name] for name in classes}
    save(path, Checkpoint(config=config, classes=[*classes], words=words, epoch=1, step=1, model=state, arrays=arrays))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "paper.npz")


def plainly(checkpoint: Path, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The central view less its mean (224, 224, 3), conv2's rectified maps and the probabilities, all in float64."""
    classifier = load_classifier(checkpoint, CPU)
    model = AlexNet(classifier.model.config, len(classifier.classes)).double().eval()
    model.load_state_dict(classifier.model.state_dict())
    kept: list[torch.Tensor] = []
    model.conv2.register_forward_hook(lambda module, inputs, output: kept.append(output.clone()))
    x = (np.asarray(Image.open(path))[16:240, 16:240] - classifier.treatment.mean) / classifier.treatment.divisor
    with torch.no_grad():
        logits = model(torch.from_numpy(x.astype(np.float64).transpose(2, 0, 1)[None]))
    return x, nn.functional.relu(kept[0][0]).numpy(), logits.softmax(1)[0].numpy()


def pixels_of(figure: Figure, path: Path) -> np.ndarray:
    """As drawn, uint8 (H, W, 3)."""
    save_figure(figure, path.with_suffix(".png"))
    return np.asarray(Image.open(path.with_suffix(".png")).convert("RGB"))


def text_of(figure: Figure) -> str:
    return rendered(figure, ".svg").decode()


def count(pixels: np.ndarray, colour: str) -> int:
    """How many pixels have it."""
    return int((np.abs(pixels / 255 - to_rgb(colour)) < 0.01).all(-1).sum())


# -- what they share ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml")])
def test_a_figure_becomes_the_file_its_suffix_names(tmp_path: Path, ending: str, magic: bytes) -> None:
    figure, path = Figure(), tmp_path / f"new/figure{ending}"
    figure.text(0.1, 0.5, "\N{CJK UNIFIED IDEOGRAPH-732B}")  # no glyph in the font: no warning
    save_figure(figure, path)
    assert path.read_bytes().startswith(magic)
    assert rendered(figure, ending.lower()) == rendered(figure, ending.lower())


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"figure.gif must end in one of .png, .pdf, .svg"):
        save_figure(Figure(), tmp_path / "figure.gif")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"The folder of .*file/figure.png cannot be written"):
        save_figure(Figure(), tmp_path / "file/figure.png")


def test_names_are_drawn_as_one_line() -> None:
    assert shorten("great white shark, white shark, man-eater", 20) == "great white shark\N{HORIZONTAL ELLIPSIS}"
    assert shorten("a\nb\x1b\udcff", 9) == "a\N{REPLACEMENT CHARACTER}b" + 2 * "\N{REPLACEMENT CHARACTER}"


# -- kernels ------------------------------------------------------------------------------------------------


def test_colour_is_the_distance_from_the_nearest_grey() -> None:
    """Found by a search for that grey; the scale of the pictures does not matter."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32)
    weight[:2] = weight[:2, :1]  # tower 0 is grey
    found = [conv1_kernels(weight, 2, per_kernel=per_kernel) for per_kernel in (False, True)]
    greys = np.linspace(-4, 4, 8001)
    span = weight.max() - weight.min()
    for kernel, colour in zip(weight, found[0].colour, strict=True):
        triples = kernel.reshape(3, -1).T
        nearest = [min(np.sqrt(((t - g) ** 2).sum()) for g in greys[np.abs(greys - t.mean()) < 0.1]) for t in triples]
        assert colour == pytest.approx(np.mean(nearest) / span, abs=1e-4)
    squares = ((weight - weight.mean(1, keepdims=True)) ** 2).sum((1, 2, 3)), (weight**2).sum((1, 2, 3))
    shares = [squares[0][part].sum() / squares[1][part].sum() for part in (slice(2), slice(2, 4))]
    assert found[0].colour_shares == pytest.approx(shares, abs=1e-6)
    np.testing.assert_array_equal(found[0].colour, found[1].colour)


def test_kernels_share_one_scale_or_have_their_own() -> None:
    weight = np.random.default_rng(1).normal(size=(3, 3, 4, 4))
    weight[2] = 0.5  # a dead one
    shared, own = (conv1_kernels(weight, 1, per_kernel=per_kernel).pictures for per_kernel in (False, True))
    expected = (weight - weight.min()) / (weight.max() - weight.min())
    np.testing.assert_allclose(shared, np.moveaxis(expected, 1, -1))
    for kernel, picture in zip(weight[:2], own, strict=False):
        np.testing.assert_allclose(picture[..., 1], (kernel[1] - kernel.min()) / np.ptp(kernel))
    assert np.all(own[2] == 0.5)


def test_kernels_are_set_in_rows() -> None:
    sheet = mosaic(np.arange(5)[:, None, None, None] / 10 * np.ones((1, 2, 2, 3)), 3)
    assert sheet.shape == (5, 8, 3)
    np.testing.assert_allclose(sheet[0, :, 0], [0, 0, 1, 0.1, 0.1, 1, 0.2, 0.2])
    np.testing.assert_allclose(sheet[4, :, 0], [0.3, 0.3, 1, 0.4, 0.4, 1, 1, 1])


def test_towers_are_drawn_above_each_other(tmp_path: Path) -> None:
    pictures = np.repeat(np.array([[1, 0, 0], [0, 0, 1]], np.float64), 16, 0)[:, None, None] * np.ones((1, 11, 11, 1))
    figure = draw_kernels(Kernels(pictures, np.linspace(0.1, 0.2, 32), (0.25, 0.75)), name="runs/first")
    pixels = pixels_of(figure, tmp_path / "kernels")
    red, blue = (np.flatnonzero((pixels == colour).all(-1).any(1)) for colour in ([255, 0, 0], [0, 0, 255]))
    gap = pixels[red.max() + 1 : blue.min()]
    assert (gap == 255).all(axis=(1, 2)).sum() > 10, "white rows between the towers"
    assert all(count(pixels, colour) > 50 for colour in PALETTE[:2])
    text = text_of(figure)
    assert "32 kernels of 11x11 pixels; runs/first" in text
    assert "tower 1: mean 0.176; colour is 75% of its squared weights" in text
    assert "ower" not in text_of(draw_kernels(Kernels(pictures, np.ones(32), (0.5,))))


def test_the_command_says_how_much_colour_there_is(checkpoint: Path, tmp_path: Path) -> None:
    found = json.loads(invoke("figure", "kernels", checkpoint, "--out", tmp_path / "k.svg", "--json").stdout)
    weight = load_classifier(checkpoint, CPU).model.conv1.weight.detach().numpy()
    kernels = conv1_kernels(weight, 2)
    for tower, record in enumerate(found["towers"]):
        assert record["mean_distance_from_grey"] == pytest.approx(kernels.colour_of(tower).mean())
        assert record["num_kernels"] == len(weight) // 2
    assert "Tower 1" in (tmp_path / "k.svg").read_text()
    text = invoke("figure", "kernels", checkpoint, "--out", tmp_path / "k.png", "--per-kernel").stdout
    assert all(f"{share:.1%}" in text for share in kernels.colour_shares)


# -- activations --------------------------------------------------------------------------------------------


def test_the_strongest_maps_have_the_largest_means() -> None:
    maps = np.random.default_rng(2).normal(size=(9, 4, 4)).astype(np.float32)
    maps[7] = maps[3]
    means = [float(np.mean(m)) for m in maps]
    assert strongest(maps, 4).tolist() == sorted(range(9), key=lambda i: (-means[i], i))[:4]
    assert len(strongest(maps, 20)) == 9


def test_activations_are_those_of_a_plain_forward_pass(checkpoint: Path, tree: Path) -> None:
    path = tree / "val/n2/0.JPEG"
    pixels = torch.from_numpy(np.asarray(Image.open(path)).copy())
    found = activations_of(load_classifier(checkpoint, CPU), pixels, ["conv2"])
    seen, conv2, probability = plainly(checkpoint, path)
    np.testing.assert_allclose(found.seen, seen, rtol=1e-5)
    np.testing.assert_array_equal(found.image, pixels[16:240, 16:240])
    (maps,) = found.maps
    assert maps.num_maps == len(conv2)
    assert maps.numbers.tolist() == np.argsort(-conv2.mean((1, 2)))[:8].tolist()
    np.testing.assert_allclose(maps.maps, conv2[maps.numbers], rtol=1e-3, atol=1e-4 * conv2.max())
    best = np.argsort(-probability)[:5]
    assert [name for name, _ in found.classes] == [LABELS[i] for i in best]
    assert [p for _, p in found.classes] == pytest.approx(probability[best], rel=1e-3)


def test_mid_grey_is_no_input() -> None:
    np.testing.assert_allclose(grey_centred(np.array([-50.0, 0, 25])), [0, 0.5, 0.75])
    np.testing.assert_allclose(grey_centred(np.zeros(2)), 0.5)


def test_activations_are_drawn_layer_by_layer(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    image, out = tree / "val/n0/1.JPEG", tmp_path / "a.svg"
    invoke("figure", "activations", checkpoint, image, "--out", out, "--threads", 1)
    text = out.read_text()
    assert all(f">{layer}</text>" in text for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5"))
    assert "norm1" not in text
    assert all(f">{layer}: " in text for layer in ("fc6", "fc7"))
    assert "Activations: 1.JPEG, by " in text


def test_signed_maps_and_left_out_layers_are_drawn(tree: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "late.npz", lrn_before_activation=True, without=("conv4",))
    found = activations_of(load_classifier(path, CPU), torch.zeros(256, 256, 3, dtype=torch.uint8))
    assert [maps.layer for maps in found.maps] == ["conv1", "conv2", "conv3", "conv5", "pool5"]
    assert found.maps[0].maps.min() < 0
    assert "fc7: " in text_of(draw_activations(found))


def test_what_has_no_maps_is_refused(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "a.png", "--threads", 1]
    image = tree / "val/n0/0.JPEG"
    message = invoke("figure", "activations", checkpoint, image, *out, "--layers", "conv1,fc6", code=1).stderr
    assert "This network has no layer 'fc6' with maps. It has conv1, norm1, pool1, conv2, " in message
    (tmp_path / "text.jpg").write_text("no picture")
    message = invoke("figure", "activations", checkpoint, tmp_path / "text.jpg", *out, code=1).stderr
    assert "text.jpg cannot be used: text, not an image" in message
    assert "There is no image file" in invoke("figure", "activations", checkpoint, "cat.jpg", *out, code=1).stderr


# -- predictions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 8, 20])
def test_images_are_of_different_classes_where_there_are_enough(classes: int) -> None:
    labels = np.random.default_rng(classes).permutation(np.arange(200) % classes)
    drawn = [choose_images(labels, 8, seed) for seed in range(20)]
    assert {len({*labels[chosen]}) for chosen in drawn} == {min(classes, 8)}
    assert all(len({*chosen.tolist()}) == 8 for chosen in drawn)
    assert len({tuple(chosen.tolist()) for chosen in drawn}) == 20
    assert drawn[3].tolist() == choose_images(labels, 8, 3).tolist()
    assert len({*np.concatenate(drawn).tolist()}) > 80, "any image may be drawn"


def test_a_panel_holds_what_the_network_predicts(checkpoint: Path, tree: Path) -> None:
    panel = predict_panel(load_classifier(checkpoint, CPU), open_dataset(tree, "val"), device=CPU, settings=ONE_THREAD)
    assert len({*panel.labels.tolist()}) == 6
    assert panel.classes == LABELS
    for i, name in enumerate(panel.names):
        _, _, probability = plainly(checkpoint, tree / name)
        best = np.argsort(-probability)[:5]
        assert panel.top[i].tolist() == best.tolist()
        np.testing.assert_allclose(panel.probabilities[i], probability[best], rtol=1e-3)
        assert CLASSES[panel.labels[i]] == Path(name).parent.name
        np.testing.assert_array_equal(panel.pixels[i], np.asarray(Image.open(tree / name)))


def test_the_right_class_is_marked_by_more_than_its_colour(tmp_path: Path) -> None:
    values = np.array([[0.5, 0.2, 0.1, 0.1, 0.1]] * 2)
    top, pixels = np.array([[0, 1, 2, 3, 4]] * 2), np.zeros((2, 256, 256, 3), np.uint8)
    found = Panel(("a", "b"), pixels, np.array([1, 5]), top, values, LABELS)
    text = text_of(draw_predictions(found))
    assert text.count("\N{CHECK MARK}") == 1
    assert "\N{CHECK MARK} crane, machine" in text
    assert text.count(">$5</text>") == 2
    assert text.count(">eel (n5)</text>") == 1, "the true class of the second image is none of the five"
    pixels_drawn = pixels_of(draw_predictions(found), tmp_path / "p")
    right, wrong = (count(pixels_drawn, colour) for colour in (predictions.RIGHT, predictions.WRONG))
    assert 0.05 < right / wrong < 0.2, "a bar of 20% among 180%, less the letters on it"


def test_named_images_are_shown_as_they_were_named(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    arguments = ["figure", "predictions", checkpoint, tree, "--threads", 1, "--out", tmp_path / "p.pdf"]
    found = json.loads(invoke(*arguments, "--images", "n4/1.JPEG,val/n0/0.JPEG", "--json").stdout)["images"]
    assert [record["image"] for record in found] == ["val/n4/1.JPEG", "val/n0/0.JPEG"]
    assert [record["class"] for record in found] == ["eel (n4)", "crane, bird"]
    assert [len(record["predictions"]) for record in found] == [5, 5]
    for names, message in {
        "1.JPEG": "has 6 images 1.JPEG. Name one by its whole path, such as val/n0/1.JPEG",
        "0.JPEG,9.JPEG": "has 6 images 0.JPEG",
        "9.JPEG": "has no image 9.JPEG",
    }.items():
        assert message in invoke(*arguments, "--images", names, code=1).stderr.replace("\n", " ")
    with pytest.raises(UserError, match=r"has no image N0/0.JPEG"):
        find_images(open_dataset(tree, "val"), ["N0/0.JPEG"])


def test_bad_images_give_way_until_there_are_too_few(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(tree, images)
    classifier, how = load_classifier(checkpoint, CPU), {"device": CPU, "settings": ONE_THREAD}
    for name in ("n0/0", "n1/0", "n1/1", "n3/1"):
        (images / f"val/{name}.JPEG").write_text("no picture")
    panel = predict_panel(classifier, open_dataset(images, "val"), **how)
    assert len({*panel.names}) == 8
    with pytest.raises(UserError, match=r"val/n3/1.JPEG: text, not an image. Name other images"):
        predict_panel(classifier, open_dataset(images, "val"), names=["n3/1.JPEG"], **how)
    (images / "val/n4/0.JPEG").write_text("no picture")
    with pytest.raises(UserError, match=r"images has 7 val images that can be used, but the figure shows 8"):
        predict_panel(classifier, open_dataset(images, "val"), **how)


def test_fewer_than_five_classes_are_refused(tree: Path, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "three.npz", CLASSES[:3])
    message = invoke("figure", "predictions", path, tree, "--out", tmp_path / "p.png", "--threads", 1, code=1).stderr
    assert message == "Error: The network knows 3 classes, but the figure shows the best 5.\n"


def test_a_class_is_called_by_as_few_words_as_tell_it_apart() -> None:
    assert class_labels(CLASSES, WORDS) == LABELS
    assert class_labels(CLASSES, {}) == CLASSES
