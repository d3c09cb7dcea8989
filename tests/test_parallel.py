"""Every mesh computes the same function, and reads what any other wrote: float64, against one device."""

import itertools
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import torch
import warm
from PIL import Image
from ranks import STEPS, VARIANTS

from alexnet.pca.compute import compute_stats
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.train.checkpoint import checkpoint_path, load
from alexnet.train.config import Config
from alexnet.train.network.model import AlexNet
from alexnet.train.parallel.dims import ParallelDims
from alexnet.train.parallel.mesh import Mesh
from alexnet.train.parallel.split import check_split

MESHES = ("1x2", "2x1", "2x2")
NUM_CLASSES = 37
CASES = [(v, mesh) for v, mesh in itertools.product(VARIANTS, MESHES) if mesh == "2x1" or v not in ("one-gpu", "owt")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What five processes and this one have written."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_CACHE", str(folder / "cache"))
        run_all(folder)
        yield folder


def run_all(folder: Path) -> None:
    draw_tree(folder / "tree")
    train_set = open_dataset(folder / "tree", "train")
    compute_stats(train_set, work_dir=folder, settings=Settings(threads=1, readers=1)).save(folder / "stats.json")
    open_dataset(folder / "tree", "val")  # so that every rank finds it in the cache
    torch.set_num_threads(1)
    ranks.write_checkpoint(folder, Mesh())
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    command = [sys.executable, ranks.__file__, folder]
    children = [warm.Popen([*command, rank, *ports], stderr=warm.PIPE) for rank in range(5)]
    try:
        errors = [child.communicate(timeout=300)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0] * 5, "\n".join(errors)
    for written_on in ("1x1", *MESHES):
        ranks.go_on_from(folder, Mesh(), written_on)


def draw_tree(root: Path) -> None:
    rng = np.random.default_rng(37)
    for split, count in (("train", 2), ("val", 1)):
        for name, i in itertools.product(range(NUM_CLASSES), range(count)):
            path = root / split / f"{name:02}" / f"{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(path)


def seen(folder: Path, name: str, mesh: str, rank: int = 0) -> dict[str, Any]:
    with np.load(folder / f"{name}-{mesh}-{rank}.npz") as archive:
        return dict(archive)


def closest(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """The largest difference of each array, relative to the largest number in it."""
    arrays = [name for name in expected if "/" in name]
    assert arrays == [name for name in found if "/" in name]
    return {
        name: float(np.abs(found[name] - expected[name]).max() / max(np.abs(expected[name]).max(), 1e-300))
        for name in arrays
    }


@pytest.mark.parametrize(("variant", "mesh"), CASES)
def test_every_mesh_computes_the_same(folder: Path, variant: str, mesh: str) -> None:
    found, expected = seen(folder, variant, mesh), seen(folder, variant, "1x1")
    assert len(found["losses"]) == STEPS[variant]
    assert np.unique(expected["losses"]).size == STEPS[variant]
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-10, atol=0)
    apart = closest(found, expected)
    assert max(apart.values()) < 1e-9, apart


@pytest.mark.parametrize("mesh", MESHES)
def test_ranks_see_the_batch_of_one_process_together(folder: Path, mesh: str) -> None:
    dims = ParallelDims.parse(mesh)
    expected = seen(folder, "paper", "1x1")["images"]
    found = [seen(folder, "paper", mesh, rank)["images"] for rank in range(dims.num_ranks)]
    for pair in range(dims.dp):
        for rank in range(pair * dims.mp, (pair + 1) * dims.mp):
            np.testing.assert_array_equal(found[rank], found[pair * dims.mp])
    np.testing.assert_array_equal(np.concatenate(found[:: dims.mp], axis=1), expected)


def test_all_ranks_know_the_same_losses(folder: Path) -> None:
    for variant, rank in itertools.product(("paper", "original"), range(4)):
        np.testing.assert_array_equal(
            seen(folder, variant, "2x2", rank)["losses"], seen(folder, variant, "2x2")["losses"]
        )


@pytest.mark.parametrize(
    ("mesh", "names"),
    [
        ("1x2", ("paper", "apart", "without-conv3", "fine-tune")),
        ("2x1", ("paper", "one-gpu")),
        ("2x2", ("paper", "apart", "without-conv3", "fine-tune")),
    ],
)
def test_bytes_sent_are_those_of_the_shapes(folder: Path, mesh: str, names: tuple[str, ...]) -> None:
    dims, sums = ParallelDims.parse(mesh), []
    for name, rank in itertools.product(names, range(dims.num_ranks)):
        found = seen(folder, f"traffic-{name}", mesh, rank)
        assert found["sent"].tolist() == found["expected"].tolist(), (name, rank)
        exchange, gradients, images = found["sent"].tolist()
        assert [exchange > 0, gradients > 0, images > 0] == [dims.mp > 1, dims.dp > 1, dims.mp > 1]
        sums.append(exchange)
    if mesh == "1x2":
        assert sums[6] > sums[0] > sums[2] > 0, "towers apart exchange less, and with conv6 more"
        assert sums[0] == paper_exchange(ranks.trainer(folder, Mesh(), "paper").train_step.model)


def paper_exchange(model: AlexNet) -> int:
    """Bytes: five images, half the inputs of four layers there and back, 19 logits."""
    units = model.conv2.out_channels * 13**2 + model.fc6.in_features + model.fc7.in_features + model.fc8.in_features
    return 5 * 4 * (2 * units // 2 + 19)


def test_what_the_comparison_would_notice(folder: Path) -> None:
    """The switches and the dropout masks matter at this size, and so does a norm that mixes the towers."""
    first = {name: seen(folder, name, "1x1")["losses"][: min(STEPS.values())] for name in VARIANTS}
    for one, other in itertools.combinations(VARIANTS, 2):
        assert np.abs(first[one] - first[other]).max() > 1e-6, (one, other)
    run = ranks.trainer(folder, Mesh(), "paper")
    model = run.train_step.model
    model.norm1.groups = model.norm2.groups = 1
    wrong = ranks.take_steps(run, 3)["losses"]
    assert np.abs(wrong / first["paper"][:3] - 1).max() > 1e-6


@pytest.mark.parametrize("written_on", ["1x1", *MESHES])
@pytest.mark.parametrize("mesh", ["1x1", *MESHES])
def test_any_mesh_goes_on_from_any_checkpoint(folder: Path, written_on: str, mesh: str) -> None:
    """The state to the bit; the next steps and the errors as on one device."""
    saved = load(checkpoint_path(folder / f"run-{written_on}", 3))
    found, expected = seen(folder, f"from-{written_on}", mesh), seen(folder, "from-1x1", "1x1")
    for kind, tensors in (("model", saved.model), ("momentum", saved.momentum)):
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found[f"{kind}/{name}"], tensor.numpy(), err_msg=name)
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-10, atol=0)
    assert found["num_images"] == NUM_CLASSES
    assert (found["top1_error"], found["top5_error"]) == (expected["top1_error"], expected["top5_error"])
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "classes", "mesh", "message"),
    [
        ({"preset": "one-gpu"}, 10, "2x2", r"2x2 splits the network in 2, but preset one-gpu has 1 tower. Use .*4x1"),
        ({"preset": "owt"}, 10, "1x2", "Use --mesh 2x1"),
        ({"preset": "caffe"}, 10, "1x2", "its normalisation reaches across the towers. Use --mesh 2x1, or --no-lrn"),
        ({}, 10, "1x4", "preset paper has 2 towers"),
        ({}, 1, "1x2", "splits the classes in 2, but there is only 1"),
        ({"batch_size": 3}, 10, "2x2", "A batch of 3 cannot be shared by 4 ranks: raise --batch-size"),
    ],
)
def test_what_cannot_be_shared_out(changes: dict[str, Any], classes: int, mesh: str, message: str) -> None:
    config = Config.from_preset(changes.pop("preset", "paper"), **changes)
    with pytest.raises(ValueError, match=message):
        check_split(config, classes, ParallelDims.parse(mesh))


@pytest.mark.parametrize("text", ["2", "0x2", "2x", "axb", "1x2x3", "-1x2", ""])
def test_meshes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"give data x model ranks, as in 1x2"):
        ParallelDims.parse(text)


@pytest.mark.parametrize(
    ("num_ranks", "towers", "mesh"),
    [(1, 2, "1x1"), (2, 2, "1x2"), (8, 2, "4x2"), (3, 2, "3x1"), (2, 1, "2x1"), (16, 4, "8x2")],
)
def test_the_default_mesh(num_ranks: int, towers: int, mesh: str) -> None:
    dims = ParallelDims.default(num_ranks, towers)
    assert (str(dims), dims.num_ranks) == (mesh, num_ranks)
