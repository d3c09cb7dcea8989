"""What is exported computes what the network does: in torchvision's layers, from safetensors, in onnxruntime."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from networks import SMALL, TheirAlexNet
from runs import invoke
from safetensors import safe_open

from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import UserError
from alexnet.pipeline.squares import squares
from alexnet.pipeline.treatment import IMAGENET_MEAN, IMAGENET_STD
from alexnet.train.checkpoint import Checkpoint, save
from alexnet.train.classifier import load_classifier
from alexnet.train.config import Config
from alexnet.train.export import onnx_check
from alexnet.train.export.onnx_check import drawn_squares
from alexnet.train.features import fingerprint
from alexnet.train.network.model import AlexNet, initialise
from alexnet.train.published import to_torchvision

pytestmark = pytest.mark.usefixtures("quiet_machine")

COLOURS = ["blue", "green", "red"]


def checkpoint(preset: str = "paper", classes: list[str] | None = None, **changes: Any) -> Checkpoint:
    """A network with drawn weights that is treated as its preset says."""
    config = Config.from_preset(preset, **{**SMALL, **changes})
    rng = np.random.default_rng(3)
    mean, divisor = rng.uniform(80, 140, (config.crop, config.crop, 3)).astype(np.float32), np.ones(3, np.float32)
    if config.scaling == "imagenet":
        mean, divisor = IMAGENET_MEAN, IMAGENET_STD
    model = AlexNet(config, len(classes or COLOURS))
    initialise(model, 0)
    return Checkpoint(
        config=config,
        classes=classes or COLOURS,
        words={"red": "the colour of blood"},
        epoch=2,
        step=8,
        model=model.state_dict(),
        arrays={"mean": mean, "divisor": divisor},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a network of two towers."""
    path = tmp_path_factory.mktemp("saved") / "two-towers.npz"
    save(path, checkpoint("original"))
    return path


# -- torchvision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", ["inverted", "mask"])
def test_torchvisions_network_takes_the_weights_and_its_users_images(
    dropout: str, colour_tree: Path, tmp_path: Path
) -> None:
    """Equal in float64, of pixels normalised as torchvision's users do it; and as good when evaluated."""
    ours, file = tmp_path / "owt.npz", tmp_path / "owt.pth"
    save(ours, checkpoint("owt", width=1.0, dropout_style=dropout))
    invoke("export", ours, "--to", "torchvision", "--out", file)
    with torch.device("meta"):
        theirs = TheirAlexNet(3).eval()
    theirs.load_state_dict(torch.load(file, weights_only=True), assign=True)
    pixels = drawn_squares(2)[:, 16:240, 16:240]
    normalised = (pixels.double() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    network = load_classifier(ours)
    treated = (pixels.double() - torch.from_numpy(IMAGENET_MEAN)) / torch.from_numpy(IMAGENET_STD)
    with torch.no_grad():
        expected = network.model.double()(treated.permute(0, 3, 1, 2))
        torch.testing.assert_close(theirs.double()(normalised.permute(0, 3, 1, 2)), expected, rtol=1e-6, atol=1e-6)
    del network, theirs
    assert (tmp_path / "classes.txt").read_text().split() == COLOURS
    errors = [json.loads(invoke("evaluate", path, colour_tree, "--json").stdout) for path in (ours, file)]
    for key in ("num_images", "top1_error", "top5_error"):
        assert errors[0][key] == errors[1][key]
    assert errors[0]["loss"] == pytest.approx(errors[1]["loss"], rel=1e-5)


def test_torchvisions_names_and_shapes() -> None:
    with torch.device("meta"):
        model = AlexNet(Config.from_preset("owt"), 1000).state_dict()
        theirs = TheirAlexNet(1000).state_dict()
    saved = Checkpoint(config=Config.from_preset("owt"), classes=["?"] * 1000, epoch=0, step=0, model=model)
    found = {name: tuple(tensor.shape) for name, tensor in to_torchvision(saved).items()}
    assert found == {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert found["features.3.weight"] == (192, 64, 5, 5)
    assert found["classifier.6.bias"] == (1000,)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        (
            "paper",
            {"width": 1.0},
            r"--groups 1,2,1,2,2, not 1,1,1,1,1; --channels .*; --lrn, not --no-lrn, and more\.",
        ),
        ("owt", {}, r"has --width 0.0625, not 1.0\. Choose --to safetensors or --to onnx, which hold any network\."),
        ("owt", {"width": 1.0, "scaling": "raw"}, r"--scaling raw, not imagenet\."),
        ("owt", {"width": 1.0, "activation": "tanh"}, r"--activation tanh, not relu\."),
    ],
)
def test_what_torchvision_cannot_express(preset: str, changes: dict[str, Any], message: str) -> None:
    config = Config.from_preset(preset, **{**SMALL, **changes})
    with pytest.raises(UserError, match=message):
        to_torchvision(Checkpoint(config=config, classes=["a"], epoch=0, step=0, model={}))


@pytest.mark.parametrize("classes", [COLOURS, ["0", "1", "2"]])
def test_names_of_other_classes_are_not_replaced(
    classes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.train.export.export.to_torchvision", lambda saved: {"x": torch.zeros(1)})
    path, names = tmp_path / "a.npz", tmp_path / "classes.txt"
    save(path, checkpoint(classes=classes))
    names.write_text("cyan\n")
    said = invoke("export", path, "--to", "torchvision", "--out", tmp_path / "a.pth", code=1).stderr
    assert said == f"Error: {names} names other classes than this network's: choose another folder with --out.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "classes.txt"]
    assert names.read_text() == "cyan\n"


# -- safetensors ------------------------------------------------------------------------------------------------


def test_safetensors_hold_the_network(saved: Path, tmp_path: Path) -> None:
    """Every tensor to the bit, both towers, and what is to be known of them; twice the same file."""
    files = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for file in files:
        invoke("export", saved, "--to", "safetensors", "--out", file)
    assert len({hashlib.sha256(file.read_bytes()).digest() for file in files}) == 1
    ours = checkpoint("original")
    with safe_open(files[0], framework="pt") as file:
        about = json.loads(file.metadata()["alexnet"])
        assert {*file.keys()} == {*ours.model, "treatment.mean", "treatment.divisor"}
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in ours.model.items())
        np.testing.assert_array_equal(file.get_tensor("treatment.mean"), ours.arrays["mean"])
    assert (about["preset"], about["classes"], about["step"]) == ("original", COLOURS, 8)
    assert Config.from_dict(about["config"]) == ours.config
    read = load_classifier(files[0])
    assert fingerprint(read) == fingerprint(load_classifier(saved))
    assert (read.words, read.published) == (ours.words, False)


@pytest.fixture(scope="module")
def exported(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "two-towers.safetensors"
    invoke("export", saved, "--to", "safetensors", "--out", file)
    return file


@pytest.mark.parametrize(
    "command",
    [
        "evaluate CKPT DATA --json --views 10",
        "predict CKPT IMAGE --json",
        "figure activations CKPT IMAGE --out OUT.png",
        "figure kernels CKPT --out OUT.png --json",
    ],
)
def test_commands_read_safetensors_back(
    command: str, saved: Path, exported: Path, colour_tree: Path, tmp_path: Path
) -> None:
    """What they print is the same but for the file's name."""
    printed = set()
    for file in (saved, exported):
        places = {"CKPT": file, "DATA": colour_tree, "IMAGE": colour_tree / "val/red/0.JPEG"}
        words = [places.get(word, word.replace("OUT", str(tmp_path / "out"))) for word in command.split()]
        printed.add(invoke(*words).stdout.replace(str(file), "CKPT"))
    assert len(printed) == 1


def test_features_and_new_runs_take_safetensors(saved: Path, exported: Path, colour_tree: Path, tmp_path: Path) -> None:
    arrays, runs = [], []
    for name, file in (("ours", saved), ("theirs", exported)):
        invoke("features", file, colour_tree, "--out", tmp_path / f"{name}-fc7")
        arrays.append(np.load(tmp_path / f"{name}-fc7/features.npy"))
        small = ("--preset", "original", "--width", SMALL["width"], "--batch-size", 6, "--epochs", 1, "--views", 1)
        invoke("train", colour_tree, "--run", tmp_path / name, *small, "--init-from", file)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        runs.append([json.loads(line).get("loss") for line in lines])
    np.testing.assert_array_equal(*arrays)
    assert runs[0] == runs[1]


def test_torchvisions_weights_stay_what_they_are(tmp_path: Path) -> None:
    """As safetensors, too, their numbers are those of ImageNet's synsets in their order."""
    from alexnet.train.safe_tensors import load_safetensors, save_safetensors

    numbered = checkpoint("owt", list(map(str, range(1000))))
    for published in (True, False):
        path = tmp_path / f"{published}.safetensors"
        save_safetensors(path, Checkpoint(**{**vars(numbered), "published": published}))
        assert load_safetensors(path).published == published
        assert load_classifier(path).published == published


# -- ONNX -------------------------------------------------------------------------------------------------------


def test_files_of_images_have_the_probabilities_that_evaluate_saves(
    saved: Path, colour_tree: Path, tmp_path: Path
) -> None:
    """From JPEG to probability, in the class order of the metadata."""
    out = tmp_path / "net.onnx"
    printed = json.loads(invoke("export", saved, "--to", "onnx", "--out", out, "--json").stdout)
    assert printed["files"] == [str(out)]
    assert printed["input"].startswith("uint8 (N, 224, 224, 3), RGB")
    assert printed["agreement"]["num_images"] == printed["agreement"]["same_top5"] == 100
    invoke("evaluate", saved, colour_tree, "--save-probabilities", tmp_path / "p.npy")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == COLOURS
    assert about["preset"] == "original"
    val = open_dataset(colour_tree, "val")
    (batch,) = squares(val, np.arange(len(val)), batch_size=len(val), settings=Settings(threads=1), bad={})
    (logits,) = session.run(None, {"images": batch.pixels[:, 16:240, 16:240].numpy()})
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, np.load(tmp_path / "p.npy"), atol=1e-5)


def test_a_graph_that_computes_something_else_is_not_written(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_check, "TOLERANCE", 0.0)
    out = tmp_path / "net.onnx"
    said = invoke("export", saved, "--to", "onnx", "--out", out, code=1).stderr
    assert said.startswith("Error: onnxruntime computes other logits than this network, by up to ")
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    invoke("export", saved, "--to", "onnx", "--out", out, "--no-check")
    assert out.exists()


# -- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "torchvision", "--out", "a.onnx"], "--out a.onnx: a file for torchvision ends in .pth or .pt."),
        (["--to", "onnx", "--out", "a.onnx"], "a.onnx exists already: delete it, or choose another name with --out."),
        (["--to", "safetensors"], "two-towers.safetensors exists already: delete it, or choose another name"),
    ],
)
def test_where_nothing_is_written(
    words: list[str], message: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taken = [Path("a.onnx"), Path("two-towers.safetensors")]
    for path in taken:
        path.write_text("mine")
    assert message in invoke("export", saved, *words, code=1).stderr
    assert [path.read_text() for path in taken] == ["mine", "mine"]
    assert {*Path().iterdir()} == {*taken}


@pytest.mark.parametrize("option", ["--input=uint8", "--no-check"])
def test_options_of_another_format(option: str, saved: Path) -> None:
    assert "are for --to onnx" in invoke("export", saved, "--to", "safetensors", option, code=2).output


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("safetensors", ["--to", "safetensors"]),
        ("onnx", ["--to", "onnx"]),
        ("onnxruntime", ["--to", "onnx"]),
    ],
)
def test_a_missing_package(
    package: str, words: list[str], saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.numpy", raising=False)
    (said,) = invoke("export", saved, *words, code=1).stderr.splitlines()
    assert f" needs the package {package} (" in said
    assert said.endswith("Install it from the source folder: pip install --editable '.[export]'")
    assert not list(tmp_path.iterdir())


def test_a_run_does_not_resume_from_a_network_alone(exported: Path, colour_tree: Path, tmp_path: Path) -> None:
    said = invoke("train", colour_tree, "--run", tmp_path / "run", "--resume", exported, code=1).stderr
    assert (
        said
        == f"Error: --resume: {exported} holds a network, not its run. Begin a new run with --init-from {exported}.\n"
    )


def test_reading_without_the_package(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=rf"^{exported} needs the package safetensors .*'\.\[export\]'$"):
        load_classifier(exported)
