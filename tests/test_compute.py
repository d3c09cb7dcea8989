"""The pass: the same bits however it is split, ordered, killed and resumed; bad files; damaged states."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import warm
from numpy.typing import NDArray

from alexnet.pca import compute
from alexnet.pca.compute import compute_stats, compute_stats_sharded, merge_stats
from alexnet.pca.moments import RgbMoments
from alexnet.pca.state import SAMPLE_PER_IMAGE, PassState
from alexnet.pca.stats import RgbStats
from alexnet.pipeline.decode.settings import Settings
from alexnet.pipeline.errors import StatsError, TooManyBadFiles
from alexnet.pipeline.squares import Decoded

COUNT = 60
LENIENT = Settings(max_bad=0.2)


@dataclass
class FakeDataset:
    """What `compute_stats` needs of a data set."""

    count: int = COUNT
    fingerprint: str = "f" * 32

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        return f"n01/{i:04}.JPEG"


def picture(index: int, height: int = 256, width: int = 256) -> NDArray[np.uint8]:
    """Cheap, and different for every index: uint8 (height, width, 3)."""
    rng = np.random.default_rng(index)
    small = rng.integers(0, 200, 3) + rng.integers(0, 56, (height // 8, width // 8, 3))
    return small.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)


@dataclass
class Source:
    """A decoder that needs no files: some images are bad, and it may fail after so many batches."""

    batch_size: int = 7
    bad: dict[int, str] = field(default_factory=dict)
    fail_after: int | None = None
    seconds: float = 0.0
    whole: bool = False
    asked: list[int] = field(default_factory=list)

    def __call__(self, indices: NDArray[np.int64]) -> Iterator[Decoded]:
        self.asked += indices.tolist()
        for number, start in enumerate(range(0, len(indices), self.batch_size)):
            if number == self.fail_after:
                raise RuntimeError("power cut")
            time.sleep(self.seconds)
            wanted = indices[start : start + self.batch_size].tolist()
            good = [i for i in wanted if i not in self.bad]
            if self.whole:
                pixels: Any = [picture(i, 16 + 8 * (i % 3), 40) for i in good]
            else:
                pixels = np.array([picture(i) for i in good], np.uint8).reshape(-1, 256, 256, 3)
            bad = [(i, self.bad[i]) for i in wanted if i in self.bad]
            yield Decoded(np.array(good, np.int64), pixels, bad)


def run(work_dir: Path, source: Source, dataset: Any = None, **options: Any) -> RgbStats:
    dataset = dataset or FakeDataset()
    return compute_stats(dataset, work_dir=work_dir, images=source, **({"settings": LENIENT} | options))


def content(stats: RgbStats, folder: Path) -> list[bytes]:
    """All of it, to the bit."""
    stats.save(folder / "content.json")
    return [p.read_bytes() for p in (folder / "content.json", folder / "content.npy") if p.exists()]


@pytest.fixture(autouse=True)
def _save_after_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "SAVE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("unbroken")
    return content(run(folder, Source(batch_size=16, bad={17: "empty", 58: "no image"})), folder)


BAD = {17: "empty", 58: "no image"}


def test_adds_up_what_was_decoded(tmp_path: Path) -> None:
    done: list[int] = []
    stats = run(tmp_path, Source(bad=BAD), progress=done.append)
    expected = RgbMoments.zero(256)
    expected.update(np.stack([picture(i) for i in range(COUNT) if i not in BAD]))
    assert stats.moments() == expected
    assert [(bad.name, bad.reason) for bad in stats.bad_files] == [
        ("n01/0017.JPEG", "empty"),
        ("n01/0058.JPEG", "no image"),
    ]
    assert stats.decode == "exact, cpu"
    assert stats.complete
    assert stats.fingerprint == FakeDataset().fingerprint
    assert done == [0, 7, 14, 21, 28, 35, 42, 49, 56, 60]


def test_the_sample_does_not_depend_on_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "MAX_SAMPLE", SAMPLE_PER_IMAGE * COUNT // 3)
    one, other = (run(tmp_path / str(size), Source(batch_size=size)).self_check for size in (7, COUNT))
    assert one is not None
    assert one == other
    assert one.num_images == COUNT // 3


def test_each_image_has_a_sample_of_its_own() -> None:
    image = np.dstack([*np.mgrid[:200, :200], np.zeros((200, 200))]).astype(np.uint8)  # pixels say where they are
    first, second = compute._sample(1, image), compute._sample(2, image)
    assert len(np.unique(first, axis=0)) > 30
    assert not (first == second).all(axis=1).any()


def test_scikit_learn_agrees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check = run(tmp_path, Source()).self_check
    assert check is not None
    assert (check.num_images, check.num_pixels) == (COUNT, 32 * COUNT)
    assert check.passed
    assert not caplog.records


def test_whole_images(tmp_path: Path) -> None:
    stats = run(tmp_path, Source(whole=True), region="full")
    expected = RgbMoments.zero()
    for i in range(COUNT):
        expected.update_image(picture(i, 16 + 8 * (i % 3), 40))
    assert stats.moments() == expected
    assert stats.mean_image is None
    parts = [run(tmp_path, Source(whole=True), region="full", shard=(i, 2)) for i in range(2)]
    assert parts[0].num_images == parts[1].num_images == COUNT // 2


@pytest.mark.parametrize("num_shards", [1, 2, 7])
def test_any_number_of_processes_gives_the_same_bits(tmp_path: Path, unbroken: list[bytes], num_shards: int) -> None:
    options: dict[str, Any] = {"world_size": num_shards, "work_dir": tmp_path / "work", "settings": LENIENT}
    dataset: Any = FakeDataset()
    for rank in reversed(range(1, num_shards)):
        source = Source(batch_size=rank + 3, bad=BAD)
        assert compute_stats_sharded(dataset, rank=rank, images=source, **options) is None
    stats = compute_stats_sharded(dataset, rank=0, images=Source(bad=BAD), **options)
    assert stats is not None
    assert content(stats, tmp_path) == unbroken


def test_parts_merge_to_the_same_bits(tmp_path: Path, unbroken: list[bytes]) -> None:
    paths = [tmp_path / f"part{i}.json" for i in range(7)]
    for i, path in enumerate(paths):
        run(tmp_path / "work", Source(bad=BAD), shard=(i, 7)).save(path)
    assert not RgbStats.load(paths[3]).complete
    random.Random(0).shuffle(paths)
    merge_stats(paths[:3]).save(tmp_path / "some.json")
    merged = merge_stats([tmp_path / "some.json", *paths[3:]])
    assert merged.complete
    (tmp_path / "whole").mkdir()
    image = content(merged, tmp_path / "whole")[1]
    assert image == unbroken[1]
    whole = run(tmp_path / "work", Source(bad=BAD))
    assert merged.to_dict() | {"self_check": 0} == whole.to_dict() | {"self_check": 0}


def test_interrupted_goes_on_to_the_same_bits(tmp_path: Path, unbroken: list[bytes]) -> None:
    asked = 0
    for batches in (3, 1, 2, 0, 2):
        source = Source(batch_size=5, bad=BAD, fail_after=batches)
        with pytest.raises(RuntimeError, match="power cut"):
            run(tmp_path / "work", source)
        asked = len(source.asked)
    last = Source(batch_size=16, bad=BAD)
    assert content(run(tmp_path / "work", last), tmp_path) == unbroken
    assert len(last.asked) < asked < COUNT
    again = Source(bad=BAD)
    assert content(run(tmp_path / "work", again), tmp_path) == unbroken
    assert again.asked == []  # finished: nothing is decoded again


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_compute import BAD, LENIENT, FakeDataset, Source
from alexnet.pca import compute
compute.SAVE_IMAGES, compute.MIN_SAVE_SECONDS = 8, 0.0
compute.compute_stats(FakeDataset(), work_dir=Path(sys.argv[2]), settings=LENIENT,
                      progress=lambda done: print(done, flush=True), images=Source(4, BAD, seconds=0.03))
"""


def test_kill_9_goes_on_to_the_same_bits(tmp_path: Path, unbroken: list[bytes]) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(work)]
    reached = 0
    for stop_at in (20, 40):
        child = warm.Popen(command, stdout=warm.PIPE)
        assert child.stdout is not None
        first = next(iter(child.stdout))
        assert int(first) >= reached - 8  # at most the images since the last save are decoded twice
        reached = next(int(line) for line in child.stdout if int(line) >= stop_at)
        os.kill(child.pid, signal.SIGKILL)
        child.close()
        assert child.wait() == -signal.SIGKILL
    last = Source(bad=BAD)
    assert content(run(work, last), tmp_path) == unbroken
    assert last.asked[-1] - reached <= COUNT - 40
    assert len(list(work.iterdir())) <= 3  # the state, and what a kill may have left half-written


def test_a_finished_pass_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little time it took; other ranks wait for it."""
    monkeypatch.setattr(compute, "SAVE_SECONDS", 1e9)
    run(tmp_path, Source())
    again = Source()
    run(tmp_path, again)
    assert again.asked == []


# -- states that cannot be used ----------------------------------------------------------------------------


def test_damaged_state_starts_over_with_a_warning(
    tmp_path: Path, unbroken: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "work", Source(bad=BAD, fail_after=4))
    (path,) = (tmp_path / "work").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    assert content(run(tmp_path / "work", Source(bad=BAD)), tmp_path) == unbroken
    assert "starts over" in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": FakeDataset(fingerprint="e" * 32)},
        {"settings": Settings(decode="fast")},
        {"shard": (0, 2)},
        {"settings": Settings(max_pixels=9)},
    ],
    ids=["data set", "decode", "shard", "max pixels"],
)
def test_state_of_another_pass_is_not_used(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, Source(fail_after=1))
    source = Source()
    run(tmp_path, source, **other)
    assert source.asked[0] == 0


def test_state_of_other_decoders_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, Source())
    monkeypatch.setattr(compute, "tool_versions", lambda: {"nvidia-dali-cuda120": "99"})
    source = Source()
    run(tmp_path, source)
    assert source.asked == list(range(COUNT))


# -- bad files ---------------------------------------------------------------------------------------------


def test_a_pass_goes_on_without_its_state(
    tmp_path: Path, unbroken: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk, one warning; but ranks find each other's states there, and must not wait for them in vain."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(PassState, "save", full)
    assert content(run(tmp_path / "full", Source(batch_size=16, bad=BAD)), tmp_path) == unbroken
    assert caplog.text.count("cannot be written (No space left on device): if interrupted, this pass starts over") == 1
    with pytest.raises(OSError, match="No space"):
        run(tmp_path / "full", Source(batch_size=16), shard=(1, 2))


def test_too_many_bad_files_end_the_pass_early(tmp_path: Path) -> None:
    bad = dict.fromkeys(range(10, 40), "not a JPEG")
    source = Source(batch_size=4, bad=bad)
    with pytest.raises(TooManyBadFiles, match=r"14 of 60 images .*n01/0010.JPEG: not a JPEG") as caught:
        run(tmp_path, source)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("batch_size", [7, COUNT])  # too many before the end, and at the end
def test_repaired_files_are_tried_again(tmp_path: Path, batch_size: int) -> None:
    """A disk that was away for a while must not spoil the pass for ever."""
    for count in (40, 30):
        with pytest.raises(TooManyBadFiles):
            run(tmp_path / "work", Source(batch_size, dict.fromkeys(range(count), "Input/output error")))
    done: list[int] = []
    stats = run(tmp_path / "work", Source(batch_size=4, bad={3: "empty"}), progress=done.append)
    assert [bad.name for bad in stats.bad_files] == ["n01/0003.JPEG"]
    assert done == sorted(done)
    (tmp_path / "other").mkdir()
    assert content(stats, tmp_path) == content(run(tmp_path / "other", Source(bad={3: "empty"})), tmp_path)


def test_only_bad_files_or_no_share_allowed(tmp_path: Path) -> None:
    with pytest.raises(TooManyBadFiles, match="1 of 60"):
        run(tmp_path / "a", Source(bad={5: "empty"}), settings=Settings(max_bad=0.0))
    with pytest.raises(StatsError, match="no image could be used"):
        run(tmp_path / "b", Source(bad=dict.fromkeys(range(COUNT), "empty")), settings=Settings(max_bad=1.0))


def test_the_limit_is_a_share_of_the_whole_data_set(tmp_path: Path) -> None:
    """Bad files lie together, and a slice may have most of them."""
    assert run(tmp_path, Source(bad=dict.fromkeys(range(10), "empty")), shard=(0, 4)).num_images == 5


def test_image_source_that_breaks_its_promise_is_noticed(tmp_path: Path) -> None:
    def twice(indices: NDArray[np.int64]) -> Iterator[Decoded]:
        yield from Source()(np.repeat(indices, 2))

    def short(indices: NDArray[np.int64]) -> Iterator[Decoded]:
        yield from Source()(indices[:-1])

    for broken, message in ((twice, "image source gave"), (short, "ended before image 59")):
        with pytest.raises(RuntimeError, match=message):
            run(tmp_path / message, broken)  # type: ignore[arg-type]


# -- many processes ----------------------------------------------------------------------------------------


def test_rank_0_waits_for_the_others(tmp_path: Path, unbroken: list[bytes]) -> None:
    options: dict[str, Any] = {"world_size": 2, "work_dir": tmp_path / "work", "settings": LENIENT}
    dataset: Any = FakeDataset()
    late = Source(bad=BAD, seconds=0.1)
    other = threading.Thread(
        target=compute_stats_sharded, args=(dataset,), kwargs={**options, "rank": 1, "images": late}
    )
    other.start()
    done: list[int] = []
    stats = compute_stats_sharded(dataset, rank=0, images=Source(bad=BAD), progress=done.append, **options)
    other.join()
    assert stats is not None
    assert content(stats, tmp_path) == unbroken
    assert done[-1] == COUNT


def test_missing_rank_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "POLL_SECONDS", 0.01)
    options: dict[str, Any] = {"world_size": 4, "work_dir": tmp_path, "timeout_seconds": 0.1}
    dataset: Any = FakeDataset()
    compute_stats_sharded(dataset, rank=2, images=Source(), **options)
    with pytest.raises(StatsError, match="unfinished: rank 1, 3 of 4"):
        compute_stats_sharded(dataset, rank=0, images=Source(), **options)


def test_the_wait_is_as_long_as_a_rank_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [0.0], list[int]()
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + 6))
    monkeypatch.setattr(compute, "time", clock)
    position = iter([0, 0, 20, 20, 40, 40, COUNT]).__next__
    late: Any = SimpleNamespace(dataset=FakeDataset(), work_dir=None, stop=COUNT, saved_position=position)
    compute._wait_for_all([late], 10.0, done.append)
    assert done == [0, 0, 20, 20, 40, 40, COUNT]


def test_more_shards_than_images(tmp_path: Path) -> None:
    dataset: Any = FakeDataset(count=2)
    for rank in (3, 2, 1, 0):
        stats = compute_stats_sharded(dataset, rank=rank, world_size=4, work_dir=tmp_path, images=Source())
    assert stats is not None
    assert stats.num_images == 2
    assert stats.self_check is None  # two images say nothing about sampling


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_impossible_shard_is_refused(tmp_path: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected 0 <= shard"):
        run(tmp_path, Source(), shard=shard)


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    def part(name: str, **options: Any) -> Path:
        run(tmp_path, Source(whole=options.get("region") == "full"), **options).save(tmp_path / name)
        return tmp_path / name

    first = part("first.json", shard=(0, 3))
    with pytest.raises(StatsError, match=r"again.json has images .* but .*first.json has"):
        merge_stats([first, part("again.json", shard=(0, 2))])
    with pytest.raises(StatsError, match=r"full.json: region: expected 'centre' .* found 'full'"):
        merge_stats([first, part("full.json", shard=(1, 3), region="full")])
    with pytest.raises(StatsError, match=r"fast.json: decode: expected 'exact, cpu' .* found 'fast, cpu'"):
        merge_stats([first, part("fast.json", shard=(1, 3), settings=replace(LENIENT, decode="fast"))])
    with pytest.raises(StatsError, match="no files given"):
        merge_stats([])
    other = part("other.json", dataset=FakeDataset(fingerprint="e" * 32))
    assert len(merge_stats([first, other]).parts) == 2
