"""How ranks find each other, in one process: who came, who did not, and who is lost."""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import CPU
from torch._C._distributed_c10d import HashStore

from alexnet.console.on_mesh import Ranks
from alexnet.console.options import MeshOptions
from alexnet.pipeline.errors import UserError
from alexnet.train.parallel import devices, ranks
from alexnet.train.parallel.devices import choose_devices
from alexnet.train.parallel.dims import ONE_RANK, ParallelDims
from alexnet.train.parallel.mesh import build_mesh
from alexnet.train.parallel.ranks import ALONE, RankInfo, RankLost, join_ranks


def meet(store: HashStore, restarts: tuple[int, ...]) -> list[tuple[Any, int]]:
    """All ranks, the last one first to come."""
    size = len(restarts)
    with ThreadPoolExecutor(size) as pool:
        met = {r: pool.submit(ranks._meet, store, r, size, restarts[r]) for r in reversed(range(size))}
        return [met[r].result() for r in range(size)]


def test_ranks_started_again_find_no_word_of_those_before() -> None:
    """torchrun keeps its store, and on a machine where nothing failed it counts no restart."""
    store = HashStore()
    for restarts in ((0, 0, 0), (0, 0, 1), (0, 0, 1), (2, 2, 1)):
        found = meet(store, restarts)
        assert found[0][1] == sum(restarts)
        corners = [corner for corner, _ in found]
        assert not any(corner.check(["done/data"]) for corner in corners)
        assert corners[1].add("failed", 1) == 1
        corners[0].set("done/data", "here")
        assert corners[2].get("done/data") == b"here"


def test_a_rank_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "SECONDS_TO_MEET", 0.1)
    with pytest.raises(RankLost, match=r"Only 1 of 3 ranks came within 0.1 seconds"):
        ranks._meet(HashStore(), 0, 3, 0)


def join(monkeypatch: pytest.MonkeyPatch, rank: int, port: int) -> RankInfo:
    """As one of two ranks that are on this machine, with little patience."""
    found = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    monkeypatch.setattr(os, "environ", {name: str(value) for name, value in found.items()})
    monkeypatch.setattr(ranks, "SECONDS_TO_MEET", 1)
    return join_ranks()


def test_who_did_not_come_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(RankLost, match=rf"^Rank 0 cannot listen at 127.0.0.1:{port}, which is in use: set MASTER"):
            join(monkeypatch, 0, port)
    with pytest.raises(RankLost, match=rf"^Rank 1 of 2 found no rank 0 at 127.0.0.1:{port} within 1 seconds: check .*"):
        join(monkeypatch, 1, port)
    assert capfd.readouterr().err == ""  # torch's own account would be forty lines
    with pytest.raises(RankLost, match=rf"^Rank 0 waited 1 seconds at 127.0.0.1:{port} for the others of 2 ranks"):
        join(monkeypatch, 0, port)


def test_a_rank_lost_in_the_start() -> None:
    """Before the first step, too, it is a rank that was lost, which a restart may help, and no bug."""
    options = MeshOptions(mesh=None, devices=None, timeout=1, max_restarts=0)
    first = RankInfo(0, 2, 0, 2, store=HashStore())
    with (
        pytest.raises(RankLost, match=r"No word from rank 1 \(dp 0, mp 1\) in the start"),
        Ranks(first, ParallelDims(1, 2), [CPU, CPU], options).mesh(),
    ):
        pass


@pytest.mark.parametrize(
    ("uuids", "named", "sharing"),
    [
        ("abcd", None, [1, 1, 1, 1]),
        ("aabc", "cuda:0,cuda:0,cuda:0,cuda:0", [2, 2, 1, 1]),
        ("abba", None, None),
    ],
)
def test_ranks_that_see_one_gpu_each(
    monkeypatch: pytest.MonkeyPatch, uuids: str, named: str | None, sharing: list[int] | None
) -> None:
    """As SLURM shows it to them: all are called cuda:0, and only their UUIDs tell which are the same."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    seen = threading.local()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=seen.uuid))
    options, store = MeshOptions(mesh=None, devices=named, timeout=1, max_restarts=0), HashStore()

    def plan(rank: int) -> Ranks:
        seen.uuid = uuids[rank]
        return Ranks.plan(RankInfo(rank, 4, rank, 4, store=store), options, "auto", towers=2)

    with ThreadPoolExecutor(4) as pool:
        planned = [pool.submit(plan, rank) for rank in range(4)]
        if sharing is None:
            for one in planned:
                with pytest.raises(UserError, match=r"Rank 0 would share its GPU .* --devices cuda:0,cuda:0,cuda:0,cu"):
                    one.result()
            return
        found = [one.result() for one in planned]
    assert [ranks.num_on_device for ranks in found] == sharing
    assert {ranks.share_a_gpu for ranks in found} == {max(sharing) > 1}
    assert {(str(ranks.device), str(ranks.dims)) for ranks in found} == {("cuda:0", "2x2")}


def test_a_lone_rank_on_the_second_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What names no device must mean its own: the stream on which CUDA graphs are captured, and memory."""
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    device = torch.device("cuda:1")
    assert build_mesh(ONE_RANK, ALONE, device, 1).device == device
    assert used == [device]


@pytest.mark.parametrize(
    ("wanted", "visible", "warned"),
    [("auto", None, True), ("auto", "", False), ("auto", "0", True), ("cpu", None, False)],
)
def test_a_gpu_that_torch_cannot_use_is_mentioned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wanted: str, visible: str | None, warned: bool
) -> None:
    monkeypatch.setattr(devices, "query_gpus", lambda fields: ["NVIDIA H100"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    devices._warn_of_idle_gpus.cache_clear()
    for _ in range(2):
        assert devices.single_device(wanted) == CPU
    assert [record.message[:37] for record in caplog.records] == ["This machine has a GPU (NVIDIA H100) "] * warned


def test_ranks_that_do_not_fill_the_mesh() -> None:
    with pytest.raises(ValueError, match="--mesh 2x2 has 4 ranks, but 2 were started: make them equal"):
        choose_devices(RankInfo(0, 2, 0, 2), 2, mesh="2x2", devices=None, device="cpu")
