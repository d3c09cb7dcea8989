"""The DALI graphs against `augment.py` on the same bytes, and against Pillow: each stage alone, then the whole.

Every test runs twice: DALI does all, as on a GPU; or it decodes and `resample.py` does the rest, as on CPUs.

Tolerances in grey levels. Squares and crops: at most 1, on average below 0.05 (DALI resamples in float32 and rounds
once, the reference in float64). Decoding: none with decode="exact". Normalisation: 1e-3.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("nvidia.dali")
from nvidia.dali import ops

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
from alexnet.pipeline.geometry import CROP, SHORT_SIDE, region_of_square, source_region

Pixels = NDArray[np.uint8]
ZERO, ONE = np.zeros(3, np.float32), np.ones(3, np.float32)
CORNERS = ((0, 0), (0, 32), (32, 0), (32, 32))


# -- running a graph ---------------------------------------------------------------------------------------

chain = "dali"


@pytest.fixture(autouse=True, params=["dali", "compiled"])
def _chain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "chain", request.param)


def run_graph(
    build: Callable[..., None], names: Sequence[str], feed: dict[str, Any], device_id: int | None = None
) -> list[Any]:
    """One batch through a graph, as numpy arrays."""
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
) -> list[NDArray[np.floating]]:
    feed = region_feed(images, crops, CROP)
    feed["mirror"] = np.array(flips, np.int32)
    feed["shift"] = np.zeros((len(images), 3), np.float32) if shift is None else shift
    if chain == "compiled" and device_id is None and not half:
        return resampled(feed, how, Resampler(CROP, 2, mean, divisor))
    build = partial(train_graph, decode=how, mean=mean, divisor=divisor, half=half)
    return run_graph(build, TRAIN_INPUTS, feed, device_id)


# -- images ------------------------------------------------------------------------------------------------


@cache
def pillow(image: bytes) -> Pixels:
    """As torchvision's loader would: Pillow, converted to RGB, EXIF ignored."""
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
    """Smooth areas, edges and grain, like a photograph."""
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
    """Every form in an odd size and shape of its own."""
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
    """The paper's two steps: the 256-square, then the crop."""
    return [augment.crop_and_flip(reference_square(i), *c, f) for i, c, f in zip(images, crops, flips, strict=True)]


# -- decoding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_decoding_is_pillows_bit_for_bit(form: str) -> None:
    image = corpus()[list(FORMS).index(form)]
    (ours,) = decode([image])
    np.testing.assert_array_equal(ours, pillow(image))


def test_the_tiny_tree_decodes_bit_for_bit(tiny_tree: Path) -> None:
    images = tree_images(tiny_tree)
    for ours, image in zip(decode(images), images, strict=True):
        np.testing.assert_array_equal(ours, pillow(image))


def test_orientation_is_ignored() -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        image = encode(photo(1, 120, 300), exif=exif, quality=85)
        np.testing.assert_array_equal(decode([image])[0], decode([encode(photo(1, 120, 300), quality=85)])[0])
        assert_same_picture(squares([image]), [reference_square(image)])


def test_fast_decoding_is_close() -> None:
    """Measured in grey levels on drawn images: 4:2:0 4 at worst and 1.0 on average, 4:4:4 at quality 95 7 and 1.0;
    the squares alike. On the sample's photographs, see `test_real_images_decoded_fast`."""
    for image in (corpus()[0], corpus()[2]):
        for ours, exact in (
            (decode([image], "fast"), pillow(image)),
            (squares([image], "fast"), reference_square(image)),
        ):
            (off,) = differences(ours, [exact])
            assert 0 < off.max() <= 10
            assert off.mean() < 1.5


# -- squares and crops -------------------------------------------------------------------------------------


def test_squares_are_the_references() -> None:
    assert_same_picture(squares(corpus()), [reference_square(i) for i in corpus()])


def test_squares_of_the_tiny_tree(tiny_tree: Path) -> None:
    images = tree_images(tiny_tree)
    assert_same_picture(squares(images), [reference_square(i) for i in images])


def test_a_256_square_passes_untouched() -> None:
    image = encode(photo(5, 256, 256), "PNG")
    np.testing.assert_array_equal(squares([image])[0], photo(5, 256, 256))
    off = (7, 30)
    np.testing.assert_array_equal(train([image], [off], [False])[0], photo(5, 256, 256)[7:231, 30:254])


def test_an_image_beside_others_is_as_alone() -> None:
    images = corpus()[:6]
    for together, image in zip(squares(images), images, strict=True):
        np.testing.assert_array_equal(together, squares([image])[0])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", CORNERS)
def test_crops_at_the_corners_are_the_two_plain_steps(crop: tuple[int, int], flip: bool) -> None:
    images = corpus()
    crops, flips = [crop] * len(images), [flip] * len(images)
    assert_same_picture(train(images, crops, flips), plain_crops(images, crops, flips))


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 420), st.integers(1, 420)).filter(lambda s: max(s) < 12 * min(s)),
    crop=st.tuples(st.integers(0, 32), st.integers(0, 32)),
    flip=st.booleans(),
    subsampling=st.sampled_from(["4:2:0", "4:4:4"]),
)
def test_crops_anywhere_of_any_shape(
    size: tuple[int, int], crop: tuple[int, int], flip: bool, subsampling: str
) -> None:
    image = encode(photo(9, *size), subsampling=subsampling)
    assert_same_picture(train([image], [crop], [flip]), plain_crops([image], [crop], [flip]))


def interpolated(line: Pixels) -> Pixels:
    """A strip one pixel wide and n long, enlarged to 256 x 256n: its central 256 pixels, by np.interp."""
    n = len(line)
    at = ((n * 256 - 256) // 2 + np.arange(256) + 0.5) / 256 - 0.5
    exact = np.stack([np.interp(at, np.arange(n), line[:, c]) for c in range(3)], axis=-1)
    return np.repeat(np.rint(exact).astype(np.uint8)[None], 256, axis=0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_extreme_shapes(kind: str) -> None:
    wide, tall, dot = photo(3, 1, 5000), photo(4, 5000, 1), photo(5, 1, 1)
    images = [encode(image, kind) for image in (wide, tall, dot)]
    across, down, point = (pillow(i) for i in images)
    expected = [
        interpolated(across[0]),
        interpolated(down[:, 0]).transpose(1, 0, 2),
        np.broadcast_to(point, (256, 256, 3)),
    ]
    assert_same_picture(squares(images), expected)
    crops = [e[5:229, 20:244] for e in expected]
    assert_same_picture(train(images, [(5, 20)] * 3, [False] * 3), crops)


def test_an_extreme_panorama_that_shrinks() -> None:
    image = encode(photo(6, 300, 6000))
    square = np.asarray(Image.fromarray(pillow(image)).resize((5120, 256), Image.Resampling.BILINEAR))[:, 2432:2688]
    (off,) = differences(squares([image]), [square])  # far from the sides, so Pillow is a fair judge
    assert off[1:-1].max() <= 1


# -- normalisation and lighting ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("divisor", DIVISORS)
@pytest.mark.parametrize("mean", MEANS)
def test_normalisation_and_lighting(mean: str, divisor: str) -> None:
    images, crops, flips, shift = batch_of(8)
    raw = train(images, crops, flips)
    assert all(np.array_equal(image, np.rint(image)) for image in raw)
    treated = train(images, crops, flips, shift, mean=MEANS[mean], divisor=DIVISORS[divisor])
    for ours, crop, offset in zip(treated, raw, shift, strict=True):
        assert ours.dtype == np.float32
        expected = augment.normalise(crop.astype(np.uint8), MEANS[mean], offset, DIVISORS[divisor])
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("mean", MEANS)
def test_float16_is_the_same_rounded(mean: str) -> None:
    if chain == "compiled":
        pytest.skip("half precision is for GPUs")
    images, crops, flips, shift = batch_of(4)
    how: dict[str, Any] = {"mean": MEANS[mean], "divisor": DIVISORS["std"]}
    full, half = train(images, crops, flips, shift, **how), train(images, crops, flips, shift, **how, half=True)
    for a, b in zip(full, half, strict=True):
        assert b.dtype == np.float16
        # half a unit in the last place of |x| < 8, and the same again where it was rounded from a float32 neighbour
        np.testing.assert_allclose(a, b.astype(np.float32), rtol=2**-11, atol=2e-3)


def test_the_mean_image_is_neither_shifted_nor_mirrored() -> None:
    flat = encode(np.full((300, 300, 3), 128, np.uint8), "PNG")
    outputs = train([flat] * 3, [(0, 0), (32, 5), (9, 9)], [False, True, True], mean=MEANS["image"])
    for output in outputs:
        np.testing.assert_allclose(output, 128 - MEANS["image"], atol=1e-4)


def test_the_whole_treatment_is_the_plain_one() -> None:
    images, crops, flips, shift = batch_of(14, seed=5)
    ours = train(images, crops, flips, shift, mean=MEANS["image"], divisor=DIVISORS["1.1"])
    plain = [
        augment.treat(pillow(i), top=y, left=x, flip=f, mean=MEANS["image"], offset=s, divisor=1.1)
        for i, (y, x), f, s in zip(images, crops, flips, shift, strict=True)
    ]
    off = differences(ours, plain)
    assert max(o.max() for o in off) <= 1 / 1.1 + 1e-3
    assert np.mean([o.mean() for o in off]) < 0.05


# -- the ImageNet sample -----------------------------------------------------------------------------------


@pytest.mark.sample
def test_real_images(sample_dir: Path) -> None:
    """Every tenth image decoded, squared and cropped at one of several offsets (ALEXNET_ALL_SAMPLES=1: every one)."""
    paths = sorted(sample_dir.rglob("*.JPEG"))[:: 1 if os.environ.get("ALEXNET_ALL_SAMPLES") else 10]
    offsets = [*CORNERS, (16, 16), (7, 29)]
    total, count, worst = 0.0, 0, 0.0
    for begin in range(0, len(paths), 25):
        images = [path.read_bytes() for path in paths[begin : begin + 25]]
        for ours, image in zip(decode(images), images, strict=True):
            np.testing.assert_array_equal(ours, pillow(image))
        crops = [offsets[(begin + i) % len(offsets)] for i in range(len(images))]
        flips = [i % 2 == 1 for i in range(len(images))]
        off = differences(squares(images), [reference_square(i) for i in images])
        off += differences(train(images, crops, flips), plain_crops(images, crops, flips))
        worst = max(worst, *(o.max() for o in off))
        total, count = total + sum(o.sum() for o in off), count + sum(o.size for o in off)
        pillow.cache_clear()
        reference_square.cache_clear()
    print(f"{len(paths)} images: worst {worst}, mean {total / count:.2e} grey levels")
    assert worst <= 1
    assert total / count < 0.001


@pytest.mark.sample
def test_real_images_decoded_fast(sample_dir: Path) -> None:
    """Measured on 40: squares differ by 1.1 grey levels on average, by 16 at worst."""
    images = [path.read_bytes() for path in sorted(sample_dir.rglob("*.JPEG"))[::25]]
    off = differences(squares(images, "fast"), squares(images))
    print(f"fast: mean {np.mean([o.mean() for o in off]):.2f}, worst {max(o.max() for o in off)}")
    assert 0 < np.mean([o.mean() for o in off]) < 1.5
    assert max(o.max() for o in off) < 40


# -- GPUs --------------------------------------------------------------------------------------------------


def build_train(pipeline: Any, source: Any, *, mean: NDArray[np.float32], half: bool, decode: Decode = "exact") -> None:
    train_graph(pipeline, source, decode=decode, mean=mean, divisor=ONE, half=half)


GRAPHS: dict[str, Callable[..., None]] = {
    "train, colour": partial(build_train, mean=MEANS["colour"], half=False),
    "train, colour, half": partial(build_train, mean=MEANS["colour"], half=True),
    "train, mean image": partial(build_train, mean=MEANS["image"], half=False),
    "train, mean image, half": partial(build_train, mean=MEANS["image"], half=True),
    "train, raw": partial(build_train, mean=MEANS["image"], half=True, decode="raw"),
    "squares": partial(square_graph, decode="exact"),
    "squares, raw": partial(square_graph, decode="raw"),
    "images": partial(image_graph, decode="fast"),
}


class _PretendGpu:
    """A pipeline without a device that says it has one: DALI traces a GPU graph in it but need not run it."""

    device_id = 0

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def set_outputs(self, *outputs: Any) -> None:
        self._pipeline.set_outputs(*outputs)


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of the length-delimited fields of a protocol buffer."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 2:
            length, at = varint(data, at)
            yield tag >> 3, data[at : at + length]
            at += length
        elif tag & 7 == 0:
            _, at = varint(data, at)
        else:
            at += {1: 8, 5: 4}[tag & 7]


def operators(serialized: bytes) -> list[tuple[str, str]]:
    """(operator, device) of a DALI pipeline: dali.proto's PipelineDef.op = 5, OpDef.name = 1, OpDef.args = 4."""
    found = []
    for definition in (list(fields(content)) for number, content in fields(serialized) if number == 5):
        arguments = [list(fields(content)) for number, content in definition if number == 4]
        devices = [a[2][1].decode() for a in arguments if a[0] == (1, b"device")]
        found.append((dict(definition)[1].decode(), devices[0]))
    return found


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_operator_of_a_gpu_graph_exists_there(graph: str) -> None:
    exists = {device: getattr(ops, f"{device}_ops")() for device in ("cpu", "gpu", "mixed")}
    traced = {}
    for place in ("cpu", "gpu"):
        pipeline = new_pipeline(4, 1, None, prefetch=1)
        with pipeline:
            GRAPHS[graph](pipeline if place == "cpu" else _PretendGpu(pipeline), lambda: ())
        traced[place] = operators(pipeline.serialize())
        for name, device in traced[place]:
            assert name in exists[device] or name == "ExternalSource", f"{name} has no {device} operator"
    assert {device for _, device in traced["cpu"]} == {"cpu"}
    assert {name for name, _ in traced["cpu"]} == {name for name, _ in traced["gpu"]} - {"_TensorToGpu"}
    pixels = {name: device for name, device in traced["gpu"] if name != "ExternalSource"}
    decoders = [d for name, d in pixels.items() if name.startswith("decoders__")]
    assert decoders == ([] if "raw" in graph else ["mixed"])
    assert {d for name, d in pixels.items() if name in ("Resize", "CropMirrorNormalize", "Cast")} <= {"gpu"}
    assert ("Resize" in pixels) == (graph != "images")


def test_raw_squares_are_cropped_as_they_are() -> None:
    rng, count = np.random.default_rng(0), 6
    raw = [rng.integers(0, 256, (SHORT_SIDE, SHORT_SIDE, 3), dtype=np.uint8) for _ in range(count)]
    crops, flips = rng.integers(0, 33, (count, 2)), rng.integers(0, 2, count)
    feed = {"encoded": raw, "mirror": flips.astype(np.int32), "shift": np.zeros((count, 3), np.float32)}
    feed |= region_of_square(crops, CROP)._asdict()
    build = partial(train_graph, decode="raw", mean=ZERO, divisor=ONE, half=False)
    for ours, image, (y, x), flip in zip(run_graph(build, TRAIN_INPUTS, feed), raw, crops, flips, strict=True):
        np.testing.assert_array_equal(ours, augment.crop_and_flip(image, y, x, bool(flip)))
    feed |= region_of_square(0 * crops, SHORT_SIDE)._asdict()
    for ours, image in zip(run_graph(partial(square_graph, decode="raw"), SQUARE_INPUTS, feed), raw, strict=True):
        np.testing.assert_array_equal(ours, image)


@pytest.mark.gpu
def test_the_gpu_computes_what_the_cpu_does() -> None:
    """nvJPEG's transform and upsampling differ from libjpeg's by a few levels; the resampling is alike."""
    images, crops, flips, shift = batch_of(14, seed=5)
    how: dict[str, Any] = {"mean": MEANS["image"], "divisor": DIVISORS["1.1"]}
    jpegs = [i for i in images if i[:2] == b"\xff\xd8"]
    cpu: list[NDArray[Any]] = [*decode(images), *squares(jpegs)]
    gpu: list[NDArray[Any]] = [*decode(images, device_id=0), *squares(jpegs, device_id=0)]
    for half in (False, True):
        cpu += train(images, crops, flips, shift, **how, half=half)
        gpu += train(images, crops, flips, shift, **how, half=half, device_id=0)
    for off in differences(cpu, gpu):
        assert off.mean() < 1
        assert np.quantile(off, 0.99) < 6
    lossless = [encode(photo(5, 300, 400), "PNG")] * 2
    where: Any = ([(0, 0), (32, 9)], [True, False])
    for off in differences(train(lossless, *where), train(lossless, *where, device_id=0)):
        assert off.max() <= 1
