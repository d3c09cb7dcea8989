"""The cache of shards: whole or absent, within its bounds, and each fetched once, whichever processes ask."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from servers import FileServer, serving

pytest.importorskip("aiohttp")

from alexnet.pipeline.errors import RemoteError, UserError
from alexnet.pipeline.plan import draw_epoch
from alexnet.pipeline.remote import shard_cache as module
from alexnet.pipeline.remote.shard_cache import ShardCache, shard_cache
from alexnet.pipeline.remote.shards import AHEAD, RemoteShards
from alexnet.pipeline.remote.store import RemoteFile, examine
from alexnet.pipeline.sizes import as_size, parse_size

NUM, SIZE = 12, 1000
PROGRAM = """
import os, sys
from pathlib import Path
from alexnet.pipeline.remote.shard_cache import ShardCache
from alexnet.pipeline.remote.shards import RemoteShards
from alexnet.pipeline.remote.store import examine
cache = ShardCache(Path(sys.argv[1]), int(sys.argv[2]))
files = examine(sys.argv[3:])
shards = RemoteShards("", tuple(files), cache)
for shard, file in [*enumerate(files)] * 2:
    descriptor = shards.open(shard)
    content = os.read(descriptor, file.size + 1)
    assert content == bytes([int(file.name)]) * file.size
    os.close(descriptor)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    for i in range(NUM):
        (tmp_path / f"served/{i}").write_bytes(bytes([i]) * SIZE)
    with serving(tmp_path / "served") as started:
        yield started


@pytest.fixture
def files(server: FileServer) -> list[RemoteFile]:
    return examine(f"{server.url}/{i}" for i in range(NUM))


def fetches(server: FileServer) -> list[int]:
    return [server.asked[f"GET {i}"] for i in range(NUM)]


def opened(cache: ShardCache, file: RemoteFile) -> int:
    while (descriptor := cache.open(file)) is None:
        cache.bring(file)
    return descriptor


def read(cache: ShardCache, file: RemoteFile) -> bytes:
    descriptor = opened(cache, file)
    try:
        return os.pread(descriptor, file.size + 1, 0)
    finally:
        os.close(descriptor)


def test_the_least_recently_used_goes_first(
    tmp_path: Path, server: FileServer, files: list[RemoteFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_TOUCHES", 0.0)
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    for i in (0, 1, 2, 0, 3, 0, 1):
        assert read(cache, files[i]) == bytes([i]) * SIZE
        assert cache.num_bytes() <= 3 * SIZE
    assert fetches(server)[:4] == [1, 2, 1, 1]  # 3 drove 1 out, and 1 then 2


def test_an_open_shard_can_be_read_after_its_eviction(tmp_path: Path, files: list[RemoteFile]) -> None:
    cache = ShardCache(tmp_path / "cache", SIZE)
    descriptor = opened(cache, files[0])
    read(cache, files[1])
    assert not cache.path(files[0]).exists()
    assert os.pread(descriptor, SIZE, 0) == bytes(SIZE)
    os.close(descriptor)


def test_processes_share_it(tmp_path: Path, server: FileServer) -> None:
    urls = [f"{server.url}/{i}" for i in range(NUM)]
    for i in range(NUM):
        server.faults[str(i)].append("slow")
    start = [sys.executable, "-c", PROGRAM, str(tmp_path / "cache"), str(NUM * SIZE), *urls]
    processes = [subprocess.Popen(start) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert fetches(server) == [1] * NUM


def test_a_shard_that_another_waits_for_counts_once(
    tmp_path: Path, server: FileServer, files: list[RemoteFile]
) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    read(cache, files[0])
    read(cache, files[1])
    waiting = cache.path(files[0]).with_name(f"0.{SIZE}.part")
    with waiting.open("ab") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        assert cache.num_bytes() == 2 * SIZE
        read(cache, files[2])
        assert all(cache.path(file).exists() for file in files[:3])
        read(cache, files[3])
    assert [cache.path(file).exists() for file in files[:4]] == [True, False, True, True]  # nor is it evicted


def test_a_part_that_came_meanwhile_is_not_taken_for_a_stale_one(
    tmp_path: Path, files: list[RemoteFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ShardCache(tmp_path / "cache", SIZE)
    whole = cache.path(files[0])
    part = whole.with_name(f"0.{SIZE}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")

    def lock(file: object, how: int) -> None:
        if how & fcntl.LOCK_NB:  # whoever fetched it was faster, and somebody else begins
            part.rename(whole)
            part.write_bytes(b"new")

    monkeypatch.setattr("fcntl.flock", lock)
    cache._remove_stale_parts()
    assert part.read_bytes() == b"new"


def test_processes_that_evict_each_others_shards_read_what_is_theirs(tmp_path: Path, server: FileServer) -> None:
    urls = [f"{server.url}/{i}" for i in range(NUM)]
    start = [sys.executable, "-c", PROGRAM, str(tmp_path / "cache"), str(2 * SIZE)]
    processes = [subprocess.Popen([*start, *order]) for order in (urls, urls[::-1], urls[5:] + urls[:5])]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_what_a_killed_process_left_is_removed(tmp_path: Path, files: list[RemoteFile]) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    stale, held = (cache.path(files[i]).with_name(f"{i}.{SIZE}.part") for i in (1, 2))
    for part in (stale, held):
        part.parent.mkdir(parents=True)
        part.write_bytes(b"half")
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        read(cache, files[0])
        assert not stale.exists()
        assert held.exists()
        assert cache.num_bytes() == 2 * SIZE  # what is on its way counts as it will be
    assert read(cache, files[1]) == bytes([1]) * SIZE


def test_a_damaged_shard_is_fetched_again(tmp_path: Path, server: FileServer, files: list[RemoteFile]) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    read(cache, files[1])
    cache.path(files[1]).write_bytes(b"short")
    assert read(cache, files[1]) == bytes([1]) * SIZE
    assert fetches(server)[1] == 2


def test_checksums_are_compared(tmp_path: Path, files: list[RemoteFile]) -> None:
    right = hashlib.blake2b(bytes([1]) * SIZE).hexdigest()
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    good, bad = (RemoteFile(f.url, f.size, f.tag, f"blake2b:{right}") for f in files[1:3])
    assert len(read(cache, good)) == SIZE
    with pytest.raises(RemoteError, match=r"is damaged: its blake2b is not the one in pack.json"):
        read(cache, bad)


# -- ahead of need -----------------------------------------------------------------------------------------


def wait_for(server: FileServer, wanted: list[int]) -> None:
    deadline = time.monotonic() + 60
    while fetches(server) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # nothing more may come
    assert fetches(server) == wanted


def test_shards_come_in_the_order_of_their_turns(tmp_path: Path, server: FileServer, files: list[RemoteFile]) -> None:
    shards = RemoteShards(server.url, tuple(files), ShardCache(tmp_path / "cache", (NUM - 1) * SIZE))
    order = [5, 5, 3, 5, 3, 7, 0, 1, 2, 4, 6, 8, 9, 10, 11]
    reached = shards.ahead(np.array(order))
    reached(0)
    wait_for(server, [int(i in (5, 3, 7, 0, 1)) for i in range(NUM)])
    reached(4)  # 3 has begun
    wait_for(server, [int(i in (5, 3, 7, 0, 1, 2)) for i in range(NUM)])
    assert AHEAD == 4


@pytest.mark.parametrize("seed", range(5))
def test_what_had_its_last_turn_goes_first(
    tmp_path: Path, server: FileServer, files: list[RemoteFile], seed: int
) -> None:
    """An order within a window reads seldom from shards that it still needs; the cache holds no more than it must."""
    window, images = 2, np.repeat(np.arange(NUM, dtype=np.int32), 10)
    order = images[draw_epoch(len(images), seed, 0, shards=images, window=10 * window).order]
    shards = RemoteShards(server.url, tuple(files), ShardCache(tmp_path / "cache", (window + 1 + AHEAD) * SIZE))
    reached = shards.ahead(order)
    for position, shard in enumerate(order.tolist()):
        reached(position)
        assert shards.read(shard, SIZE, 0) == bytes([shard]) * SIZE
    assert fetches(server) == [1] * NUM


def test_who_opens_a_released_shard_keeps_it(tmp_path: Path, server: FileServer, files: list[RemoteFile]) -> None:
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    for i in (0, 1):
        read(cache, files[i])
        cache.release(files[i])
    for i in (1, 2, 1):
        read(cache, files[i])
    assert fetches(server)[:3] == [1, 1, 1]


def test_all_shards_are_fetched_if_there_is_room(tmp_path: Path, server: FileServer, files: list[RemoteFile]) -> None:
    shards = RemoteShards(server.url, tuple(files), ShardCache(tmp_path / "cache", NUM * SIZE))
    shards.ahead(np.arange(NUM))(0)
    wait_for(server, [1] * NUM)


def test_nothing_follows_once_a_data_set_is_gone(tmp_path: Path, server: FileServer, files: list[RemoteFile]) -> None:
    for i in range(NUM):
        server.faults[str(i)].append("slow")
    shards = RemoteShards(server.url, tuple(files), ShardCache(tmp_path / "cache", NUM * SIZE))
    shards.ahead(np.arange(NUM))(0)
    del shards
    for thread in threading.enumerate():
        if thread.name == "alexnet-fetch":
            thread.join()
    assert sum(fetches(server)) <= AHEAD
    assert all(thread.name != "alexnet-fetch" for thread in threading.enumerate())


def test_a_reader_that_stops_waits_no_longer(tmp_path: Path, server: FileServer, files: list[RemoteFile]) -> None:
    server.faults["0"].append("stuck")
    shards, stop = RemoteShards(server.url, tuple(files), ShardCache(tmp_path / "cache", NUM * SIZE)), threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(RemoteError, match="Nobody waits for http"):
        shards.until(stop).read(0, 1, 0)
    server.stuck.set()
    assert shards.read(0, SIZE, 0) == bytes(SIZE)


def test_what_was_on_its_way_to_a_reader_that_stopped_can_come_again(
    tmp_path: Path, server: FileServer, files: list[RemoteFile]
) -> None:
    shards, stop = RemoteShards(server.url, tuple(files), ShardCache(tmp_path / "cache", NUM * SIZE)), threading.Event()
    stop.set()
    for i in range(AHEAD):
        server.faults[str(i)].append("stuck")
        with pytest.raises(RemoteError, match="Nobody waits for http"):
            shards.until(stop).read(i, 1, 0)
    server.stuck.set()
    for thread in threading.enumerate():
        if thread.name == "alexnet-fetch":
            thread.join()
    for file in files[:AHEAD]:
        shards.cache.path(file).unlink()  # as if evicted
    shards.ahead(np.arange(NUM))(0)
    wait_for(server, [2] * AHEAD + [1] * (NUM - AHEAD))


# -- where it is, and how large ----------------------------------------------------------------------------


def test_the_environment_chooses_both(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shard_cache() == ShardCache(own_cache / "shards", 100 * 10**9)
    monkeypatch.setenv("ALEXNET_SHARDS", str(tmp_path / "disk"))
    monkeypatch.setenv("ALEXNET_CACHE_SIZE", "1.5 GiB")
    assert shard_cache() == ShardCache(tmp_path / "disk", 3 * 2**29)
    monkeypatch.setenv("ALEXNET_CACHE_SIZE", "much")
    with pytest.raises(UserError, match="'much', which is not a size such as 100GB"):
        shard_cache()
    monkeypatch.delenv("ALEXNET_CACHE_SIZE")
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALEXNET_SHARDS", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"The folder .*/file \(from .ALEXNET_SHARDS\) cannot be written"):
        shard_cache()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("40GB", 40 * 10**9),
        ("1.5 kb", 1500),
        ("2TB", 2 * 10**12),
        ("3MiB", 3 * 2**20),
        ("7B", 7),
        ("7", None),
        ("GB", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


def test_sizes_are_written_as_people_do() -> None:
    assert [as_size(n) for n in (999, 81_920, 34 * 10**9, 1.25e12)] == ["0.999 KB", "81.9 KB", "34 GB", "1.25 TB"]
