"""The loader's batches do not depend on threads, ranks or interruptions, and are what the plan says of each image."""

from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import make_tar

pytest.importorskip("nvidia.dali")
from graphs import reference_square

from alexnet.pipeline import augment
from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset
from alexnet.pipeline.decode import crops, resample
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import DatasetError, TooManyBadFiles
from alexnet.pipeline.loader import Batch, BatchSource, Loader, SyntheticLoader
from alexnet.pipeline.plan import draw_epoch
from alexnet.pipeline.squares import squares
from alexnet.pipeline.treatment import Treatment

BASIS = np.array([[8.0, -3, 1], [7, 0, -2], [6, 4, 1]], np.float32)
COLOUR = np.array([120.0, 110, 100], np.float32)
MEAN_IMAGE = np.random.default_rng(0).uniform(90, 130, (224, 224, 3)).astype(np.float32)
TREATMENT = Treatment(mean=MEAN_IMAGE, divisor=np.array([1.0, 2, 4], np.float32), basis=BASIS, lit_divisor=1.1)


@pytest.fixture(scope="module")
def dataset(tiny_tree: Path) -> Dataset:
    return open_dataset(tiny_tree, "train")


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def make_loader(dataset: Dataset, **changes: Any) -> Loader:
    how: dict[str, Any] = {
        "treatment": TREATMENT,
        "batch_size": 5,
        "seed": 7,
        "num_epochs": 3,
        "settings": Settings(threads=2, readers=2),
    }
    return Loader(dataset, **(how | changes))


def never(_: int) -> bool:
    return False


def run(loader: Loader, epoch: int = 0, step: int = 0, **changes: Any) -> list[Batch]:
    return list(replace(loader, **changes).batches(epoch, step))


def same(a: Batch, b: Batch) -> bool:
    return (
        (a.epoch, a.step) == (b.epoch, b.step)
        and np.array_equal(a.indices, b.indices)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.images, b.images)
    )


def assert_same(a: Sequence[Batch], b: Sequence[Batch]) -> None:
    assert len(a) == len(b) > 0
    assert all(same(x, y) for x, y in zip(a, b, strict=True))


def reference(dataset: Dataset, index: int) -> Any:
    return reference_square(dataset.read(index).tobytes())


# -- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [224, 227])
def test_a_batch_is_what_the_plan_says_of_each_image(size: int, dataset: Dataset) -> None:
    mean = np.random.default_rng(1).uniform(90, 130, (size, size, 3)).astype(np.float32)
    loader = make_loader(dataset, treatment=replace(TREATMENT, mean=mean, crop=size))
    for batch in run(loader, num_epochs=2):
        plan = draw_epoch(len(dataset), 7, batch.epoch, num_offsets={224: 33, 227: 30}[size])[:]
        rows = slice(5 * batch.step, 5 * batch.step + 5)
        assert batch.indices.tolist() == plan.order[rows].tolist()
        assert batch.labels.tolist() == dataset.labels[plan.order[rows]].tolist()
        shift = plan.lighting[rows] @ BASIS.T
        for k, i in enumerate(batch.indices):
            (top, left), flip = plan.crops[rows][k], plan.flips[rows][k]
            crop = augment.crop_and_flip(reference(dataset, int(i)), int(top), int(left), bool(flip), size)
            expected = (crop - mean + shift[k]) / (TREATMENT.divisor * np.float32(1.1))
            off = np.abs(batch.images[k].permute(1, 2, 0).numpy() - expected)
            assert off.max() <= 1 / 1.1 + 1e-3
            assert off.mean() < 0.05


def test_labels_are_the_folders(dataset: Dataset) -> None:
    for batch in run(make_loader(dataset), num_epochs=1):
        assert [dataset.name(int(i)).split("/")[1] for i in batch.indices] == [dataset.classes[j] for j in batch.labels]
        assert batch.labels.dtype == torch.int64


def test_an_epoch_drops_the_last_incomplete_batch(dataset: Dataset) -> None:
    loader = make_loader(dataset)
    assert len(dataset) == 12
    assert len(loader) == 2
    batches = run(loader)
    assert [(b.epoch, b.step) for b in batches] == [(e, s) for e in range(3) for s in range(2)]
    for epoch in range(3):
        seen = np.concatenate([b.indices for b in batches if b.epoch == epoch])
        assert len(seen) == len(set(seen.tolist())) == 10
    assert run(make_loader(dataset, batch_size=12), num_epochs=1)[0].images.shape[0] == 12


def test_a_data_set_smaller_than_a_batch_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"has 12 images.* batch of 13.*--batch-size"):
        make_loader(dataset, batch_size=13)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(threads=1, readers=1, prefetch=1),
        Settings(threads=2, readers=5, prefetch=4),
        Settings(threads=3, readers=3),
    ],
)
def test_threads_readers_and_prefetch_change_nothing(dataset: Dataset, settings: Settings) -> None:
    assert_same(run(make_loader(dataset)), run(make_loader(dataset, settings=settings)))


def test_any_interruption_ends_with_the_same_batches(dataset: Dataset) -> None:
    def lit(epoch: int) -> bool:
        return epoch != 1

    loader = make_loader(dataset, batch_size=4)
    whole = run(loader, lit=lit)
    assert len(whole) == 9
    for epoch in range(3):
        for step in range(4):  # 3 is the end of an epoch
            rest = run(loader, epoch, step, lit=lit)
            assert len(rest) == len(whole) - 3 * epoch - step
            assert all(same(x, y) for x, y in zip(whole[3 * epoch + step :], rest, strict=True))
    assert run(loader, 3, lit=lit) == []


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_the_ranks_together_hold_the_global_batch(dataset: Dataset, num_ranks: int) -> None:
    whole = run(make_loader(dataset, batch_size=7), num_epochs=2)
    parts = [
        run(make_loader(dataset, batch_size=7, rank=r, num_ranks=num_ranks), num_epochs=2) for r in range(num_ranks)
    ]
    for k, batch in enumerate(whole):
        pieces = [p[k] for p in parts]
        joined = Batch(
            torch.cat([p.images for p in pieces]),
            torch.cat([p.labels for p in pieces]),
            np.concatenate([p.indices for p in pieces]),
            pieces[0].epoch,
            pieces[0].step,
        )
        assert same(joined, batch)


def test_bad_images_are_the_same_for_ranks_and_interruptions(tiny_tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(tiny_tree, root)
    whole_jpeg = (root / "train/n03/n03_1.JPEG").read_bytes()
    (root / "train/n01/n01_0.JPEG").write_bytes(b"text")
    (root / "train/n03/n03_1.JPEG").write_bytes(whole_jpeg[: len(whole_jpeg) * 19 // 20])
    (root / "train/n03/n03_3.JPEG").write_bytes(b"")
    damaged, tolerant = open_dataset(root, "train"), Settings(threads=1, readers=2, max_bad=0.25)
    loader = make_loader(damaged, batch_size=6, settings=tolerant)
    whole = run(loader)
    assert {damaged.name(i)[-11:] for i in loader.bad} == {"/n01_0.JPEG", "/n03_1.JPEG", "/n03_3.JPEG"}
    for batch in whole:
        assert not set(batch.indices.tolist()) & loader.bad.keys()
        assert batch.labels.tolist() == damaged.labels[batch.indices].tolist()  # of the substitutes
    for epoch, step in ((0, 1), (1, 0), (2, 1)):
        rest = run(make_loader(damaged, batch_size=6, settings=tolerant), epoch, step)
        assert_same(whole[2 * epoch + step :], rest)
    parts = [run(make_loader(damaged, batch_size=6, rank=r, num_ranks=2, settings=tolerant)) for r in (0, 1)]
    for k, batch in enumerate(whole):
        assert torch.equal(torch.cat([parts[0][k].images, parts[1][k].images]), batch.images)
    with pytest.raises(TooManyBadFiles, match=r"3 of 12 images"):
        run(make_loader(damaged, batch_size=6, settings=replace(tolerant, max_bad=0.2)))


# -- lighting and treatment --------------------------------------------------------------------------------


def test_levels_treated_later_are_the_batches_to_the_bit(dataset: Dataset) -> None:
    """What pairs exchange: lit and mirrored as drawn, with lighting and without."""
    loader = make_loader(dataset)
    treated = run(loader, lit=lambda epoch: epoch < 1, num_epochs=2)
    levels = list(replace(loader, num_epochs=2, lit=lambda epoch: epoch < 1).levels())
    assert len(levels) == len(treated) == 2 * len(loader)
    assert {batch.images.dtype for batch, _ in levels} == {torch.uint8}
    for (batch, shifts), expected in zip(levels, treated, strict=True):
        with resample.Resampler(224, 2, MEAN_IMAGE, TREATMENT.divisor_when(batch.epoch < 1)) as resampler:
            images = torch.from_numpy(resampler.treat(batch.images.permute(0, 2, 3, 1).numpy(), shifts))
        assert same(replace(batch, images=images.permute(0, 3, 1, 2)), expected)


@pytest.mark.gpu
def test_batches_stay_whole_while_the_gpu_is_behind(dataset: Dataset) -> None:
    loader = make_loader(dataset, settings=Settings(threads=2, readers=2, device_id=0))
    expected = [batch.images.cpu() for batch in loader]
    seen = []
    for batch in loader:
        torch.cuda._sleep(100_000_000)  # cycles: tens of milliseconds
        seen.append(batch.images.clone())
        del batch
    assert all(torch.equal(late.cpu(), early) for late, early in zip(seen, expected, strict=True))


def test_lighting_may_end_with_an_epoch_and_takes_its_divisor_with_it(dataset: Dataset) -> None:
    loader = make_loader(dataset)
    lit, unlit = run(loader), run(loader, lit=never)
    mixed = run(loader, lit=lambda epoch: epoch != 1)
    assert_same(mixed, [a if a.epoch != 1 else b for a, b in zip(lit, unlit, strict=True)])
    for a, b in zip(lit, unlit, strict=True):
        assert np.array_equal(a.indices, b.indices)
        plan = draw_epoch(len(dataset), 7, a.epoch)[:]
        shift = torch.from_numpy(plan.lighting[5 * a.step : 5 * a.step + 5] @ BASIS.T)[:, :, None, None]
        divisor = torch.from_numpy(TREATMENT.divisor)[None, :, None, None]
        torch.testing.assert_close(a.images * 1.1, b.images + shift / divisor, rtol=0, atol=2e-4)
    without = make_loader(dataset, treatment=replace(TREATMENT, basis=None, lit_divisor=1.0))
    assert_same(run(without), unlit)


def test_the_switches(dataset: Dataset) -> None:
    plain = make_loader(
        dataset, random_crop=False, random_flip=False, treatment=Treatment(mean=np.zeros(3, np.float32))
    )
    for batch in run(plain, num_epochs=1):
        for image, i in zip(batch.images, batch.indices.tolist(), strict=True):
            off = np.abs(image.permute(1, 2, 0).numpy() - reference(dataset, i)[16:240, 16:240])
            assert off.max() <= 1
    together, plan = (
        make_loader(dataset, images_per_crop=32, treatment=plain.treatment),
        draw_epoch(12, 7, 0, images_per_crop=32)[:],
    )
    for batch in run(together, num_epochs=1, lit=never):
        for image, i in zip(batch.images, batch.indices.tolist(), strict=True):
            crop = augment.crop_and_flip(
                reference(dataset, i), int(plan.crops[0, 0]), int(plan.crops[0, 1]), bool(plan.flips[0])
            )
            assert np.abs(image.permute(1, 2, 0).numpy() - crop).max() <= 1


@pytest.mark.parametrize("mean", [COLOUR, MEAN_IMAGE])
def test_half_precision(dataset: Dataset, mean: Any) -> None:
    treatment = replace(TREATMENT, mean=mean, divisor=np.full(3, 60, np.float32))
    full, half = (run(make_loader(dataset, treatment=treatment, half=h), num_epochs=1) for h in (False, True))
    for a, b in zip(full, half, strict=True):
        assert b.images.dtype == torch.float16
        torch.testing.assert_close(a.images, b.images.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mean", [COLOUR, MEAN_IMAGE])
@pytest.mark.parametrize(("top", "left", "mirror"), [(0, 0, False), (32, 32, True), (16, 16, False), (0, 32, True)])
def test_evaluations_treatment_is_the_references(mean: Any, top: int, left: int, mirror: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    views = replace(TREATMENT, mean=mean).apply(torch.from_numpy(images), top, left, mirror)
    assert views.shape == (3, 3, 224, 224)
    for view, image in zip(views, images, strict=True):
        expected = augment.normalise(
            augment.crop_and_flip(image, top, left, mirror), mean, np.zeros(3, np.float32), TREATMENT.divisor
        )
        np.testing.assert_allclose(view.permute(1, 2, 0).numpy(), expected, atol=1e-4)


def test_training_and_evaluation_treat_the_centre_alike(dataset: Dataset) -> None:
    loader = make_loader(dataset, random_crop=False, random_flip=False)
    (decoded,) = squares(dataset, np.arange(12), batch_size=12, settings=loader.settings)
    views = TREATMENT.apply(decoded.pixels, 16, 16, False)
    for batch in run(loader, num_epochs=1, lit=never):
        off = (batch.images - views[batch.indices]).abs()
        assert off.max() <= 1 + 1e-4
        assert off.mean() < 0.01


# -- memory ------------------------------------------------------------------------------------------------


def test_images_are_channels_last_and_not_copied(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[int] = []
    take = crops.Memory.take

    def spy(memory: Any, count: int) -> Any:
        array = take(memory, count)
        addresses.append(array.__array_interface__["data"][0])
        return array

    monkeypatch.setattr(crops.Memory, "take", spy)
    for batch in run(make_loader(dataset)):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.stride() == (224 * 224 * 3, 1, 224 * 3, 3)
        assert batch.images.shape == (5, 3, 224, 224)
        assert batch.images.data_ptr() == addresses.pop(0)
    assert addresses == []


def test_batches_outlive_the_next_and_the_loader(dataset: Dataset) -> None:
    kept, copies = [], []
    for batch in make_loader(dataset, settings=Settings(threads=2, prefetch=3), num_epochs=10):
        kept.append(batch.images)
        copies.append(batch.images.clone())
    gc.collect()
    assert len(kept) == 20
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


# -- ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_an_abandoned_iteration_ends_its_threads(dataset: Dataset, taken: int) -> None:
    before = threading.active_count()
    batches = iter(make_loader(dataset, num_epochs=1000))
    for _ in range(taken):
        next(batches)
    assert threading.active_count() > before or taken == 0
    del batches
    gc.collect()
    assert threading.active_count() == before


def test_an_exception_in_the_training_loop_ends_the_threads(dataset: Dataset) -> None:
    before = threading.active_count()
    batches: Any = iter(make_loader(dataset, num_epochs=1000))

    def train() -> None:
        for _ in batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    batches.close()
    assert threading.active_count() == before


# -- the synthetic loader ----------------------------------------------------------------------------------


def test_the_synthetic_loader_has_the_same_interface(dataset: Dataset) -> None:
    real = make_loader(dataset)
    (batch, *_) = run(real, num_epochs=1)
    source: BatchSource = SyntheticLoader(batch, len(real), num_epochs=3)
    assert len(source) == len(real)
    for epoch, step in ((0, 0), (1, 1), (2, 2)):
        where = [(b.epoch, b.step) for b in source.batches(epoch, step)]
        assert where == [(b.epoch, b.step) for b in run(real, epoch, step)]
    assert all(b.images is batch.images and b.labels is batch.labels for b in source)


def test_squares_of_an_archive_are_those_of_the_files(dataset: Dataset, tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for i in range(12):
        files |= {f"{i:03d}.jpg": dataset.read(i).tobytes(), f"{i:03d}.cls": str(dataset.labels[i]).encode()}
    (tmp_path / "train-0.tar").write_bytes(make_tar(files))
    packed = open_dataset(tmp_path, "train")
    assert_same(run(make_loader(dataset), num_epochs=1), run(make_loader(packed), num_epochs=1))
