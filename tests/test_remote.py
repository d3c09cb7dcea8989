"""Data behind a URL, on a server that fails at times: what is read is what a local copy has, or an error says why."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from remotes import PER_SHARD, batches, be_impatient, limit_cache, loader, write_pack
from servers import Fault, FileServer, serving

pytest.importorskip("nvidia.dali")
pytest.importorskip("aiohttp")

from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset, open_splits
from alexnet.pipeline.dataset.selection import Selection
from alexnet.pipeline.errors import DatasetError, NoSplit, RemoteError
from alexnet.pipeline.pack import PackOptions, pack
from alexnet.pipeline.remote.shards import AHEAD
from alexnet.pipeline.squares import squares
from alexnet.pipeline.window import describe_fetching, first_shards, window_of

NUM_SHARDS = 9  # of the training split: 18 images, two in each
FIRST = "pack/train-000000.tar"


@pytest.fixture(scope="module")
def packed(colour_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(colour_tree, tmp_path_factory.mktemp("packed") / "pack")


@pytest.fixture
def server(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Serves a copy of the pack at /pack."""
    be_impatient(monkeypatch, tmp_path / "cache")
    shutil.copytree(packed, tmp_path / "served/pack")
    with serving(tmp_path / "served") as started:
        yield started


def opened(server: FileServer, path: str = "pack") -> Dataset:
    return open_dataset(Path(f"{server.url}/{path}"), "train")


def fetches(server: FileServer) -> dict[str, int]:
    """How often each training shard was asked for."""
    return {asked: n for asked, n in server.asked.items() if asked.startswith("GET ") and "train-0" in asked}


def contents(dataset: Dataset) -> list[tuple[str, str, bytes]]:
    images = range(len(dataset))
    return [(dataset.name(i), dataset.classes[dataset.labels[i]], dataset.read(i).tobytes()) for i in images]


def without_index(folder: Path) -> None:
    for name in ("train.index", "val.index", "pack.json", "classes.txt"):
        (folder / name).unlink()


# -- the same as a local copy ------------------------------------------------------------------------------


def test_batches_are_those_of_a_local_copy(server: FileServer, packed: Path) -> None:
    remote, local = opened(server), open_dataset(packed, "train")
    assert remote.fingerprint == local.fingerprint
    assert batches(remote) == batches(local)
    assert set(fetches(server).values()) == {1}
    assert len(fetches(server)) == NUM_SHARDS
    assert remote.where == f"{server.url}/pack"


def test_all_of_a_pack_is_there(server: FileServer, packed: Path) -> None:
    for remote, local in zip(open_splits(Path(f"{server.url}/pack"), ()), open_splits(packed, ()), strict=True):
        assert contents(remote) == contents(local)
        assert contents(pickle.loads(pickle.dumps(remote))) == contents(local)  # for the workers of a DataLoader


@pytest.mark.parametrize("where", ["pack", "pack/{train-00000{0..8},val-00000{0..4}}.tar"])
def test_shards_without_an_index_are_read_once_to_list_them(server: FileServer, packed: Path, where: str) -> None:
    without_index(server.folder / "pack")
    shutil.copytree(server.folder / "pack", packed.parent / "plain", dirs_exist_ok=True)
    local = open_dataset(packed.parent / "plain", "train")
    assert contents(opened(server, where)) == contents(local)
    again = opened(server, where)
    assert again.fingerprint == local.fingerprint
    assert set(fetches(server).values()) == {1}


def test_a_manifest_replaces_a_listing(server: FileServer, packed: Path) -> None:
    server.lists = False
    assert contents(opened(server)) == contents(open_dataset(packed, "train"))


def test_copies_of_small_files_are_on_disk_before_they_get_their_names(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, renamed = set[Path](), list[Path]()
    sync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        assert source in synced
        renamed.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    opened(server)
    assert {path.name for path in renamed} == {"pack.json", "classes.txt", "train.index", "val.index"}
    assert all(path.read_bytes() == (server.folder / "pack" / path.name).read_bytes() for path in renamed)
    assert {path.parent for path in renamed} <= synced


def test_a_pack_that_lacks_a_shard_is_not_taken_for_a_whole_one(server: FileServer) -> None:
    (server.folder / FIRST).unlink()
    message = (
        rf"{server.url}/pack lacks 1 of the {NUM_SHARDS} train shards that its pack.json names, such as train-000000"
    )
    with pytest.raises(DatasetError, match=message):
        opened(server)
    assert len(opened(server, "pack/train-00000{3..5}.tar")) == 6  # as asked for


def test_splits_in_folders_and_names_of_classes(server: FileServer, packed: Path) -> None:
    folder = server.folder / "pack"
    without_index(folder)
    for split in ("train", "val"):
        (folder / split).mkdir()
        for shard in folder.glob(f"{split}-*.tar"):
            shard.rename(folder / split / shard.name.removeprefix(f"{split}-"))
    (folder / "classes.txt").write_text("azure\nlime\nscarlet\n")
    train, val = open_splits(Path(f"{server.url}/pack"), ())
    assert train.classes == val.classes == ("azure", "lime", "scarlet")
    assert {c for _, c, _ in contents(val)} == {*train.classes}
    assert len(train) == 18


def test_a_changed_list_of_classes_counts(server: FileServer) -> None:
    names = server.folder / "pack/classes.txt"
    without_index(server.folder / "pack")
    names.write_text("a\nb\nc\n")
    assert opened(server).classes == ("a", "b", "c")
    names.write_text("x\ny\nz\n")
    assert open_dataset(Path(f"{server.url}/pack"), "train", rescan=True).classes == ("x", "y", "z")


@pytest.mark.parametrize(
    "selection", [Selection(per_class=2), Selection(val_fraction=0.5), Selection(classes=("red",))]
)
def test_the_same_images_are_chosen(server: FileServer, packed: Path, selection: Selection) -> None:
    shutil.copytree(packed, packed.parent / "unsplit", dirs_exist_ok=True, ignore=shutil.ignore_patterns("val*"))
    for path in (server.folder / "pack").glob("val*"):
        path.unlink()
    remote = open_dataset(Path(f"{server.url}/pack"), "train", selection=selection)
    assert contents(remote) == contents(open_dataset(packed.parent / "unsplit", "train", selection=selection))
    assert len(remote) < 18


def test_validation_images_are_not_held_out_twice(server: FileServer) -> None:
    with pytest.raises(DatasetError, match=r"http://.* has validation images already .* a pattern of the"):
        open_dataset(Path(f"{server.url}/pack"), "val", selection=Selection(val_fraction=0.5))


def test_a_pack_is_converted_from_afar(server: FileServer, packed: Path, tmp_path: Path) -> None:
    how = PackOptions(dct=True, images_per_shard=5)
    for name, source in (("remote", opened(server)), ("local", open_dataset(packed, "train"))):
        pack(source, tmp_path / name, how, loader(source).settings)
    digests = [json.loads((tmp_path / name / "pack.json").read_text())["shards"] for name in ("remote", "local")]
    assert digests[0] == digests[1]


# -- a cache smaller than the data -------------------------------------------------------------------------


def test_a_small_cache_holds_a_window(
    server: FileServer, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_cache(monkeypatch, opened(server), AHEAD + 3)
    remote, local = opened(server), open_dataset(packed, "train")
    assert remote.remote
    window = window_of(remote, remote)
    assert window_of(local) is None
    assert describe_fetching(local, window) == ""
    assert "it mixes all of them, so it waits for most" in describe_fetching(remote, None)
    assert window is not None
    told = batches(remote, window=window)
    assert told == batches(local, window=window)
    assert told != batches(local)
    assert batches(remote, epoch=1, step=2, window=window) == told[-2:]  # four steps an epoch
    assert sum(path.stat().st_size for path in (tmp_path / "cache/shards").rglob("*.tar")) <= remote.remote.cache.limit
    assert f"within {window} images: a batch is drawn from 11%" in describe_fetching(remote, window)


def test_a_window_fetches_each_shard_once_an_epoch(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_cache(monkeypatch, opened(server), AHEAD + 3)
    remote = opened(server)
    batches(remote, num_epochs=1, window=window_of(remote))
    assert set(fetches(server).values()) == {1}


def test_all_images_cannot_be_mixed_in_a_small_cache(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_cache(monkeypatch, opened(server), AHEAD + 3)
    remote = opened(server)
    with pytest.raises(RemoteError, match=r"mixes all of them, but --cache-size .* holds only a part"):
        loader(remote)
    with pytest.raises(RemoteError, match=r"mixes all of them"):
        pack(remote, tmp_path / "out", PackOptions(), loader(remote, window=2).settings)
    part = first_shards(remote, 2 * int(remote.remote.sizes[0]))  # type: ignore[union-attr]
    assert 2 <= len(part) <= 4
    assert len(batches(part, batch_size=2, num_epochs=1)) == len(part) // 2
    evaluated = squares(remote, np.arange(18), batch_size=4, settings=loader(part).settings)  # one after the other
    assert sum(len(batch.indices) for batch in evaluated) == 18


def test_a_cache_has_a_least_size(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_cache(monkeypatch, opened(server), AHEAD + 2)
    with pytest.raises(RemoteError, match=r"is too small for the shards of http.*: give at least 7 times that"):
        opened(server)


# -- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faults", [["reset"], ["truncated"], ["garbage"], ["busy", "reset", "busy"], ["slow"]])
def test_a_shard_that_arrives_badly_is_fetched_again(
    server: FileServer, packed: Path, faults: list[Fault], caplog: pytest.LogCaptureFixture
) -> None:
    server.faults[FIRST].extend(faults)
    remote = opened(server)
    assert contents(remote) == contents(open_dataset(packed, "train"))
    bad = [fault for fault in faults if fault != "slow"]
    assert fetches(server)[f"GET {FIRST}"] == len(bad) + 1
    told = [record.getMessage() for record in caplog.records if "trying again in 0.01 s" in record.getMessage()]
    assert len(told) == len(bad)
    assert all(f"{server.url}/{FIRST}: " in line for line in told)


def test_a_server_that_falls_silent_is_asked_again(
    server: FileServer, packed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("alexnet.pipeline.remote.store.SILENT_SECONDS", 0.3)
    server.faults[FIRST].append("stuck")
    assert contents(opened(server)) == contents(open_dataset(packed, "train"))
    server.stuck.set()
    assert f"{server.url}/{FIRST}: the server fell silent; trying again in" in caplog.text


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("busy", "the server answered 503 (4 attempts in 0 s)"),
        ("truncated", " bytes arrived (4 attempts"),
        ("denied", "access is denied"),
        ("garbage", "is damaged: its blake2b is not the one in pack.json. Upload it again."),
    ],
)
def test_patience_ends(server: FileServer, tmp_path: Path, fault: Fault, said: str) -> None:
    server.faults[FIRST].extend([fault] * 99)
    remote = opened(server)
    with pytest.raises(RemoteError) as caught:
        batches(remote)
    assert said in str(caught.value)
    assert f"{server.url}/{FIRST}" in str(caught.value)
    assert remote.remote
    path = remote.remote.paths[0]
    assert not [*path.parent.glob("*")]


def test_no_image_takes_the_place_of_one_that_cannot_be_fetched(server: FileServer) -> None:
    remote, bad = opened(server), dict[int, str]()
    (server.folder / FIRST).unlink()
    with pytest.raises(RemoteError, match=f"{FIRST} cannot be read: nothing is there"):
        batches(remote, bad=bad)
    assert bad == {}


@pytest.mark.parametrize("change", [lambda content: content + bytes(512), lambda content: content[::-1]])
def test_a_changed_shard_is_an_error(server: FileServer, change: object) -> None:
    remote, path = opened(server), server.folder / FIRST
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(RemoteError, match=rf"{FIRST} has changed since it was listed \(.*; now .*\)"):
        contents(remote)


def test_a_full_disk_is_no_bad_image(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    remote = opened(server)
    monkeypatch.setattr("alexnet.pipeline.remote.shard_cache.fetch", full)
    with pytest.raises(RemoteError, match=r"No space left on device. Give a smaller --cache-size, or another folder"):
        batches(remote)


def test_no_room_on_the_disk_is_told_at_once(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(ValueError, match=r"would be kept in .*, which has room for 1 KB. Give a smaller --cache-size"):
        opened(server)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("{url}/nothing", "nothing is there. Check the address."),
        ("http://127.0.0.1:9/pack", "Cannot connect to host 127.0.0.1:9"),
        ("{url}", "There are no shards at http"),
        ("{url}/pack/train-{000000..000012}.tar", "train-000009.tar cannot be read: nothing is there"),
        ("{url}/pack/train-{a..b}.tar", "{a..b} is neither a range"),
        ("{url}/pack/train-{0", "has a brace that is not closed"),
        ("s3://{train,val}/x-{0..3}.tar", "names shards of several hosts or buckets. Give those of one."),
        ("ftp://host/pack", "ftp://host/pack is not a URL that can be read"),
    ],
)
def test_wrong_addresses(server: FileServer, where: str, said: str) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(Path(where.replace("{url}", server.url)), "train")
    assert said in str(caught.value)


def test_a_test_set_without_labels_is_no_validation_set(server: FileServer, packed: Path) -> None:
    """Whether there are labels is read from its first shard, unless an index is there."""
    split, url = server.folder / "split", Path(f"{server.url}/split")
    split.mkdir()
    for shard in packed.glob("train-*.tar"):
        shutil.copy(shard, split)
    with tarfile.open(split / "x-test-0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(NoSplit, match=r"x-test-0.tar have no labels. Set some aside with --val-fraction"):
        open_dataset(url, "val")
    assert 0 < len(open_dataset(url, "val", selection=Selection(val_fraction=0.5))) < 18
    shutil.copy(packed / "val-000000.tar", split / "x-test-0.tar")
    assert len(open_dataset(url, "val", rescan=True)) == PER_SHARD


def test_a_server_that_answers_everything_with_a_page(server: FileServer) -> None:
    server.page = b"<html>Please log in"
    with pytest.raises(DatasetError, match=r"There are no shards at .*; found: nothing, or no page that lists it"):
        opened(server)
    with pytest.raises(RemoteError, match=r"train-000000.tar cannot be read: the server answers with a web page"):
        opened(server, FIRST)


def test_a_missing_split_and_the_original_archives(server: FileServer) -> None:
    with pytest.raises(NoSplit, match=r"No val shards at http.*found: train-000000.tar. A pattern can name both"):
        open_dataset(Path(f"{server.url}/{FIRST}"), "val")
    (server.folder / "pack/ILSVRC2012_img_train.tar").touch()
    with pytest.raises(DatasetError, match=r"ILSVRC2012_img_train.tar can only be read from a local disk. Packs"):
        opened(server)


def test_a_damaged_shard_is_named_by_its_address(server: FileServer) -> None:
    without_index(server.folder / "pack")
    (server.folder / FIRST).write_bytes(b"no tar" * 200)
    with pytest.raises(DatasetError, match=f"The archive {server.url}/{FIRST} cannot be read"):
        opened(server)


def test_a_missing_package_says_what_to_install(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(RemoteError, match=r"needs the package fsspec \(.*: pip install --editable '.\[remote\]'"):
        opened(server)
