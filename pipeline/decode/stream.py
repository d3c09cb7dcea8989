"""Bytes into a DALI graph and its outputs out, even if some images cannot be decoded.

Reader threads fetch encoded images and check them (`read.py`); DALI's own threads decode; the consumer takes finished
batches. A bad image is named, counted and either replaced by the next good one in the data set (training) or dropped
from its batch (statistics, evaluation). DALI offers nothing like that: one image that it cannot decode ends its
pipeline. The stream then finds the culprit among the batches in flight (`probe.py`), builds a new pipeline, and feeds
it the same batches again. `tensors.py` turns the outputs into torch tensors.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..dataset.images import Dataset
from ..errors import TooManyBadFiles
from ..geometry import SHORT_SIDE, region_of_square, source_region
from .bad_images import BadImage, add_bad, describe_bad
from .crops import Memory
from .dct import decode_dct
from .graph import Source, new_pipeline
from .probe import DecodeProbe, describe_damage, raise_if_not_of_images
from .read import read_image
from .resident import Resident
from .settings import Settings

log = logging.getLogger("alexnet")

_Loaded = tuple[int, Any, tuple[int, int]]  # image, encoded bytes (numpy, or torch if resident), (height, width)


@dataclass(frozen=True)
class Request:
    """What one batch asks for: images (b,), their crops (b, 2), and further graph inputs of (b, ...)."""

    indices: NDArray[np.int64]
    crops: NDArray[np.integer]
    inputs: dict[str, NDArray[Any]] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class Feed:
    """A request with its bytes.

    `indices` (k,) are the images really used and `crops` (k, 2) their crops; `bad` has (image, reason) of each dropped.
    """

    request: Request
    indices: NDArray[np.int64]
    crops: NDArray[np.integer]
    inputs: dict[str, Any]
    bad: list[tuple[int, str]]


class ImageStream(Iterator[tuple[Any, Feed]]):
    """Iterate over (output, feed) in the order of the requests; the output of an empty batch is None.

    `build` fills a pipeline and `inputs` names its inputs. `crop` is the output size for `source_region`, or None if
    the graph decodes whole images. What packs hold besides JPEGs comes out as it was read: raw pixels on the CPU, and
    coefficients to crop; whoever wants whole images gets pixels of coefficients too. Of coefficients, the images that
    are `resident` are not read.

    `bad` maps every unusable image met so far to the reason. A stream that drops bad images does not try those again.
    One that replaces them does: the replacement must follow from the plan alone, not from what the run has met so far,
    since a resumed run has met less.
    """

    def __init__(
        self,
        dataset: Dataset,
        requests: Iterable[Request],
        build: Callable[[Any, Source], None],
        inputs: tuple[str, ...],
        *,
        batch_size: int,
        crop: int | None,
        on_bad: Literal["replace", "drop"],
        settings: Settings,
        bad: dict[int, str] | None = None,
        resident: Resident | None = None,
    ) -> None:
        self.bad: dict[int, str] = {} if bad is None else bad
        self._stop = threading.Event()
        self._dataset, self._settings, self._batch_size = dataset.until(self._stop), settings, batch_size
        self._build, self._names, self._crop = build, inputs, crop
        self._replace = on_bad == "replace"
        self._pool = ThreadPoolExecutor(settings.readers, thread_name_prefix="alexnet-read")
        self._read: queue.Queue[Feed | BaseException | None] = queue.Queue(settings.prefetch)
        self._again: deque[Feed] = deque()  # to be fed to the new pipeline
        self._in_flight: deque[Feed] = deque()  # inside the pipeline
        self._done: deque[tuple[Any, Feed]] = deque()
        self._refused: set[tuple[int, int, int]] = set()  # (image, top, left) that DALI could not decode
        self._ended = False
        self._recording = threading.Lock()
        self.stored = dataset.stored
        self._resident = resident
        self._decodes = dataset.stored == "encoded" or (dataset.stored == "raw" and settings.on_gpu)
        self._draws = dataset.stored == "dct" and crop is None
        self._blocks = Memory((SHORT_SIDE, SHORT_SIDE, 3), np.dtype(np.uint8), page_locked=True)
        self._pipeline: Any = self._new_pipeline() if self._decodes else None
        self._producer = threading.Thread(target=self._produce, args=(iter(requests),), daemon=True)
        self._producer.start()

    def __next__(self) -> tuple[Any, Feed]:
        if self._stop.is_set():
            raise StopIteration
        if not self._decodes:
            return self._next_stored()
        while not self._done:
            try:
                (output,) = self._pipeline.run()
            except RuntimeError as error:
                self._recover(error)
            except StopIteration:
                self._finish_empty()
                if not self._done:
                    raise
            else:
                self._finish_empty()
                self._done.append((output, self._in_flight.popleft()))
        return self._done.popleft()

    def _next_stored(self) -> tuple[Any, Feed]:
        if (feed := self.take()) is None:
            raise StopIteration
        return feed.inputs["encoded"] or None, feed

    def close(self) -> None:
        """End the threads; safe to call more than once."""
        self._stop.set()
        while self._producer.is_alive():
            try:
                self._read.get(timeout=0.05)  # make room: a blocked producer cannot see the event
            except queue.Empty:
                continue
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._in_flight.clear()
        self._ended = True
        self._pipeline = None

    def __enter__(self) -> ImageStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading, on the producer's thread -----------------------------------------------------------------

    def _produce(self, requests: Iterator[Request]) -> None:
        item: Feed | BaseException | None
        while not self._stop.is_set():
            try:
                request = next(requests, None)
                item = None if request is None else self._fill(request)
            except BaseException as error:  # raised again by `take`, in the consumer's thread
                item = error
            self._read.put(item)
            if not isinstance(item, Feed):
                return

    def _fill(self, request: Request) -> Feed:
        """Read a request's images and work out which part of each to decode."""
        parts = np.array_split(request.indices, min(self._settings.readers, len(request.indices)) or 1)
        crops = np.array_split(request.crops, len(parts))
        loaded = [image for part in self._pool.map(self._load_all, parts, crops) for image in part]
        rows = np.array([row for row, image in enumerate(loaded) if image is not None], np.int64)
        images = [image for image in loaded if image is not None]
        inputs: dict[str, Any] = {"encoded": self._gather([data for _, data, _ in images])}
        if self._crop is not None:
            shapes = np.array([shape for _, _, shape in images], np.int64).reshape(-1, 2)
            taken = request.crops[rows]
            packed = self.stored != "encoded"
            region = region_of_square(taken, self._crop) if packed else source_region(shapes, taken, self._crop)
            inputs |= region._asdict()
        inputs |= {name: values[rows] for name, values in request.inputs.items()}
        dropped = [int(i) for i, image in zip(request.indices, loaded, strict=True) if image is None]
        indices = np.array([index for index, _, _ in images], np.int64)
        return Feed(request, indices, request.crops[rows], inputs, [(i, self.bad[i]) for i in dropped])

    def _gather(self, stored: list[Any]) -> Any:
        """Put pixels for a GPU into a page-locked array (k, 256, 256, 3), which one copy sends; else change nothing."""
        if self.stored != "raw" or not self._settings.on_gpu:
            return stored
        block = self._blocks.take(len(stored))
        list(self._pool.map(block.__setitem__, range(len(stored)), stored))
        return block

    def _load_all(self, indices: NDArray[np.int64], crops: NDArray[np.integer]) -> list[_Loaded | None]:
        return [self._load(i, top, left) for i, (top, left) in zip(indices.tolist(), crops.tolist(), strict=True)]

    def _load(self, wanted: int, top: int, left: int) -> _Loaded | None:
        """Return the image, or else the next one usable at this crop; None if it is bad and the stream drops it."""
        for step in range(len(self._dataset) if self._replace else 1):
            index = (wanted + step) % len(self._dataset)
            if (index, top, left) in self._refused or (index in self.bad and not self._replace):
                continue
            if self._resident is not None and (held := self._resident.get(index)) is not None:
                return index, held, (SHORT_SIDE, SHORT_SIDE)
            try:
                data, shape = read_image(self._dataset, index, self._settings.max_pixels)
                return index, decode_dct(data) if self._draws else data, shape
            except BadImage as error:
                self._record(index, str(error))
        if self._replace:
            raise TooManyBadFiles(describe_bad(self._dataset, self.bad, self._settings.max_bad))
        return None

    def _record(self, index: int, reason: str) -> None:
        with self._recording:  # two readers may meet the same image at once
            if index in self.bad:
                return
            log.warning("Bad image %s: %s", self._dataset.name(index), reason)
            add_bad(self._dataset, self.bad, {index: reason}, self._settings.max_bad)

    # -- decoding, on the consumer's thread ----------------------------------------------------------------

    def _new_pipeline(self) -> Any:
        s = self._settings
        pipeline = new_pipeline(self._batch_size, s.threads, s.device_id, s.prefetch)
        with pipeline:
            self._build(pipeline, self._feed)
        pipeline.build()
        return pipeline

    def _feed(self) -> tuple[Any, ...]:
        """Return the next batch that is not empty; this is the pipeline's source."""
        while (feed := self._again.popleft() if self._again else self.take()) is not None:
            if not self._refused.isdisjoint(_places(feed)):  # DALI has refused one since the feed was read
                feed = self._fill(feed.request)
            self._in_flight.append(feed)
            if len(feed.indices):
                return tuple(feed.inputs[name] for name in self._names)
        raise StopIteration

    def take(self) -> Feed | None:
        """Return the next batch as it was read, before decoding; None after the last, on every call."""
        item = None if self._ended else self._read.get()
        self._ended = not isinstance(item, Feed)
        if isinstance(item, BaseException):
            raise item
        return item

    def _finish_empty(self) -> None:
        """Pass on empty batches, which never enter the pipeline, when it is their turn."""
        while self._in_flight and not len(self._in_flight[0].indices):
            self._done.append((None, self._in_flight.popleft()))

    def _recover(self, error: RuntimeError) -> None:
        """Find the images in flight that cannot be decoded, and feed the batches again without them.

        Raise the error if no image is to blame.
        """
        raise_if_not_of_images(error)
        if self.stored != "encoded":
            raise error  # pixels need no decoder
        probe = DecodeProbe(self._settings.device_id, whole=self._crop is None)
        culprits = {
            place: feed.inputs["encoded"][row]
            for feed in self._in_flight
            for row, place in enumerate(_places(feed))
            if not probe.decodes(feed.inputs, row)
        }
        if not culprits:
            raise error
        self._refused |= culprits.keys()
        for (index, _, _), data in culprits.items():
            self._record(index, describe_damage(data))
        self._again.extendleft(reversed([self._fill(feed.request) for feed in self._in_flight]))
        self._in_flight.clear()
        self._pipeline = self._new_pipeline()


def _places(feed: Feed) -> list[tuple[int, int, int]]:
    """Return (image, top, left) for each row of a feed."""
    return [(i, top, left) for i, (top, left) in zip(feed.indices.tolist(), feed.crops.tolist(), strict=True)]
