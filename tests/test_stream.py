"""Bad images are named once, replaced or dropped in their place, and nothing else changes; nothing hangs.

Training batches are compared with the same images, crops, flips and lighting through a graph without any stream.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("nvidia.dali")
from streams import (
    BAD,
    SQUARES,
    TOLERANT,
    TRAIN,
    alone,
    check_squares,
    check_training,
    corrupt_tables,
    expected_training,
    jpeg,
    make_dataset,
    next_good,
    noise,
    requests_for,
    squares_of,
    take_all,
    training,
)

from alexnet.pipeline.decode.bad_images import BadImage
from alexnet.pipeline.decode.graph import (
    IMAGE_INPUTS,
    SQUARE_INPUTS,
    TRAIN_INPUTS,
    image_graph,
)
from alexnet.pipeline.decode.read import read_image
from alexnet.pipeline.decode.stream import ImageStream, Request
from alexnet.pipeline.geometry import CROP, SHORT_SIDE

# -- dropped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_image_is_dropped_with_its_reason(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, reason = BAD[kind]
    images = [jpeg(i) for i in range(6)]
    images[2] = content
    dataset, requests = make_dataset(tmp_path, images), requests_for(6, 2)
    with caplog.at_level(logging.WARNING):
        taken = squares_of(dataset, requests, 2)
    check_squares(dataset, requests, taken, {2})
    ((index, said),) = [b for _, feed in taken for b in feed.bad]
    assert index == 2
    assert re.search(reason, said), said
    assert [r.getMessage() for r in caplog.records] == [f"Bad image 2.JPEG: {said}"]


def all_bad_among_good() -> tuple[list[bytes], set[int]]:
    """good, bad, bad, good, bad, bad, ... over every kind, ending with a bad one."""
    images: list[bytes] = []
    bad: set[int] = set()
    for k, (content, _) in enumerate(BAD.values()):
        if k % 2 == 0:
            images.append(jpeg(len(images)))
        bad.add(len(images))
        images.append(content)
    return images, bad


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
@pytest.mark.parametrize("prefetch", [1, 3])
def test_every_bad_image_is_reported_once_in_order(
    tmp_path: Path, batch: int, prefetch: int, caplog: pytest.LogCaptureFixture
) -> None:
    images, bad = all_bad_among_good()
    dataset, requests = make_dataset(tmp_path, images), requests_for(len(images), batch)
    with caplog.at_level(logging.WARNING):
        taken = squares_of(dataset, requests, batch, replace(TOLERANT, prefetch=prefetch))
    check_squares(dataset, requests, taken, bad)
    dropped = [i for _, feed in taken for i, _ in feed.bad]
    assert dropped == sorted(bad)
    assert len(caplog.records) == len(bad)


def test_a_batch_of_nothing_but_bad_images(tmp_path: Path) -> None:
    bad = [content for content, _ in BAD.values()]
    images = [*bad[:4], jpeg(1), jpeg(2), *bad[4:10], jpeg(3), *bad[10:]]
    dataset = make_dataset(tmp_path, images)
    which = {i for i, image in enumerate(images) if image in bad}
    for batch in (2, 3, 4):
        requests = requests_for(len(images), batch)
        check_squares(dataset, requests, squares_of(dataset, requests, batch), which)


def test_nothing_but_bad_images(tmp_path: Path) -> None:
    images = [content for content, _ in BAD.values()]
    dataset, requests = make_dataset(tmp_path, images), requests_for(len(images), 3)
    check_squares(dataset, requests, squares_of(dataset, requests, 3), set(range(len(images))))


def test_what_is_left_of_a_batch_keeps_its_own_crops_and_inputs(tmp_path: Path) -> None:
    images = [jpeg(i) for i in range(6)]
    images[0], images[4] = BAD["text"][0], BAD["tables"][0]
    dataset, requests = make_dataset(tmp_path, images), requests_for(6, 3)
    taken = take_all(
        ImageStream(dataset, requests, TRAIN, TRAIN_INPUTS, batch_size=3, crop=CROP, on_bad="drop", settings=TOLERANT)
    )
    for request, (output, feed), rows in zip(requests, taken, ([1, 2], [0, 2]), strict=True):
        assert feed.indices.tolist() == request.indices[rows].tolist()
        kept = Request(feed.indices, request.crops[rows], {k: v[rows] for k, v in request.inputs.items()})
        np.testing.assert_array_equal(output, expected_training(dataset, kept, feed.indices.tolist()))


def test_no_requests_and_empty_requests(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [jpeg(0)])
    assert squares_of(dataset, [], 1) == []
    nothing = Request(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
    taken = squares_of(dataset, [nothing, *requests_for(1, 1), nothing], 1)
    assert [feed.indices.tolist() for _, feed in taken] == [[], [0], []]
    assert [output is None for output, _ in taken] == [True, False, True]


def test_files_that_change_after_they_were_listed(tmp_path: Path) -> None:
    dataset, requests = make_dataset(tmp_path, [jpeg(i) for i in range(6)]), requests_for(6, 3)
    (tmp_path / "1.JPEG").unlink()
    (tmp_path / "3.JPEG").write_bytes(jpeg(3) + b"more")
    (tmp_path / "4.JPEG").write_bytes(b"")
    taken = squares_of(dataset, requests, 3)
    check_squares(dataset, requests, taken, {1, 3, 4})
    reasons = dict(b for _, feed in taken for b in feed.bad)
    assert reasons[1] == "cannot be read (No such file or directory)"
    assert f"has {len(jpeg(3)) + 4} bytes where {len(jpeg(3))} were listed" in reasons[3]
    assert "has 0 bytes" in reasons[4]


def test_no_image_is_bad_because_too_many_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, **_: object) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    dataset, requests = make_dataset(tmp_path, [jpeg(i) for i in range(6)]), requests_for(6, 3)
    monkeypatch.setattr("alexnet.pipeline.dataset.images.read_regular", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        squares_of(dataset, requests, 3)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [jpeg(0) + b"\x00" * 50, jpeg(1) + b"trailing text", jpeg(2)])
    requests = requests_for(3, 3)
    check_squares(dataset, requests, squares_of(dataset, requests, 3), set())


def test_known_bad_images_are_not_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, requests = make_dataset(tmp_path, [jpeg(i) for i in range(4)]), requests_for(4, 2)
    taken = squares_of(dataset, requests, 2, bad={1: "found earlier"})
    check_squares(dataset, requests, taken, {1})
    assert taken[0][1].bad == [(1, "found earlier")]
    assert caplog.records == []


def test_whole_images(tmp_path: Path) -> None:
    images = [jpeg(0, 50, 70), b"", jpeg(1, 90, 20), corrupt_tables(jpeg(2)), noise("PNG")]
    dataset = make_dataset(tmp_path, images)
    plain = [Request(r.indices, r.crops) for r in requests_for(5, 2)]
    stream = ImageStream(
        dataset,
        plain,
        partial(image_graph, decode="exact"),
        IMAGE_INPUTS,
        batch_size=2,
        crop=None,
        on_bad="drop",
        settings=TOLERANT,
    )
    with stream:
        got = [
            (np.array(image), int(i))
            for output, feed in stream
            if output is not None
            for image, i in zip(output, feed.indices, strict=True)
        ]
    assert [i for _, i in got] == [0, 2, 4]
    for image, i in got:
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(images[i]))))


# -- replaced ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["empty", "cut late", "tables", "20000 x 20000"])
def test_the_next_good_image_takes_the_place_crop_flip_and_lighting(tmp_path: Path, kind: str) -> None:
    images = [jpeg(i, 100 + 9 * i, 130) for i in range(7)]
    images[3] = images[4] = images[6] = BAD[kind][0]  # two in a row, and the last: its substitute is the first
    dataset, requests = make_dataset(tmp_path, images), requests_for(7, 3, num_batches=6)
    stream = training(dataset, requests, 3)
    check_training(dataset, requests, take_all(stream), {3, 4, 6})
    assert set(stream.bad) == {3, 4, 6}


@pytest.mark.parametrize(("batch", "prefetch", "readers"), [(1, 1, 1), (3, 2, 4), (4, 4, 2), (20, 1, 3)])
def test_bad_images_in_consecutive_batches(tmp_path: Path, batch: int, prefetch: int, readers: int) -> None:
    images, bad = all_bad_among_good()
    dataset, requests = make_dataset(tmp_path, images), requests_for(len(images), batch, num_batches=40 // batch)
    how = replace(TOLERANT, prefetch=prefetch, readers=readers)
    check_training(dataset, requests, take_all(training(dataset, requests, batch, how)), bad)


def test_two_ranks_replace_alike(tmp_path: Path) -> None:
    images, bad = all_bad_among_good()
    dataset, requests = make_dataset(tmp_path, images), requests_for(len(images), 6)
    whole = take_all(training(dataset, requests, 6))
    for rank in (0, 1):
        rows = slice(3 * rank, 3 * rank + 3)
        mine = [
            Request(r.indices[rows], r.crops[rows], {k: v[rows] for k, v in r.inputs.items()}, step=r.step)
            for r in requests
        ]
        mine = [r for r in mine if len(r.indices)]
        for (ours, feed), (both, all_of_it) in zip(take_all(training(dataset, mine, 3)), whole, strict=False):
            assert feed.indices.tolist() == all_of_it.indices[rows].tolist()
            np.testing.assert_array_equal(ours, both[rows])
    check_training(dataset, requests, whole, bad)


def test_whether_a_cut_jpeg_is_bad_does_not_depend_on_the_crop(tmp_path: Path) -> None:
    """Its upper rows do decode; were that enough, a run resumed later would use other images than an unbroken one."""
    tall = jpeg(1, 600, 300)
    for image in (tall[: len(tall) * 19 // 20], tall[:-2]):
        dataset = make_dataset(tmp_path, [image, jpeg(2)])
        for top in (0, 32):
            feed = Request(
                np.array([0]),
                np.array([[top, 0]]),
                {"mirror": np.zeros(1, np.int32), "shift": np.zeros((1, 3), np.float32)},
            )
            assert [f.indices.tolist() for _, f in take_all(training(dataset, [feed], 1))] == [[1]]


# -- headers and fuzz --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [150 * 120, 150 * 120 - 1])
def test_max_pixels_is_inclusive(tmp_path: Path, pixels: int) -> None:
    dataset = make_dataset(tmp_path, [jpeg(0)])
    if pixels == 150 * 120:
        data, shape = read_image(dataset, 0, pixels)
        assert (data.tobytes(), shape) == (jpeg(0), (120, 150))
    else:
        with pytest.raises(BadImage, match=r"claims 150x120 pixels, more than --max-pixels 17999"):
            read_image(dataset, 0, pixels)


def mutate(data: st.DataObject) -> bytes:
    image = data.draw(st.sampled_from([jpeg(0), jpeg(1, 90, 60, progressive=True), jpeg(2, 300, 41), noise("PNG")]))
    mutant = bytearray(image)
    header = st.integers(0, min(700, len(image) - 1))
    for _ in range(data.draw(st.integers(0, 4))):
        mutant[data.draw(st.one_of(header, st.integers(0, len(image) - 1)))] = data.draw(
            st.sampled_from([0, 1, 127, 192, 194, 216, 217, 218, 255])
        )
    cut = data.draw(st.one_of(st.just(len(mutant)), st.integers(0, len(mutant))))
    return bytes(mutant[:cut]) + data.draw(st.sampled_from([b"", b"\xff\xd9", b"\x00" * 9]))


@settings(max_examples=40)
@given(data=st.data())
def test_mutated_images_are_images_or_bad(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    images = [jpeg(0), mutate(data), jpeg(1), mutate(data), mutate(data), jpeg(2)]
    dataset = make_dataset(tmp_path_factory.getbasetemp() / "mutants", images)
    requests, limit = requests_for(6, 3), replace(TOLERANT, max_pixels=2_000_000)
    taken = squares_of(dataset, requests, 3, limit)
    bad = {i for _, feed in taken for i, _ in feed.bad}
    assert bad <= {1, 3, 4}
    assert [len(feed.indices) + len(feed.bad) for _, feed in taken] == [3, 3]
    for output, feed in taken:
        for square, i in zip(output, feed.indices.tolist(), strict=True):
            if i in (0, 2, 5):
                crops = np.zeros((1, 2), np.int64)
                np.testing.assert_array_equal(
                    square, alone(dataset, {"crops": crops}, SQUARES, SQUARE_INPUTS, [i], SHORT_SIDE)[0]
                )
    again = take_all(training(dataset, requests, 3, limit))
    assert [f.indices.tolist() for _, f in again] == [[next_good(int(i), bad, 6) for i in r.indices] for r in requests]
