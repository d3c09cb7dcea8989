"""How a stream ends: closed early, by an exception, or because too much is bad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvidia.dali")
from nvidia.dali.pipeline import Pipeline
from streams import BAD, check_squares, jpeg, make_dataset, our_threads, requests_for, squares_of, take_all, training

from alexnet.pipeline.decode.probe import DecodeProbe
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.decode.stream import Request
from alexnet.pipeline.errors import TooManyBadFiles

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("kind", ["empty", "tables"])
def test_more_than_the_limit_ends_the_run(tmp_path: Path, kind: str) -> None:
    images = [jpeg(i) for i in range(10)]
    images[2] = images[5] = images[7] = images[8] = BAD[kind][0]
    dataset, requests = make_dataset(tmp_path, images), requests_for(10, 2)
    allowed = Settings(threads=1, readers=1, max_bad=0.4)
    check_squares(dataset, requests, squares_of(dataset, requests, 2, allowed), {2, 5, 7, 8})
    strict = replace(allowed, max_bad=0.3)
    for start in (
        lambda: take_all(training(dataset, requests, 2, strict)),
        lambda: squares_of(dataset, requests, 2, strict),
    ):
        with pytest.raises(TooManyBadFiles) as caught:
            start()
        message = str(caught.value)
        assert message.startswith("4 of 10 images (40.00%) cannot be used, more than --max-bad 0.3 allows. 2.JPEG: ")
        assert "7.JPEG: " in message
        assert message.endswith("; ...")


def test_no_image_left_to_replace_with(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [BAD["text"][0], BAD["tables"][0], BAD["empty"][0]])
    with pytest.raises(TooManyBadFiles, match="3 of 3 images"):
        take_all(training(dataset, requests_for(3, 2), 2))
    with pytest.raises(TooManyBadFiles, match="3 of 3 images"):
        take_all(training(dataset, requests_for(3, 2), 2, bad=dict.fromkeys(range(3), "known")))


# -- ends --------------------------------------------------------------------------------------------------


def test_closing_early_ends_every_thread(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [jpeg(i) for i in range(8)])
    for taken in (0, 1, 5):
        stream = training(dataset, requests_for(8, 2, num_batches=1000), 2)
        for _ in range(taken):
            next(stream)
        assert our_threads()
        stream.close()
        assert our_threads() == []
        stream.close()


def test_a_finished_stream_stays_finished(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [jpeg(i) for i in range(4)])
    with training(dataset, requests_for(4, 2), 2) as stream:
        assert len(list(stream)) == 2
        assert list(stream) == []
    assert list(stream) == []


def test_an_exception_in_the_consumer_ends_every_thread(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [jpeg(i) for i in range(8)])

    def consume() -> None:
        with training(dataset, requests_for(8, 2, num_batches=1000), 2) as stream:
            for _ in stream:
                raise KeyError("out of memory, say")

    with pytest.raises(KeyError):
        consume()
    assert our_threads() == []


@pytest.mark.parametrize("error", [ValueError("a bad plan"), RuntimeError("a bad plan"), OSError("a bad plan")])
def test_an_exception_in_the_requests_reaches_the_consumer(tmp_path: Path, error: Exception) -> None:
    dataset = make_dataset(tmp_path, [jpeg(i) for i in range(8)])

    def plan() -> Iterator[Request]:
        yield from requests_for(8, 2)
        raise error

    with training(dataset, plan(), 2) as stream, pytest.raises(type(error), match="a bad plan"):
        list(stream)
    assert our_threads() == []


def test_an_error_that_is_no_images_fault_is_raised_as_it_is(tmp_path: Path) -> None:
    dataset, requests = make_dataset(tmp_path, [jpeg(i) for i in range(4)]), requests_for(4, 2)
    requests[1].inputs["shift"] = np.zeros((2, 5), np.float32)
    with training(dataset, requests, 2) as stream, pytest.raises(RuntimeError):
        list(stream)
    assert stream.bad == {}


OUT_OF_MEMORY = "Critical error in pipeline:\nCUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"
LOST = "CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access was encountered"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (OUT_OF_MEMORY, pytest.raises(MemoryError, match="while decoding images: CUDA runtime API error cudaErrorMem")),
        ("Can't allocate 9 bytes on device 0.", pytest.raises(MemoryError, match="Can't allocate 9 bytes on device 0")),
        (LOST, pytest.raises(RuntimeError, match="cudaErrorIllegalAddress")),
        ("unspecified", pytest.raises(RuntimeError, match="unspecified")),  # only a good image shows whose fault it is
    ],
)
def test_a_device_that_fails_makes_no_image_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, expected: Any
) -> None:
    """From the fourth batch on, whatever is run fails."""
    dataset = make_dataset(tmp_path, [jpeg(i) for i in range(20)])
    run, broken = Pipeline.run, False

    def fail(*args: Any, **how: Any) -> Any:
        if broken:
            raise RuntimeError(message)
        return run(*args, **how)

    monkeypatch.setattr(Pipeline, "run", fail)
    with training(dataset, requests_for(20, 2), 2) as stream, expected:
        for number, _ in enumerate(stream):
            broken = number == 2
    assert stream.bad == {}


def test_an_image_is_bad_only_if_the_device_still_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged image among good ones, met at the moment when the device fails for good."""
    images = [jpeg(i) for i in range(8)]
    images[3] = BAD["tables"][0]
    dataset = make_dataset(tmp_path, images)
    monkeypatch.setattr(DecodeProbe, "_new_pipeline", refuse)
    with training(dataset, requests_for(8, 2), 2) as stream, pytest.raises(RuntimeError, match="the device is gone"):
        list(stream)
    assert stream.bad == {}


def refuse(*args: Any) -> None:
    raise RuntimeError("the device is gone")
