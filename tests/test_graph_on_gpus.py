"""The graphs as GPUs run them: operator by operator here, and against the CPU if there is a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("nvidia.dali")
from graphs import (
    DIVISORS,
    MEANS,
    ONE,
    ZERO,
    PretendGpu,
    batch_of,
    decode,
    differences,
    encode,
    photo,
    run_graph,
    squares,
    train,
)
from nvidia.dali import ops

from alexnet.pipeline import augment
from alexnet.pipeline.decode.graph import (
    SQUARE_INPUTS,
    TRAIN_INPUTS,
    image_graph,
    new_pipeline,
    square_graph,
    train_graph,
)
from alexnet.pipeline.decode.settings import Decode
from alexnet.pipeline.geometry import CROP, SHORT_SIDE, region_of_square


def build_train(pipeline: Any, source: Any, *, mean: NDArray[np.float32], half: bool, decode: Decode = "exact") -> None:
    train_graph(pipeline, source, decode=decode, mean=mean, divisor=ONE, half=half)


GRAPHS: dict[str, Callable[..., None]] = {
    "train, colour": partial(build_train, mean=MEANS["colour"], half=False),
    "train, colour, half": partial(build_train, mean=MEANS["colour"], half=True),
    "train, mean image": partial(build_train, mean=MEANS["image"], half=False),
    "train, mean image, half": partial(build_train, mean=MEANS["image"], half=True),
    "train, raw": partial(build_train, mean=MEANS["image"], half=True, decode="raw"),
    "train, fast": partial(build_train, mean=MEANS["image"], half=True, decode="fast"),
    "squares": partial(square_graph, decode="exact"),
    "squares, fast": partial(square_graph, decode="fast"),
    "squares, raw": partial(square_graph, decode="raw"),
    "images": partial(image_graph, decode="fast"),
}


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, content) of the length-delimited fields of a protocol buffer."""
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


class Node(NamedTuple):
    """What operators give and take. A copy on the GPU needs no operator, and has the name of what it is a copy of."""

    name: str
    device: str


class Operator(NamedTuple):
    """One operator of a serialised pipeline."""

    name: str
    device: str
    inputs: list[Node]
    arguments: dict[str, Node]
    outputs: list[Node]


def operators(serialized: bytes) -> list[Operator]:
    """Read a pipeline as DALI writes it, by the numbers of the fields in its dali.proto.

    PipelineDef.op = 5; OpDef.name = 1, input = 2, output = 3, args = 4; InputOutput.name = 1, device = 2, arg_name = 4.
    """
    found = []
    for definition in (list(fields(content)) for number, content in fields(serialized) if number == 5):
        settings = [list(fields(content)) for number, content in definition if number == 4]
        (device,) = (setting[2][1].decode() for setting in settings if setting[0] == (1, b"device"))
        taken, given = ([strings(content) for number, content in definition if number == kind] for kind in (2, 3))
        inputs = [Node(end[1], end[2]) for end in taken if 4 not in end]
        arguments = {end[4]: Node(end[1], end[2]) for end in taken if 4 in end}
        outputs = [Node(end[1], end[2]) for end in given]
        found.append(Operator(dict(definition)[1].decode(), device, inputs, arguments, outputs))
    return found


def strings(message: bytes) -> dict[int, str]:
    return {number: content.decode() for number, content in fields(message)}


def traced(graph: str, place: str) -> list[Operator]:
    """Trace a graph for a device, which need not be there, and return its operators."""
    pipeline = new_pipeline(4, 1, None, prefetch=1)
    with pipeline:
        GRAPHS[graph](pipeline if place == "cpu" else PretendGpu(pipeline), lambda: ())
    return operators(pipeline.serialize())


def decodes_whole_images_on_gpus(graph: str) -> bool:
    """nvJPEG before 13.2 does not decode regions as exactly as whole images, and DALI would leave them to the CPU."""
    return not any(word in graph for word in ("raw", "fast", "images"))


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_operator_of_a_gpu_graph_exists_there(graph: str) -> None:
    exists = {device: getattr(ops, f"{device}_ops")() for device in ("cpu", "gpu", "mixed")}
    cpu, gpu = traced(graph, "cpu"), traced(graph, "gpu")
    for operator in (*cpu, *gpu):
        there = operator.name in exists[operator.device] or operator.name == "ExternalSource"
        assert there, f"{operator.name} has no {operator.device} operator"
    assert {operator.device for operator in cpu} == {"cpu"}
    names, names_on_gpu = {operator.name for operator in cpu}, {operator.name for operator in gpu}
    if decodes_whole_images_on_gpus(graph):
        names = names - {"decoders__ImageSlice"} | {"decoders__Image", "Slice"}
    assert names_on_gpu == names
    pixels = {operator.name: operator.device for operator in gpu if operator.name != "ExternalSource"}
    decoders = [d for name, d in pixels.items() if name.startswith("decoders__")]
    assert decoders == ([] if "raw" in graph else ["mixed"])
    assert {d for name, d in pixels.items() if name in ("Resize", "CropMirrorNormalize", "Cast")} <= {"gpu"}
    assert ("Resize" in pixels) == (graph != "images")


@pytest.mark.parametrize("graph", GRAPHS)
def test_what_a_gpu_operator_takes_is_where_it_takes_it(graph: str) -> None:
    """Pixels are on its device, or on the CPU for what is between the two; named arguments are always on the CPU."""
    made = set[Node]()
    for operator in traced(graph, "gpu"):
        for argument, node in operator.arguments.items():
            assert node in made
            assert node.device == "cpu", f"{argument} of {operator.name}"
        for node in operator.inputs:
            assert made & {node, node._replace(device="cpu")}
            assert node.device == ("gpu" if operator.device == "gpu" else "cpu"), f"{operator.name} takes {node}"
        made |= {*operator.outputs}
    assert operator.outputs[0].device == "gpu"


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
@pytest.mark.parametrize("quality", ["exact", "fast"])
def test_the_gpu_computes_what_the_cpu_does(quality: Decode) -> None:
    """nvJPEG's transform and upsampling differ from libjpeg's by a few levels; the resampling is alike."""
    images, crops, flips, shift = batch_of(14, seed=5)
    how: dict[str, Any] = {"mean": MEANS["image"], "divisor": DIVISORS["1.1"], "how": quality}
    jpegs = [i for i in images if i[:2] == b"\xff\xd8"]
    cpu: list[NDArray[Any]] = [*decode(images, quality), *squares(jpegs, quality)]
    gpu: list[NDArray[Any]] = [*decode(images, quality, 0), *squares(jpegs, quality, 0)]
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
