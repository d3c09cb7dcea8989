"""Files are dropped from memory and found again there, as the kernel itself tells."""

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from alexnet.pipeline.bench import page_cache
from alexnet.pipeline.bench.page_cache import evict, file_system, fill, resident_share
from alexnet.pipeline.dataset.images import Dataset, Listing
from alexnet.pipeline.dataset.open import open_dataset

DROPS = ("ext4", "xfs", "btrfs", "overlay")  # file systems that do as they are told


@pytest.fixture
def dataset(noise_tree: Path, tmp_path: Path) -> Dataset:
    """A copy, just written: its pages are dirty."""
    return open_dataset(shutil.copytree(noise_tree, tmp_path / "copy"), "train")


def needs_a_disk(path: Path) -> None:
    if file_system(path) not in DROPS:
        pytest.skip(f"{file_system(path)} keeps pages of its own accord")


def test_files_leave_memory_and_come_back(dataset: Dataset) -> None:
    needs_a_disk(dataset.root)
    assert resident_share(dataset) == 1
    assert evict(dataset) == 0
    first, rest = dataset.subset(np.arange(4)), dataset.subset(np.arange(4, len(dataset)))
    fill(first, readers=2)
    assert resident_share(first) == 1
    assert resident_share(rest) == 0
    sizes = [-(-int(size) // 4096) for size in dataset.lengths]
    assert resident_share(dataset) == pytest.approx(sum(sizes[:4]) / sum(sizes))


def test_members_of_an_archive_are_dropped(dataset: Dataset, tmp_path: Path) -> None:
    needs_a_disk(tmp_path)
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards/train-0000.tar", "w") as tar:
        for i in range(len(dataset)):
            for ending, data in ((".jpg", dataset.read(i).tobytes()), (".cls", str(i % 2).encode())):
                file = tmp_path / f"{i:04}{ending}"
                file.write_bytes(data)
                tar.add(file, file.name)
    packed = open_dataset(tmp_path / "shards", "train")
    assert len(packed) == len(dataset)
    fill(packed, readers=1)
    assert resident_share(packed) == resident_share(dataset) == 1
    assert evict(packed.subset(np.arange(8, 16))) == 0
    assert resident_share(dataset) == 1
    assert packed.read(10).tobytes() == dataset.read(10).tobytes()


def test_images_in_the_midst_of_a_large_cached_archive_are_dropped(tmp_path: Path) -> None:
    """Read in one go, the kernel holds it in folios much larger than an image."""
    needs_a_disk(tmp_path)
    archive = tmp_path / "archive"
    archive.write_bytes(bytes(2**24))
    listing = Listing()
    for i in range(5):
        listing.add(f"{i}", 0, 100_000, container=0, offset=(3 * i + 1) * 2**20 + 777)
    images = listing.dataset(tmp_path, "train", ("a",), [archive])
    os.sync()
    archive.read_bytes()
    assert resident_share(images) == 1
    assert evict(images) == 0


def test_memory_file_systems_keep_everything(dataset: Dataset) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or file_system(shm) != "tmpfs" or not os.access(shm, os.W_OK):
        pytest.skip("no tmpfs here")
    place = shm / f"alexnet-test-{os.getpid()}"
    try:
        shutil.copytree(dataset.root, place)
        assert evict(open_dataset(place, "train")) == 1
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_files_of_others_tell_nothing(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert resident_share(dataset) is None
    assert evict(dataset) is None


def test_missing_and_shrunken_files_are_passed_over(dataset: Dataset) -> None:
    (dataset.root / dataset.names[0]).unlink()
    (dataset.root / dataset.names[1]).write_bytes(b"")
    (dataset.root / dataset.names[2]).write_bytes(b"short")
    fill(dataset, readers=3)
    evict(dataset)
    assert resident_share(dataset.subset(np.arange(2))) is None
    assert resident_share(dataset) is not None


def test_file_system_is_that_of_the_deepest_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 0:1 / / rw - ext4 /dev/vda rw\n"
        "23 22 0:2 / /data rw shared:1 - nfs4 server:/data rw\n"
        "24 23 0:3 / /data/image\\040net rw - lustre fs rw\n"
        "25 22 0:4 / /dat rw - xfs /dev/vdb rw\n"
        "26 22 0:5 / /data rw - zfs tank rw\n"
    )
    monkeypatch.setattr(page_cache, "MOUNTS", mounts)
    found = {place: file_system(Path(place)) for place in ("/home/me", "/data/x", "/data/image net/train", "/database")}
    assert found == {"/home/me": "ext4", "/data/x": "zfs", "/data/image net/train": "lustre", "/database": "ext4"}
    monkeypatch.setattr(page_cache, "MOUNTS", tmp_path / "none")
    assert file_system(Path("/data")) == "unknown"
