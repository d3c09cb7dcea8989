"""What the CPU decodes for a GPU is sent there, and stays as it is until it has arrived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("nvidia.dali")
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode import crops, tensors
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.loader import Loader
from alexnet.pipeline.treatment import Treatment

pytestmark = pytest.mark.usefixtures("no_thread_is_left")
TREATMENT = Treatment(
    mean=np.random.default_rng(0).uniform(90, 130, (224, 224, 3)).astype(np.float32),
    basis=np.array([[8.0, -3, 1], [7, 0, -2], [6, 4, 1]], np.float32),
)


@pytest.fixture(scope="module")
def dataset(tiny_tree: Path) -> Dataset:
    return open_dataset(tiny_tree, "train")


def make_loader(dataset: Dataset, settings: Settings, half: bool = False) -> Loader:
    return Loader(dataset, TREATMENT, batch_size=5, seed=7, num_epochs=3, settings=settings, half=half)


HERE, THERE = Settings(threads=2, readers=2), Settings(threads=2, readers=2, upload_to=0)


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
def test_what_the_cpu_decodes_for_a_gpu_has_the_same_bits(dataset: Dataset, half: bool) -> None:
    expected = [batch.images.to(torch.float16 if half else torch.float32) for batch in make_loader(dataset, HERE)]
    seen = []
    for batch in make_loader(dataset, THERE, half):
        assert batch.images.is_cuda
        assert batch.labels.is_cuda
        torch.cuda._sleep(100_000_000)
        seen.append(batch.images.clone())
        del batch
    assert all(torch.equal(late.cpu(), early) for late, early in zip(seen, expected, strict=True))


def test_what_the_cpu_decodes_for_a_gpu_is_sent_there(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """From page-locked memory, which stays as it is while it is copied; copies stand in for those of a GPU."""
    locked, begun = set[int](), list[np.ndarray[Any, Any]]()

    class Copies:
        def __init__(self, device: torch.device) -> None:
            assert device == torch.device("cuda:0")

        def __call__(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
            assert array.ctypes.data in locked
            assert not any(np.shares_memory(array, other) for other in begun)
            begun[:] = [*begun[-1:], array]
            return torch.tensor(array)

        def close(self) -> None:
            begun.clear()

    def lock(memory: crops.Memory, size: int) -> np.ndarray[Any, Any]:
        assert memory._page_locked
        block = np.empty(size, memory._dtype)
        locked.add(block.ctypes.data)
        return block

    expected = [batch.images for batch in make_loader(dataset, HERE)]
    monkeypatch.setattr(tensors, "Upload", Copies)
    monkeypatch.setattr(crops.Memory, "_new", lock)
    found = [batch.images for batch in make_loader(dataset, THERE)]
    assert all(map(torch.equal, found, expected))
    assert len(found) == len(expected)
    assert len(locked) < len(expected)
    assert not begun
