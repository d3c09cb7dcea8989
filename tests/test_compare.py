"""The other loader does the same work as ours, and both are measured at their best."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.pipeline.augment import centre_square, crop_and_flip
from alexnet.pipeline.bench import compare
from alexnet.pipeline.bench.compare import PEERS, PeerError, compare_torch
from alexnet.pipeline.bench.conditions import Bench
from alexnet.pipeline.bench.peer import pillow_batches, worker_counts
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.plan import draw_epoch

pytestmark = pytest.mark.usefixtures("quiet_machine")
MEAN = np.linspace(90, 130, 224 * 224 * 3, dtype=np.float32).reshape(224, 224, 3)
BATCH_SIZE = 5


@pytest.fixture
def dataset(colour_tree: Path) -> Dataset:
    return open_dataset(colour_tree, "train")


@pytest.mark.parametrize("region", PEERS.values(), ids=list(PEERS))
@pytest.mark.parametrize("workers", [0, 1])
def test_the_peer_follows_the_plan(dataset: Dataset, region: bool, workers: int) -> None:
    """Against `augment.py` on Pillow's pixels, within the edge that Pillow's resampling treats otherwise."""
    if region and workers:
        pytest.skip("the workers are the same")
    batches = pillow_batches(dataset, mean=MEAN, batch_size=BATCH_SIZE, seed=3, workers=workers, region=region)
    steps = len(dataset) // BATCH_SIZE
    for step, (images, indices) in zip(range(steps + 1), batches, strict=False):
        epoch, row = divmod(step * BATCH_SIZE, steps * BATCH_SIZE)
        plan = draw_epoch(len(dataset), 3, epoch)[:]
        assert indices.tolist() == plan.order[row : row + BATCH_SIZE].tolist()
        assert (images.shape, images.dtype) == ((BATCH_SIZE, 3, 224, 224), torch.float32)
        for i in range(BATCH_SIZE):
            with Image.open(dataset.root / dataset.names[int(indices[i])]) as image:
                square = centre_square(np.asarray(image.convert("RGB")))
            top, left = plan.crops[row + i].tolist()
            wanted = crop_and_flip(square, top, left, bool(plan.flips[row + i])) - MEAN
            off = np.abs(images[i].permute(1, 2, 0).numpy() - wanted)
            assert off.mean() < 0.6
            assert np.quantile(off, 0.95) <= 2


def test_worker_counts() -> None:
    assert worker_counts(1) == [0, 1]
    assert worker_counts(2) == [0, 1, 2]
    assert worker_counts(6) == [0, 1, 2, 4, 6]
    assert worker_counts(16) == [0, 1, 2, 4, 8, 16]


def bench(dataset: Dataset, **changes: Any) -> Bench:
    usual: dict[str, Any] = {"settings": Settings(threads=1), "batch_size": BATCH_SIZE, "rounds": 2, "seconds": 0.05}
    return Bench(dataset=dataset, **(usual | changes))


def test_each_runs_at_its_best_in_turns(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "num_cores", lambda: 1)
    torch.set_num_threads(1)
    told: list[str] = []
    found = compare_torch(bench(dataset), lambda what, done, total: told.append(what))
    assert [peer.name for peer in found.peers] == list(PEERS)
    for peer in found.peers:
        assert sorted(peer.trials) == [0, 1]
        assert peer.trials[peer.workers] == max(peer.trials.values())
        assert len(peer.figures.windows) == len(found.ours.windows) == 2
        assert 0 < found.ours.cores_per_1000_images_per_second < 100
        assert 0 < peer.cores_per_1000_images_per_second < 100
        rounds = [a / b for a, b in zip(found.ours.windows, peer.figures.windows, strict=True)]
        times = peer.ours_is_times_as_fast
        assert (times.low, times.high) == (pytest.approx(min(rounds)), pytest.approx(max(rounds)))
        assert 0 < peer.grey_levels_mean < 0.5  # Pillow rounds twice
        assert peer.grey_levels_max < 20  # and treats the edge otherwise
    assert list(dict.fromkeys(told)) == [*(f"workers, {name}" for name in PEERS), "beside torch"]
    assert all(math.isfinite(f.images_per_second) for f in (found.ours, *(p.figures for p in found.peers)))


def test_the_number_of_torch_threads_is_put_back(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    torch.set_num_threads(2)

    def fail(*args: Any) -> None:
        seen.append(torch.get_num_threads())
        raise PeerError("no")

    monkeypatch.setattr(compare, "_trials", fail)
    with pytest.raises(PeerError):
        compare_torch(bench(dataset), lambda *report: None)
    assert seen == [1]
    assert torch.get_num_threads() == 2


def test_an_image_that_only_ours_survives_is_one_clear_line(dataset: Dataset, tmp_path: Path) -> None:
    for path in (tmp_path / f"train/a/{i}.JPEG" for i in range(5)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"this is not a picture")
    with pytest.raises(PeerError, match=r"^torch's DataLoader could not go on \(cannot identify .*\). Leave --compare"):
        compare_torch(bench(open_dataset(tmp_path, "train")), lambda *report: None)
