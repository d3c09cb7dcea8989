"""Images held in a device's memory: the same batches as without, however many are held."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import make_tar
from click.testing import CliRunner
from coefficients import jpeg, picture
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("nvidia.dali")

from alexnet.console.types import Size
from alexnet.pipeline.bench.stages import STAGES
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode import resident as resident_module
from alexnet.pipeline.decode import tensors
from alexnet.pipeline.decode.dct import DctCropper
from alexnet.pipeline.decode.resident import ALIGNMENT, Resident
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.decode.transcode import jpeg_to_dct
from alexnet.pipeline.errors import UserError
from alexnet.pipeline.loader import Batch, Loader
from alexnet.pipeline.squares import full_images, squares
from alexnet.pipeline.treatment import Treatment
from alexnet.train import memory
from alexnet.train.config import Config

NUM_IMAGES, BAD = 12, 3
LENIENT, CPU = Settings(threads=2, max_bad=0.5), torch.device("cpu")
TREATMENT = Treatment(mean=np.full((224, 224, 3), 120.5, np.float32), basis=np.eye(3, dtype=np.float32))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A pack of twelve images in two shards, one of which is damaged."""
    folder = tmp_path_factory.mktemp("pack")
    for shard in range(2):
        members = dict[str, bytes]()
        for i in range(6):
            chroma = "4:2:0" if i % 2 else "4:4:4"
            data = bytearray(jpeg_to_dct(jpeg(picture("smooth", 256, 256, 6 * shard + i), subsampling=chroma)))
            data[5000] ^= 6 * shard + i == BAD
            members |= {f"{6 * shard + i}.dct": bytes(data), f"{6 * shard + i}.cls": b"%d" % (i % 2)}
        (folder / f"train-{shard}.tar").write_bytes(make_tar(members))
    return open_dataset(folder, "train")


def loader(dataset: Dataset, held: Resident | None, **options: Any) -> Loader:
    how: dict[str, Any] = {"batch_size": 5, "seed": 1, "num_epochs": 2, "settings": LENIENT, "resident": held} | options
    return Loader(dataset, TREATMENT, **how)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.indices, b.indices)
        assert (a.epoch, a.step) == (b.epoch, b.step)
        assert torch.equal(a.labels, b.labels)
        assert a.images.dtype == b.images.dtype
        assert torch.equal(a.images, b.images)


@pytest.fixture(scope="module")
def streamed(dataset: Dataset) -> tuple[list[Batch], dict[int, str]]:
    """The batches with nothing held, and the bad images met."""
    without = loader(dataset, None)
    return list(without), without.bad


@settings(max_examples=8)
@given(share=st.floats(0, 1.2), part=st.sampled_from([1, 50_000, 2**26]))
def test_however_many_are_held_the_batches_are_the_same(
    dataset: Dataset, streamed: tuple[list[Batch], dict[int, str]], share: float, part: int
) -> None:
    """Up to the limit, in order; a bad one among them is replaced, and counted, as if it was streamed."""
    limit = int(share * dataset.lengths.sum())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident_module, "PART", part)
        held = Resident(dataset, CPU, limit, LENIENT)
    assert held.num_bytes <= limit
    found = [i for i in range(NUM_IMAGES) if held.get(i) is not None]
    leading = int((np.cumsum(-(-dataset.lengths // ALIGNMENT) * ALIGNMENT) <= limit).sum())
    assert found == [i for i in range(leading) if i != BAD]
    assert len(held) == len(found)
    with_held = loader(dataset, held)
    assert_same(list(with_held), streamed[0])
    assert with_held.bad == streamed[1] == {BAD: "damaged (an image of coefficients: its checksum)"}


def test_resumed_and_shared_batches_are_the_same(
    dataset: Dataset, streamed: tuple[list[Batch], dict[int, str]]
) -> None:
    held = Resident(dataset, CPU, int(dataset.lengths.sum() // 2), LENIENT)
    assert_same(list(loader(dataset, held).batches(1, 1)), streamed[0][3:])
    for rank in range(2):
        options: dict[str, Any] = {"rank": rank, "num_ranks": 2, "half": True}
        assert_same(list(loader(dataset, held, **options)), list(loader(dataset, None, **options)))


def test_what_is_held_is_not_read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read, progress = list[int](), list[tuple[int, int]]()
    plain = Dataset.read

    def watched(self: Dataset, i: int) -> Any:
        read.append(i)
        return plain(self, i)

    monkeypatch.setattr(Dataset, "read", watched)
    held = Resident(dataset, CPU, 2**30, LENIENT, lambda done, total: progress.append((done, total)))
    assert sorted(read) == list(range(NUM_IMAGES))
    assert progress[-1] == (NUM_IMAGES, NUM_IMAGES)
    read.clear()
    assert len(list(loader(dataset, held))) == 4
    assert set(read) == {BAD}
    for i in set(range(NUM_IMAGES)) - {BAD}:
        image = held.get(i)
        assert image is not None
        assert image.numpy().tobytes() == plain(dataset, i).tobytes()
        assert image.data_ptr() % 4 == 0
    assert held.get(NUM_IMAGES) is None


def test_sizes_of_damaged_images_move_no_other(dataset: Dataset, tmp_path: Path) -> None:
    """A length that no sound image has must not put the next ones where words cannot be loaded."""
    members = {"0.dct": b"ADCT\1", "0.cls": b"0", "1.dct": dataset.read(1).tobytes(), "1.cls": b"0"}
    (tmp_path / "train-0.tar").write_bytes(make_tar(members))
    held = Resident(open_dataset(tmp_path, "train"), CPU, 2**30, LENIENT)
    assert held.get(0) is None
    assert (image := held.get(1)) is not None
    assert image.data_ptr() % ALIGNMENT == 0


def test_too_little_memory_is_one_clear_error(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **how: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(UserError, match=r"B for resident images are more than cpu has free.*--resident a smaller size"):
        Resident(dataset, CPU, 2**30, LENIENT)


def test_a_gpu_gets_the_images_as_they_are_stored(
    dataset: Dataset, streamed: tuple[list[Batch], dict[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without DALI, which would look for the GPU; here C stands in for the kernels."""

    def stand_in(size: int, device: torch.device, *treatment: Any) -> DctCropper:
        assert device == torch.device("cuda:0")
        return DctCropper(size, 1, *treatment[:2])

    monkeypatch.setattr(tensors, "GpuCropper", stand_in)
    on_gpu = Settings(threads=2, max_bad=0.5, device_id=0)
    held = Resident(dataset, CPU, int(dataset.lengths.sum() // 2), LENIENT)
    assert_same(list(loader(dataset, held, settings=on_gpu)), streamed[0])
    for stage in STAGES.values():
        with closing(stage(loader(dataset, held, settings=on_gpu))) as batches:
            assert np.array_equal(next(batches), streamed[0][0].indices)
    for decode in (squares, full_images):
        pairs = (decode(dataset, np.arange(12), batch_size=5, settings=how) for how in (on_gpu, LENIENT))
        for ours, theirs in zip(*pairs, strict=True):
            assert np.array_equal(ours.indices, theirs.indices)
            assert ours.bad == theirs.bad
            assert all(map(np.array_equal, ours.pixels, theirs.pixels))


# -- the option --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("auto", "auto"), ("40GB", 40 * 10**9), ("1.5gib", 3 * 2**29), ("500 MB", 5 * 10**8), ("1MiB", 2**20)],
)
def test_sizes(text: str, size: int | str) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("command", ["train", "bench-loader"])
def test_what_it_needs_is_said_at_once(dataset: Dataset, command: str, tmp_path: Path) -> None:
    from alexnet.cli import main

    shutil.copytree(dataset.root, tmp_path / "pack")
    for i in range(2):
        shutil.copy(tmp_path / f"pack/train-{i}.tar", tmp_path / f"pack/val-{i}.tar")
    line = [command, str(tmp_path / "pack"), "--device", "cpu"]
    found = CliRunner().invoke(main, [*line, "--resident"])
    assert found.exit_code == 1
    assert "--resident needs a GPU and a pack of coefficients (`alexnet pack --dct`), but the CPU" in found.output
    found = CliRunner().invoke(main, [*line, "--resident", "much"])
    assert found.exit_code == 2
    assert "'much' is not a size, such as 40GB, 500MB or auto" in found.output


def test_images_get_what_training_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    config, free = Config(), 80 * 10**9
    monkeypatch.setattr(memory, "available_bytes", lambda device: free)
    room = memory.room_for_images(config, 1000, CPU)
    assert 60 * 10**9 < room < free - memory.RESERVE
    assert memory.room_for_images(config, 1000, CPU, num_sharing=2) < room / 2
    monkeypatch.setattr(memory, "available_bytes", lambda device: free - room)
    assert memory.room_for_images(config, 1000, CPU) <= 1
    memory.check_memory(config, 1000, CPU)  # there is room for the batch all the same
