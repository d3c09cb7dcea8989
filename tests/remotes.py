"""What the tests of remote data share: packs to serve, an impatient store, and what a loader gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet.pipeline.dataset import remote
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.loader import Loader
from alexnet.pipeline.pack import PackOptions, pack
from alexnet.pipeline.remote import store
from alexnet.pipeline.treatment import Treatment

SETTINGS = Settings(threads=2, readers=3)
PER_SHARD = 2


def write_pack(tree: Path, out: Path) -> Path:
    """Pack both splits of a tree, two images a shard."""
    for split in ("train", "val"):
        pack(open_dataset(tree, split), out, PackOptions(images_per_shard=PER_SHARD), SETTINGS)
    return out


def be_impatient(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Use a cache of the test's own, forget earlier listings, and wait no second for anything."""
    monkeypatch.setenv("ALEXNET_CACHE", str(cache))
    monkeypatch.delenv("ALEXNET_SHARDS", raising=False)
    monkeypatch.setattr(store, "BRIEFLY", (0.01, 0.01))
    monkeypatch.setattr(store, "PATIENTLY", (0.01, 0.01, 0.01))
    monkeypatch.setattr(remote, "_listings", {})


def limit_cache(monkeypatch: pytest.MonkeyPatch, dataset: Dataset, shards: int) -> None:
    """Leave room for this many of a data set's shards."""
    assert dataset.remote
    monkeypatch.setenv("ALEXNET_CACHE_SIZE", f"{shards * int(dataset.remote.sizes.max())}B")


def loader(dataset: Dataset, **changes: Any) -> Loader:
    how: dict[str, Any] = {"batch_size": 4, "seed": 5, "num_epochs": 2, "settings": SETTINGS}
    return Loader(dataset, Treatment(mean=np.zeros(3, np.float32)), **(how | changes))


def batches(
    dataset: Dataset, epoch: int = 0, step: int = 0, **changes: Any
) -> list[tuple[bytes, list[int], list[int]]]:
    """The bits, labels and images of every batch."""
    found = loader(dataset, **changes).batches(epoch, step)
    return [(b.images.numpy().tobytes(), b.labels.tolist(), b.indices.tolist()) for b in found]
