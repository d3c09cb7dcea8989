"""Features against a hook on a plain forward pass in float64 of Pillow's pixels; kills, meshes, and what is refused."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from click.testing import CliRunner, Result
from PIL import Image
from runs import CPU, ONE_THREAD, paths_of
from torch import Tensor, nn

from alexnet.cli import main
from alexnet.pipeline.augment import crop_and_flip
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import from_files, open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import TooManyBadFiles, UserError
from alexnet.train.checkpoint import Checkpoint, save
from alexnet.train.classifier import load_classifier
from alexnet.train.config import Config
from alexnet.train.feature_folder import Features, open_features
from alexnet.train.features import extract
from alexnet.train.network.model import AlexNet, initialise

pytestmark = pytest.mark.usefixtures("quiet_machine")

COLOURS = ("blue", "green", "red")
TEN = [(top, left, flip) for top, left in ((16, 16), (0, 0), (0, 32), (32, 0), (32, 32)) for flip in (False, True)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`val/` of three classes of three images, of 256 pixels: nothing is resampled, so the pixels are Pillow's."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(96)
    for name in COLOURS:
        (root / "val" / name).mkdir(parents=True)
        for i in range(3):
            coarse = Image.fromarray(rng.integers(256, size=(9, 9, 3), dtype=np.uint8))
            coarse.resize((256, 256), Image.Resampling.BICUBIC).save(root / "val" / name / f"{i}.JPEG", quality=90)
    return root


def write_checkpoint(path: Path, scale: float = 1.7, **numbers: Any) -> Path:
    """A network that was never trained, but whose layers have something to say."""
    config = Config(width=0.02, init="torch", dropout=0.9, **numbers)
    model = AlexNet(config, 3)
    initialise(model, 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    mean = np.random.default_rng(5).uniform(90, 130, (224, 224, 3)).astype(np.float32)
    arrays = {"mean": mean, "divisor": np.array([1, 2, 3], np.float32)}
    model_state = dict(model.state_dict())
    save(path, Checkpoint(config=config, classes=list(COLOURS), epoch=1, step=3, model=model_state, arrays=arrays))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "paper.npz")


def run(checkpoint: Path, images: Path | Dataset, out: Path, **how: Any) -> Features:
    dataset = open_dataset(images, "val") if isinstance(images, Path) else images
    return extract(load_classifier(checkpoint, CPU), dataset, out, **({"settings": ONE_THREAD} | how))


def hooked(checkpoint: Path, paths: list[Path], layer: str, views: list[tuple[int, int, bool]]) -> np.ndarray:
    """What a module puts out, rectified unless it is the last, or what fc6 is given for pool5; in float64."""
    classifier = load_classifier(checkpoint, CPU)
    model = AlexNet(classifier.model.config, 3).double().eval()
    model.load_state_dict(classifier.model.state_dict())
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.append(inputs[0].unflatten(1, (-1, 6, 6)).clone() if layer == "pool5" else output.clone())

    model.get_submodule({"pool5": "fc6"}.get(layer, layer)).register_forward_hook(keep)
    treatment, found = classifier.treatment, []
    for path in paths:
        seen.clear()
        for top, left, flip in views:
            crop = crop_and_flip(np.asarray(Image.open(path)), top, left, flip).astype(np.float64)
            x = (crop - treatment.mean) / treatment.divisor
            with torch.no_grad():
                model(torch.from_numpy(x.transpose(2, 0, 1)[None]))
        outputs = torch.cat(seen)
        found.append((outputs if layer == "fc8" else outputs.relu()).mean(0).numpy())
    return np.stack(found)


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max() > 0


# -- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "pool", "views", "batch"),
    [
        ("conv1", "none", 1, 4),
        ("norm1", "none", 1, 1),
        ("conv2", "mean", 10, 9),
        ("conv5", "mean", 1, 2),
        ("pool5", "none", 10, 50),
        ("fc6", "none", 1, 5),
        ("fc7", "mean", 10, 4),
        ("fc8", "none", 1, 2),
    ],
)
def test_values_are_those_of_a_hook(
    checkpoint: Path, tree: Path, tmp_path: Path, layer: str, pool: Any, views: int, batch: int
) -> None:
    dataset = open_dataset(tree, "val")
    settings = Settings(threads=batch % 2 + 1, readers=batch)
    found = run(checkpoint, dataset, tmp_path, layer=layer, pool=pool, views=views, batch_size=batch, settings=settings)
    expected = hooked(checkpoint, paths_of(dataset), layer, TEN if views == 10 else TEN[:1])
    expected = expected.mean((2, 3)) if pool == "mean" and expected.ndim == 4 else expected
    assert found.array.dtype == np.float32
    assert_close(found.array, expected)
    assert found.names == [dataset.name(i) for i in range(9)]
    assert [found.about.classes[label] for label in found.labels] == [path.parent.name for path in paths_of(dataset)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "features.json", "features.npy", "index.jsonl"]


def test_activations_are_taken_before_dropout_of_either_style(tree: Path, tmp_path: Path) -> None:
    """At test time the paper's scales by what it keeps, inverted dropout not at all; fc6 and fc7 stand before it."""
    for style in ("mask", "inverted"):
        path = write_checkpoint(tmp_path / f"{style}.npz", dropout_style=style)
        for layer in ("fc6", "fc7"):
            found = run(path, tree, tmp_path / style / layer, layer=layer)
            assert_close(found.array, hooked(path, paths_of(open_dataset(tree, "val")), layer, TEN[:1]))


def test_half_precision_rounds_and_never_overflows(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    single, half = (run(checkpoint, tree, tmp_path / d, dtype=d).array for d in ("float32", "float16"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, single.astype(np.float16))
    large = write_checkpoint(tmp_path / "large.npz", scale=60)
    with pytest.raises(UserError, match=r"fc7 are not finite in float16. float16 ends at 65504: use float32"):
        run(large, tree, tmp_path / "large", dtype="float16")


MESH_PROGRAM = """
import sys
from pathlib import Path
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.train.classifier import load_classifier
from alexnet.train.features import extract
from alexnet.train.parallel.dims import CPU, ParallelDims
from alexnet.train.parallel.mesh import build_mesh, leave_mesh
from alexnet.train.parallel.ranks import join_ranks

checkpoint, tree, out = map(Path, sys.argv[2:])
mesh = build_mesh(ParallelDims.parse(sys.argv[1]), join_ranks(), CPU, 60)
for layer in ("conv2", "fc7", "fc8"):
    network, images, settings = load_classifier(checkpoint, CPU), open_dataset(tree, "val"), Settings(1, 1, max_bad=0.2)
    extract(network, images, out / layer, layer=layer, batch_size=4, mesh=mesh, settings=settings)
leave_mesh()
"""


@pytest.mark.parametrize("mesh", ["2x1", "1x2"])
def test_every_mesh_gives_the_same(checkpoint: Path, tree: Path, tmp_path: Path, mesh: str) -> None:
    """With an image that cannot be used, which one rank alone meets."""
    images = Path(shutil.copytree(tree, tmp_path / "images"))
    (images / "val/green/1.JPEG").write_text("no picture")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", MESH_PROGRAM, mesh, str(checkpoint), str(images), str(tmp_path / "mesh")]
    numbers = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environments = [os.environ | numbers | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    ranks = [warm.Popen(command, env=env, stderr=warm.PIPE) for env in environments]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    for layer in ("conv2", "fc7", "fc8"):
        expected = run(checkpoint, images, tmp_path / layer, layer=layer, settings=Settings(1, 1, max_bad=0.2))
        found = open_features(tmp_path / "mesh" / layer)
        assert found.about == expected.about
        assert found.names == expected.names
        assert len(found.names) == 8
        assert_close(found.array, expected.array)


# -- kills and bad images -----------------------------------------------------------------------------------

KILLED_PROGRAM = """
import os, sys
from pathlib import Path
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.train import features
from alexnet.train.classifier import load_classifier
from alexnet.train.parallel.dims import CPU

features.SECONDS_BETWEEN_SYNCS = -1.0
checkpoint, tree, out = sys.argv[1:]
network, images = load_classifier(Path(checkpoint), CPU), open_dataset(Path(tree), "val")

def progress(done):
    if done >= 6:
        os.kill(os.getpid(), 9)

features.extract(network, images, Path(out), batch_size=2, settings=Settings(1, 1), progress=progress)
"""


def test_it_goes_on_after_kill_9(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    """What is on disk is not computed again, and the numbers are those of a call that was left in peace."""
    out, whole = tmp_path / "killed", run(checkpoint, tree, tmp_path / "whole", batch_size=2)
    command = [sys.executable, "-c", KILLED_PROGRAM, str(checkpoint), str(tree), str(out)]
    assert warm.run(command, timeout=120).returncode == -9
    with pytest.raises(UserError, match="killed is not complete: give the command that began it again"):
        open_features(out)
    told: list[int] = []
    found = run(checkpoint, tree, out, batch_size=5, progress=told.append)
    assert told[0] == 6
    assert told[-1] == 9
    assert found.names == whole.names
    assert_close(found.array, whole.array)
    before = (out / "features.npy").stat()
    run(checkpoint, tree, out)
    assert (out / "features.npy").stat() == before, "what is complete is only opened"


def test_bad_images_have_no_row(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    images, out = Path(shutil.copytree(tree, tmp_path / "images")), tmp_path / "out"
    for name in ("blue/0", "green/2"):
        (images / "val" / f"{name}.JPEG").write_text("no picture")
    with pytest.raises(
        TooManyBadFiles, match=r"2 of 9 images .*--max-bad 0.1 allows. val/blue/0.JPEG: text, not an image"
    ):
        run(checkpoint, images, out, settings=Settings(1, 1, max_bad=0.1))
    found = run(checkpoint, images, out, settings=Settings(1, 1, max_bad=0.3))
    assert found.about.bad == {
        "val/blue/0.JPEG": "text, not an image",
        "val/green/2.JPEG": "text, not an image",
    }
    whole = run(checkpoint, tree, tmp_path / "whole")
    kept = [row for row, name in enumerate(whole.names) if name not in found.about.bad]
    assert found.names == [whole.names[row] for row in kept]
    assert found.labels.tolist() == whole.labels[kept].tolist()
    assert_close(found.array, whole.array[kept])
    with pytest.raises(TooManyBadFiles, match="1 of 1 images"):
        run(checkpoint, from_files([images / "val/blue/0.JPEG"]), tmp_path / "none", settings=Settings(1, 1, max_bad=1))


# -- what is refused ----------------------------------------------------------------------------------------


def test_a_folder_of_other_features_is_refused(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    out, dataset = tmp_path / "out", open_dataset(tree, "val")
    run(checkpoint, dataset, out, layer="conv5")
    other = write_checkpoint(tmp_path / "other.npz", scale=1.8)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"layer": "fc7"}, r"layer conv5 \(not fc7\)"),
        ({"pool": "mean"}, r"pool none \(not mean\)"),
        ({"views": 10, "dtype": "float16"}, r"views 1 \(not 10\), dtype float32 \(not float16\)"),
        ({"settings": Settings(1, 1, decode="fast")}, r"decode exact, cpu \(not fast, cpu\)"),
        ({"checkpoint": other}, "another network"),
        ({"images": dataset.subset(np.arange(8))}, "another dataset"),
    ]
    usual: dict[str, Any] = {"checkpoint": checkpoint, "images": dataset, "out": out, "layer": "conv5"}
    for change, message in changes:
        with pytest.raises(UserError, match=f"out holds features with {message}. Use another folder."):
            run(**(usual | change))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/features.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"theirs holds a features.npy that is not ours. Use another folder."):
        run(checkpoint, dataset, tmp_path / "theirs")
    with pytest.raises(UserError, match=r"paper.npz/out cannot be written. Use another folder."):
        run(checkpoint, dataset, checkpoint / "out")


DAMAGE = {
    "no array": r"is not complete: give the command that began it again",
    "array cut short": r"features.npy is damaged or cut short: ",
    "another array": r"expected \('float32', \(9, \d+\)\), found \('float64', \(2,\)\)",
    "no index": r"index.jsonl is missing",
    "index cut short": r"index.jsonl has 8 lines for the 9 rows",
    "index damaged": r"index.jsonl, line 2, is damaged",
    "no record": r"There are no features in .*: it has no features.json",
    "record of others": r"features.json does not describe features of alexnet: it is of another program",
    "record damaged": r"features.json does not describe features of alexnet",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_not_opened(checkpoint: Path, tree: Path, tmp_path: Path, name: str) -> None:
    run(checkpoint, tree, tmp_path)
    array, index, record = (tmp_path / n for n in ("features.npy", "index.jsonl", "features.json"))
    lines = index.read_text().splitlines(keepends=True)
    if name.startswith("no "):
        {"array": array, "index": index, "record": record}[name[3:]].unlink()
    elif name == "another array":
        np.save(array, np.zeros(2))
    elif name == "array cut short":
        array.write_bytes(array.read_bytes()[:-1])
    elif name.startswith("index"):
        index.write_text("".join(lines[:-1]) if name == "index cut short" else lines[0] + '{"name": "a"}\n')
    else:
        record.write_text('{"format": "other"}' if name == "record of others" else record.read_text()[:-20])
    with pytest.raises(UserError, match=DAMAGE[name]):
        open_features(tmp_path)


# -- the command --------------------------------------------------------------------------------------------


def invoke(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["features", *map(str, arguments), "--threads", "1"])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def test_the_command_takes_a_data_set_or_image_files(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    found = json.loads(invoke(checkpoint, tree, "--out", tmp_path / "split", "--json").stdout)
    assert (found["layer"], found["views"], found["shape"][0], found["bad"]) == ("fc7", 1, 9, {})
    assert found["checkpoint"] == str(checkpoint)
    images = [tree / "val/red/1.JPEG", tree / "val/blue/0.JPEG"]
    text = invoke(checkpoint, *images, "--out", tmp_path / "files", "--layer", "conv3", "--pool", "mean").output
    assert "conv3, the mean of each map" in text
    files = open_features(tmp_path / "files")
    assert files.names == [str(path) for path in images]
    assert files.labels.tolist() == [-1, -1]
    assert_close(files.array, hooked(checkpoint, images, "conv3", TEN[:1]).mean((2, 3)))


def test_wrong_arguments_are_explained_in_a_line(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"]
    message = invoke(checkpoint, tree, *out, "--layer", "fc9", code=1).stderr
    assert "This network has no layer 'fc9'. It has conv1, norm1, pool1, conv2, " in message.replace("\n", " ")
    (tmp_path / "empty").mkdir()
    assert "No val images in" in invoke(checkpoint, tmp_path / "empty", *out, code=1).stderr
    assert "There is no image file" in invoke(checkpoint, "cat.jpg", *out, code=1).stderr
    image = tree / "val/red/1.JPEG"
    assert "leave it out with image files" in invoke(checkpoint, image, *out, "--split", "val", code=2).stderr
    assert not (tmp_path / "out").exists()
