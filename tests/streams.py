"""Streams over images good and bad, and what should come of them."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nvidia.dali")
from alexnet.pipeline.dataset.images import Dataset, Listing
from alexnet.pipeline.decode.graph import (
    SQUARE_INPUTS,
    TRAIN_INPUTS,
    new_pipeline,
    square_graph,
    train_graph,
)
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.decode.stream import Feed, ImageStream, Request
from alexnet.pipeline.geometry import CROP, SHORT_SIDE, source_region

TOLERANT = Settings(threads=1, readers=2, max_bad=1.0)
SQUARES = partial(square_graph, decode="exact")
TRAIN = partial(
    train_graph, decode="exact", mean=np.full(3, 100, np.float32), divisor=np.full(3, 1.1, np.float32), half=False
)


# -- images, good and bad ----------------------------------------------------------------------------------


@cache
def jpeg(i: int, height: int = 120, width: int = 150, **options: Any) -> bytes:
    rng = np.random.default_rng(i)
    picture = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def claim(image: bytes, height: int, width: int) -> bytes:
    """The JPEG with another size in its header."""
    at = image.index(b"\xff\xc0") + 5
    return image[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + image[at + 4 :]


def noise(form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(stream, form)
    return stream.getvalue()


def corrupt_tables(image: bytes) -> bytes:
    """A JPEG whose header is readable and whose Huffman tables are not: only the decoder can tell."""
    at = image.index(b"\xff\xc4") + 5
    return image[:at] + b"\xff" * 16 + image[at + 16 :]


BAD: dict[str, tuple[bytes, str]] = {  # bytes, and what the reason must say
    "empty": (b"", "the file is empty"),
    "text": (b"Sorry, this photo is no longer available.\n" * 20, "not an image"),
    "signature only": (b"\xff\xd8", "not an image|truncated"),
    "cut in the header": (jpeg(1)[:100], "not an image|truncated"),
    "cut early": (jpeg(1)[: len(jpeg(1)) // 4], "truncated"),
    "cut late": (jpeg(1)[: len(jpeg(1)) * 9 // 10], "truncated"),
    "without its last byte": (jpeg(1)[:-1], "truncated"),
    "cut, with a thumbnail": (jpeg(2)[:20] + b"\xff\xfe\x00\x06\xff\xda\xff\xd9" + jpeg(2)[20:-300], "truncated"),
    "progressive, cut": (jpeg(1, progressive=True)[:-200], "truncated"),
    "20000 x 20000": (claim(jpeg(1), 20000, 20000), "claims 20000x20000 pixels, more than --max-pixels 100000000"),
    "no rows": (claim(jpeg(1), 0, 150), "claims|not an image"),
    "tables": (corrupt_tables(jpeg(1)), "damaged .*broken data stream"),
    "png, cut": (noise("PNG")[: len(noise("PNG")) // 2], "truncated"),
    "jpeg 2000": (noise("JPEG2000"), "a JPEG 2000 image, which is not supported"),
    "tiff": (noise("TIFF"), "a TIFF image, which is not supported"),
    "portable pixels": (noise("PPM"), "a PNM image, which is not supported"),
    "gif": (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "a GIF image, which is not supported"),
}


def make_dataset(root: Path, images: Sequence[bytes]) -> Dataset:
    listing = Listing()
    root.mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(images):
        (root / f"{i}.JPEG").write_bytes(content)
        listing.add(f"{i}.JPEG", i % 3, len(content))
    return listing.dataset(root, "train", "abc")


def requests_for(n: int, batch: int, num_batches: int | None = None, seed: int = 0) -> list[Request]:
    rng = np.random.default_rng(seed)
    order = np.resize(np.arange(n), batch * (num_batches or -(-n // batch)))[: None if num_batches else n]
    return [
        Request(
            part := order[s : s + batch],
            rng.integers(0, 33, (len(part), 2)),
            {
                "mirror": rng.integers(0, 2, len(part)).astype(np.int32),
                "shift": rng.normal(0, 20, (len(part), 3)).astype(np.float32),
            },
            step=s // batch,
        )
        for s in range(0, len(order), batch)
    ]


Taken = list[tuple[Any, Feed]]  # images or None


def take_all(stream: ImageStream) -> Taken:
    with stream:
        return [(None if output is None else np.array(output.as_tensor()), feed) for output, feed in stream]


def squares_of(
    dataset: Dataset, requests: Sequence[Request], batch: int, how: Settings = TOLERANT, **more: Any
) -> Taken:
    plain = [Request(r.indices, np.zeros((len(r.indices), 2), np.int64)) for r in requests]
    return take_all(
        ImageStream(
            dataset,
            plain,
            SQUARES,
            SQUARE_INPUTS,
            batch_size=batch,
            crop=SHORT_SIDE,
            on_bad="drop",
            settings=how,
            **more,
        )
    )


def training(
    dataset: Dataset, requests: Sequence[Request], batch: int, how: Settings = TOLERANT, **more: Any
) -> ImageStream:
    return ImageStream(
        dataset, requests, TRAIN, TRAIN_INPUTS, batch_size=batch, crop=CROP, on_bad="replace", settings=how, **more
    )


def alone(
    dataset: Dataset, feed: dict[str, Any], build: Any, names: Sequence[str], indices: Sequence[int], size: int
) -> Any:
    """The graph on these images, without a stream."""
    data = [(dataset.root / f"{i}.JPEG").read_bytes() for i in indices]
    shapes = np.array([Image.open(io.BytesIO(d)).size[::-1] for d in data])
    inputs = {
        "encoded": [np.frombuffer(d, np.uint8) for d in data],
        **source_region(shapes, feed["crops"], size)._asdict(),
        **feed,
    }
    pipeline = new_pipeline(len(indices), 1, None, prefetch=1)
    with pipeline:
        build(pipeline, lambda: tuple(inputs[name] for name in names))
    return np.array(pipeline.run()[0].as_tensor())


def expected_training(dataset: Dataset, request: Request, indices: Sequence[int]) -> Any:
    return alone(dataset, {"crops": request.crops, **request.inputs}, TRAIN, TRAIN_INPUTS, indices, CROP)


def next_good(i: int, bad: set[int], n: int) -> int:
    while i in bad:
        i = (i + 1) % n
    return i


def check_training(dataset: Dataset, requests: Sequence[Request], taken: Taken, bad: set[int]) -> None:
    assert [feed.request.step for _, feed in taken] == [r.step for r in requests]
    for request, (output, feed) in zip(requests, taken, strict=True):
        want = [next_good(int(i), bad, len(dataset)) for i in request.indices]
        assert feed.indices.tolist() == want
        np.testing.assert_array_equal(output, expected_training(dataset, request, want))


def check_squares(dataset: Dataset, requests: Sequence[Request], taken: Taken, bad: set[int]) -> None:
    assert len(taken) == len(requests)
    for request, (output, feed) in zip(requests, taken, strict=True):
        asked = request.indices.tolist()
        good = [i for i in asked if i not in bad]
        assert feed.indices.tolist() == good
        assert [i for i, _ in feed.bad] == [i for i in asked if i in bad]
        if good:
            crops = np.zeros((len(good), 2), np.int64)
            np.testing.assert_array_equal(
                output, alone(dataset, {"crops": crops}, SQUARES, SQUARE_INPUTS, good, SHORT_SIDE)
            )
        else:
            assert output is None


def our_threads() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("alexnet"))


pytestmark = pytest.mark.usefixtures("no_thread_is_left")
