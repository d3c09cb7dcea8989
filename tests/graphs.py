"""One graph run on a few images, and the images: as difficult as photographs get."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("nvidia.dali")

from alexnet.pipeline import augment
from alexnet.pipeline.decode.graph import (
    IMAGE_INPUTS,
    REGION_INPUTS,
    SQUARE_INPUTS,
    TRAIN_INPUTS,
    image_graph,
    new_pipeline,
    region_graph,
    square_graph,
    train_graph,
)
from alexnet.pipeline.decode.resample import Resampler
from alexnet.pipeline.decode.settings import Decode
from alexnet.pipeline.geometry import CROP, SHORT_SIDE, source_region

Pixels = NDArray[np.uint8]
ZERO, ONE = np.zeros(3, np.float32), np.ones(3, np.float32)
CORNERS = ((0, 0), (0, 32), (32, 0), (32, 32))

chain = "dali"  # or "compiled": DALI decodes regions and our compiled code does the rest


def run_graph(
    build: Callable[..., None], names: Sequence[str], feed: dict[str, Any], device_id: int | None = None
) -> list[Any]:
    """Run one batch through a graph; return numpy arrays."""
    pipeline = new_pipeline(len(feed["encoded"]), 2, device_id, prefetch=1)
    with pipeline:
        build(pipeline, lambda: tuple(feed[name] for name in names))
    (output,) = pipeline.run()
    return [np.array(image) for image in output.as_cpu()]


def bytes_of(images: Sequence[bytes]) -> list[NDArray[np.uint8]]:
    return [np.frombuffer(image, np.uint8) for image in images]


def region_feed(images: Sequence[bytes], crops: Sequence[tuple[int, int]], size: int) -> dict[str, Any]:
    shapes = np.array([pillow(image).shape[:2] for image in images])
    return {"encoded": bytes_of(images)} | source_region(shapes, np.array(crops), size)._asdict()


def decode(images: Sequence[bytes], how: Decode = "exact", device_id: int | None = None) -> list[Pixels]:
    return run_graph(partial(image_graph, decode=how), IMAGE_INPUTS, {"encoded": bytes_of(images)}, device_id)


def squares(images: Sequence[bytes], how: Decode = "exact", device_id: int | None = None) -> list[Pixels]:
    feed = region_feed(images, [(0, 0)] * len(images), SHORT_SIDE)
    if chain == "compiled" and device_id is None:
        return resampled(feed, how, Resampler(SHORT_SIDE, 2))
    return run_graph(partial(square_graph, decode=how), SQUARE_INPUTS, feed, device_id)


def resampled(feed: dict[str, Any], how: Decode, resampler: Resampler) -> list[Any]:
    with resampler:
        regions = run_graph(partial(region_graph, decode=how), REGION_INPUTS, feed)
        return list(resampler.start(regions, feed)())


def train(
    images: Sequence[bytes],
    crops: Sequence[tuple[int, int]],
    flips: Sequence[bool],
    shift: NDArray[np.float32] | None = None,
    *,
    mean: NDArray[np.float32] = ZERO,
    divisor: NDArray[np.float32] = ONE,
    half: bool = False,
    how: Decode = "exact",
    device_id: int | None = None,
    size: int = CROP,
) -> list[NDArray[np.floating]]:
    feed = region_feed(images, crops, size)
    feed["mirror"] = np.array(flips, np.int32)
    feed["shift"] = np.zeros((len(images), 3), np.float32) if shift is None else shift
    if chain == "compiled" and device_id is None and not half:
        return resampled(feed, how, Resampler(size, 2, mean, divisor))
    build = partial(train_graph, crop=size, decode=how, mean=mean, divisor=divisor, half=half)
    return run_graph(build, TRAIN_INPUTS, feed, device_id)


class PretendGpu:
    """A pipeline without a device that claims one: DALI traces a GPU graph in it but need not run it."""

    def __init__(self, pipeline: Any, device_id: int | None = 0) -> None:
        self._pipeline, self.device_id = pipeline, device_id

    def set_outputs(self, *outputs: Any) -> None:
        self._pipeline.set_outputs(*outputs)


# -- images ------------------------------------------------------------------------------------------------


@cache
def pillow(image: bytes) -> Pixels:
    """Decode as torchvision's loader does: Pillow, converted to RGB, EXIF ignored."""
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


@cache
def reference_square(image: bytes) -> Pixels:
    return augment.centre_square(pillow(image))


def encode(pixels: Pixels, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@cache
def photo(seed: int, height: int, width: int) -> Pixels:
    """Draw smooth areas, edges and grain, like a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    blocks = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST), np.int16)
    grain = rng.normal(0, 6, (height, width, 3))
    return np.clip((soft * 2 + blocks) / 3 + grain, 0, 255).astype(np.uint8)


FORMS: dict[str, dict[str, Any]] = {
    "baseline 4:2:0": {"quality": 85, "subsampling": "4:2:0"},
    "baseline 4:2:2": {"quality": 85, "subsampling": "4:2:2"},
    "baseline 4:4:4": {"quality": 95, "subsampling": "4:4:4"},
    "quality 5": {"quality": 5},
    "optimised, restarts": {"optimize": True, "restart_marker_blocks": 3},
    "progressive": {"progressive": True},
    "progressive 4:4:4": {"progressive": True, "subsampling": "4:4:4"},
    "greyscale": {"mode": "L"},
    "greyscale progressive": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
    "PNG": {"kind": "PNG"},
    "PNG palette": {"kind": "PNG", "mode": "P"},
    "PNG grey": {"kind": "PNG", "mode": "L"},
    "BMP": {"kind": "BMP"},
}


@cache
def corpus() -> tuple[bytes, ...]:
    """Return every form, each in an odd size and shape of its own."""
    sizes = [(375, 500), (500, 333), (301, 299), (113, 171), (700, 260), (257, 256), (256, 256), (90, 400)]
    return tuple(encode(photo(i, *sizes[i % len(sizes)]), **form) for i, form in enumerate(FORMS.values()))


def tree_images(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(root.rglob("*.JPEG"))]


def differences(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> list[NDArray[np.float64]]:
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return [np.abs(a.astype(np.float64) - b.astype(np.float64)) for a, b in zip(ours, theirs, strict=True)]


def assert_same_picture(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> None:
    off = differences(ours, theirs)
    assert max(o.max() for o in off) <= 1
    assert np.mean([o.mean() for o in off]) < 0.05


def plain_crops(images: Sequence[bytes], crops: Sequence[tuple[int, int]], flips: Sequence[bool]) -> list[Pixels]:
    """Take the paper's two steps: the 256-square, then the crop."""
    return [augment.crop_and_flip(reference_square(i), *c, f) for i, c, f in zip(images, crops, flips, strict=True)]


def batch_of(n: int, seed: int = 0) -> tuple[list[bytes], list[tuple[int, int]], list[bool], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    images = [corpus()[i % len(corpus())] for i in range(n)]
    crops = [(int(y), int(x)) for y, x in rng.integers(0, 33, (n, 2))]
    return images, crops, [bool(f) for f in rng.integers(0, 2, n)], rng.normal(0, 20, (n, 3)).astype(np.float32)


MEANS = {
    "colour": np.array([122.7, 116.1, 103.9], np.float32),
    "image": np.random.default_rng(3).uniform(80, 160, (224, 224, 3)).astype(np.float32),
}
DIVISORS = {"1": ONE, "1.1": np.full(3, 1.1, np.float32), "std": np.array([58.4, 57.1, 57.4], np.float32)}
