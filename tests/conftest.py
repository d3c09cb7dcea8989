"""Shared by all tests: trees of small images, the ImageNet sample, caches, limits, the skip without a GPU."""

import gc
import logging
import os
import signal
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from PIL import Image

THREADS = 2
LONGEST = ("test_docs", "test_endurance", "test_launch", "test_parallel")  # minutes each
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # for torch imported later, and in child processes
os.environ.setdefault("MPLBACKEND", "Agg")

with suppress(ImportError):  # a machine where only tests of GPUs run may lack it
    from hypothesis import settings

    usual = settings.get_profile(settings.get_current_profile_name())
    settings.register_profile("patient", usual, deadline=None)  # a busy machine is slow at times
    settings.load_profile("patient")

# Size and form of every image in the tiny tree, in the order of sorted paths.
TINY_IMAGES: tuple[tuple[tuple[int, int], dict[str, Any]], ...] = (
    ((120, 80), {}),
    ((80, 120), {}),
    ((96, 96), {"quality": 96, "subsampling": "4:4:4"}),
    ((100, 75), {"mode": "L"}),
    ((100, 80), {"mode": "CMYK"}),
    ((90, 70), {"progressive": True}),
    ((64, 48), {"format": "PNG"}),  # ImageNet has one, named .JPEG like the others
    ((110, 70), {"orientation": 6}),  # to be ignored, as the authors' pipeline did
    ((300, 40), {}),
    ((400, 300), {"quality": 90}),
    ((256, 256), {}),
    ((33, 57), {}),
    ((120, 90), {}),
    ((90, 120), {}),
    ((77, 77), {"mode": "L"}),
    ((130, 60), {}),
    ((61, 133), {"progressive": True}),
    ((280, 260), {}),
)
TINY_CLASSES = ("n01", "n02", "n03")


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train/` (3 classes of 4) and `val/` (3 of 2): images in every form."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(2012)
    names = [
        f"{split}/{name}/{name}_{i}.JPEG"
        for split, count in (("train", 4), ("val", 2))
        for name in TINY_CLASSES
        for i in range(count)
    ]
    for name, (size, form) in zip(names, TINY_IMAGES, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _save_image(root / name, rng, size, **form)
    return root


def _save_image(
    path: Path,
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    mode: str = "RGB",
    format: str = "JPEG",
    orientation: int = 1,
    **options: Any,
) -> None:
    """Save a smooth random image of `size` (width, height) pixels."""
    coarse = Image.fromarray(rng.integers(256, size=(6, 6, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)
    exif = image.getexif()
    if orientation != 1:
        exif[0x0112] = orientation
    image.save(path, format, exif=exif, **options)


@pytest.fixture(scope="session")
def sample_dir() -> Path:
    """The ImageNet sample, `train/<class>/*.JPEG`, 1,000 images: $ALEXNET_SAMPLE or a shared one."""
    shared = Path(__file__).resolve().parents[2] / "shared/data/imagenet-sample.tar"
    source = Path(os.environ.get("ALEXNET_SAMPLE", shared))
    if source.is_dir():
        return source
    if not source.is_file():
        pytest.skip(f"no ImageNet sample: neither a folder nor an archive at {source}; set ALEXNET_SAMPLE")
    cache_dir = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "alexnet" / "tests"
    extracted = cache_dir / "imagenet-sample"
    if not extracted.is_dir():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as draft, tarfile.open(source) as archive:
            archive.extractall(draft, filter="data")
            (Path(draft) / "imagenet-sample").rename(extracted)
    return extracted


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: at the end of the run, workers would idle behind the one that has such a file."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(THREADS)
    gc.freeze()  # what was imported stays: collections need not look through it


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs an NVIDIA GPU")


@cache
def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def colour_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train/` (3 classes of 6) and `val/` (3 of 3): small JPEGs, each class in its own colour."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(1966)
    for split, count in (("train", 6), ("val", 3)):
        for channel, name in enumerate(("blue", "green", "red")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (6, 6, 3), dtype=np.uint8)
                pixels[..., 2 - channel] += 160
                image = Image.fromarray(pixels).resize((60 + 7 * i, 64 - 3 * i), Image.Resampling.BICUBIC)
                image.save(root / split / name / f"{i}.JPEG", quality=92)
    return root


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no data set from the environment."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ALEXNET_CACHE", str(cache))
    monkeypatch.delenv("ALEXNET_DATA", raising=False)
    return cache


@pytest.fixture
def caching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache lists of images, however short."""
    monkeypatch.setattr("alexnet.pipeline.dataset.open.CACHE_FROM_IMAGES", 1)


@pytest.fixture
def quiet_machine(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of the module's own, no data set from the environment, one thread for torch (two would wait for each
    other on a busy machine); the logger is restored after commands set it up."""
    import torch

    monkeypatch.setenv("ALEXNET_CACHE", str(cache_dir))
    monkeypatch.delenv("ALEXNET_DATA", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    logger, threads = logging.getLogger("alexnet"), torch.get_num_threads()
    before = logger.handlers, logger.propagate, logger.level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for torch: on a busy machine, several that wait for each other turn microseconds into seconds."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    gc.collect()
    before = set(threading.enumerate())
    yield
    gc.collect()
    deadline = time.monotonic() + 60
    while (left := [t for t in threading.enumerate() if t not in before]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


@pytest.fixture(scope="session")
def noise_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train/` of 32 JPEGs in two classes, 72 pixels wide and 96 high, to measure loaders on."""
    root = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for i in range(32):
        path = root / f"train/{i % 2}/{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(96, 72, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="session")
def ten_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's data set in small: ten drawn classes, `train/` of 2 images each and `val/` of 1."""
    from alexnet.pipeline.synthetic.generate import generate_tree

    root = tmp_path_factory.mktemp("ten") / "classes"
    generate_tree(root, train_per_class=2, val_per_class=1, seed=0, processes=1)
    return root


@pytest.fixture
def time_limit(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that hangs; give it its own cache."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("no end after 60 s")

    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path_factory.mktemp("cache")))
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Say bytes of odd file names as `\\udcff`: a report with such a character would end the process that sends it."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(held) for key, held in value.items()}
        case list() | tuple():
            return type(value)(map(_encodable, value))
    return value
