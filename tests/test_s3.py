"""Data in a bucket, on a server that speaks S3: the same as a local copy, faults mended, errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from remotes import batches, be_impatient, write_pack
from servers import Wire, wired

pytest.importorskip("nvidia.dali")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
import boto3
import s3fs
from moto.server import ThreadedMotoServer

from alexnet.pipeline.dataset.images import Dataset
from alexnet.pipeline.dataset.open import open_dataset, open_splits
from alexnet.pipeline.errors import DatasetError, RemoteError

URL = "s3://images/some/pack"
FIRST = "some/pack/train-000000.tar"
SPOILED = {"train-000000.tar", "train.index", "val.index", "pack.json"}  # what some test replaces or deletes


@pytest.fixture(scope="module")
def packed(colour_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(colour_tree, tmp_path_factory.mktemp("packed") / "pack")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def wire(port: int, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """The way to a server that has the pack at `URL`."""
    be_impatient(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    with wired(port) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{wire.server_address[1]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        names = SPOILED
        if not bucket().creation_date:
            bucket().create()
            names = {path.name for path in packed.iterdir() if path.suffix != ".idx"}
        for name in names:
            bucket().upload_file(str(packed / name), f"some/pack/{name}")
        yield wire


def bucket() -> Any:
    return boto3.resource("s3").Bucket("images")


def opened() -> Dataset:
    return open_dataset(Path(URL), "train")


def read_all(dataset: Dataset) -> list[bytes]:
    return [dataset.read(i).tobytes() for i in range(len(dataset))]


def test_batches_are_those_of_a_local_copy(wire: Wire, packed: Path) -> None:
    for remote, local in zip(open_splits(Path(URL), ()), open_splits(packed, ()), strict=True):
        assert remote.fingerprint == local.fingerprint
        assert remote.where == URL
        assert batches(remote) == batches(local)


@pytest.mark.parametrize("after", [0, 9000])  # bytes of an answer: none, or half a shard
def test_a_connection_that_is_cut_is_made_again(
    wire: Wire, packed: Path, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    remote, wire.cuts, wire.after = opened(), 2, after
    assert read_all(remote) == read_all(open_dataset(packed, "train"))
    assert wire.cuts == 0
    assert re.search(r"s3://images/some/pack/train-00000\d.tar: .*; trying again in 0.01 s", caplog.text)


def test_patience_ends(wire: Wire) -> None:
    remote, wire.cuts = opened(), 1000
    with pytest.raises(RemoteError, match=r"pack/train-000000.tar cannot be read: .* \(4 attempts"):
        remote.read(0)


def test_a_changed_shard_is_an_error(wire: Wire) -> None:
    remote = opened()
    bucket().Object(FIRST).put(Body=b"something else")
    with pytest.raises(RemoteError, match=r"train-000000.tar has changed since it was listed \(.*; now 14 bytes, tag "):
        read_all(remote)


def test_an_upload_in_one_part_is_compared_with_its_md5(wire: Wire, packed: Path) -> None:
    for name in ("pack.json", "train.index", "val.index"):
        bucket().Object(f"some/pack/{name}").delete()
    remote = opened()
    assert remote.remote
    assert {file.checksum[:4] for file in remote.remote.files} == {"md5:"}
    assert read_all(remote) == read_all(open_dataset(packed, "train"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://absent/pack", "s3://absent/pack cannot be read: there is no such bucket. Check the address."),
        ("s3://images/other", "s3://images/other cannot be read: nothing is there. Check the address."),
        ("s3://images/a-bucket", "s3://images/a-bucket cannot be read: nothing is there. Check the address."),
        ("s3://images", "There are no shards at s3://images; found: some/. Packs and"),
        ("s3://images/some/pack/train-{7..9}.tar", "train-7.tar cannot be read: nothing is there"),
        ("s3://In_Valid!/x", "s3://In_Valid!/x cannot be read: "),
    ],
)
def test_wrong_addresses(wire: Wire, url: str, said: str) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(Path(url), "train")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_credentials(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError, match=r"no credentials were found. Give credentials .* FSSPEC_S3_ANON=true"):
        opened()


def test_a_bucket_that_is_not_allowed(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")  # what s3fs makes of an answer of 403

    monkeypatch.setattr(s3fs.S3FileSystem, "ls", denied)
    assert len(opened()) == 18  # the files may be read all the same, and pack.json names them
    bucket().Object("some/pack/pack.json").delete()
    monkeypatch.setattr("alexnet.pipeline.dataset.remote._listings", {})
    with pytest.raises(RemoteError, match=r"s3://images/some/pack cannot be read: access is denied. Give credentials"):
        opened()
