"""CIFAR-10 from either form against the pixels that were drawn, views against slices, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_cifar import CLASSES, draw, write_binary, write_tree
from PIL import Image
from runs import invoke

from alexnet.pipeline.errors import DatasetError
from alexnet.pipeline.plan import draw_epoch
from alexnet.train.cifar.images import read_cifar
from alexnet.train.cifar.views import Views

pytestmark = pytest.mark.usefixtures("own_cache")


def test_both_forms_hold_the_drawn_pixels(tmp_path: Path) -> None:
    from_files = read_cifar(write_binary(tmp_path / "archive/cifar-10-batches-bin").parent)
    for split, labels, seed, count in (
        (from_files.train, from_files.train_labels, 0, 50),
        (from_files.test, from_files.test_labels, 1, 20),
    ):
        images, drawn = draw(count, seed)
        np.testing.assert_array_equal(split, images.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(labels, drawn)
    assert from_files.classes == CLASSES
    np.testing.assert_allclose(from_files.mean, draw(50, 0)[0].mean(0).transpose(2, 0, 1), rtol=1e-6)

    tree = write_tree(tmp_path / "tree")
    seen: list[tuple[str, int, int]] = []
    from_tree = read_cifar(tree, lambda *done: seen.append(done))
    order = np.argsort(from_files.train_labels, kind="stable")  # a tree is sorted by class
    np.testing.assert_array_equal(from_tree.train, from_files.train[order])
    np.testing.assert_array_equal(from_tree.train_labels, from_files.train_labels[order])
    assert from_tree.classes == CLASSES
    assert seen == [("train", 50, 50), ("val", 20, 20)]
    again = read_cifar(tree, lambda *done: seen.append(done))
    assert again.fingerprint == from_tree.fingerprint
    assert len(seen) == 2, "decoded once, and kept"


def pickles(root: Path) -> None:
    (root / "cifar-10-batches-py").mkdir()
    (root / "cifar-10-batches-py/data_batch_1").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")


def other_size(root: Path) -> None:
    Image.new("RGB", (64, 32)).save(next(write_tree(root).rglob("*.png")))


def other_classes(root: Path) -> None:
    for split in ("train", "test"):
        (write_tree(root) / split / "eleventh").mkdir()
        Image.new("RGB", (32, 32)).save(root / split / "eleventh/a.png")


def text(root: Path) -> None:
    next(write_tree(root).rglob("*.png")).write_text("no picture")


def cut(root: Path) -> None:
    path = write_binary(root) / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])


def missing(root: Path) -> None:
    (write_binary(root) / "test_batch.bin").unlink()


def strange_label(root: Path) -> None:
    (write_binary(root) / "data_batch_5.bin").write_bytes(bytes([77]) + bytes(3072))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pickles, r"data_batch_1 is of CIFAR-10's Python version, a pickle.*cifar-10-binary\.tar\.gz"),
        (other_size, r"\.png is 64x32 where CIFAR-10 has 32x32"),
        (other_classes, "has 11 classes where CIFAR-10 has 10"),
        (text, r"\.png cannot be read: cannot identify"),
        (cut, r"data_batch_3\.bin has 30,729 bytes, which are not whole records of 3,073"),
        (missing, r"test_batch\.bin is missing.*cifar-10-binary"),
        (strange_label, r"data_batch_5\.bin has a label 77"),
        (lambda root: None, r"No CIFAR-10 in .*data_batch_1\.bin to test_batch\.bin"),
    ],
)
def test_other_folders_are_refused_in_one_line(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "given"
    root.mkdir()
    make(root)
    with pytest.raises(DatasetError, match=message) as problem:
        read_cifar(root)
    assert "\n" not in str(problem.value)
    failed = invoke("figure1", root, "--out", tmp_path / "out", code=1)
    assert failed.stderr.count("Error: ") == 1


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DatasetError, match=r"is a file\. Unpack it"):
        read_cifar(tmp_path / "cifar-10-binary.tar.gz")


def test_views_are_slices_of_the_images() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(30, 3, 32, 32), dtype=np.uint8)
    mean = rng.random((3, 32, 32), np.float32) * 255
    plan = draw_epoch(30, seed=1, epoch=2, num_offsets=9)
    draws = plan[5:25]
    assert {0, 8} <= {*draw_epoch(2000, 0, 0, num_offsets=9)[:].crops.ravel().tolist()} <= {*range(9)}

    views = Views(pixels, mean, cropped=True).drawn(plan, slice(5, 25))
    assert views.shape == (20, 3, 24, 24)
    for view, image, (top, left), flip in zip(views, draws.order, draws.crops.tolist(), draws.flips, strict=True):
        expected = pixels[image, :, top : top + 24, left : left + 24] - mean[:, 4:28, 4:28]
        np.testing.assert_array_equal(view, expected[:, :, ::-1] if flip else expected)

    whole = Views(pixels, mean, cropped=False).drawn(plan, slice(5, 25))
    np.testing.assert_array_equal(whole, pixels[draws.order] - mean)
    assert whole.is_contiguous(memory_format=torch.channels_last)
