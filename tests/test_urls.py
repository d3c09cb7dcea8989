"""Which DATA is a URL, and what patterns of shards stand for: as bash expands them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from alexnet.pipeline.errors import DatasetError
from alexnet.pipeline.remote.urls import expanded, is_pattern, url_of


@pytest.mark.parametrize("url", ["s3://bucket", "gs://bucket/a/b", "https://host:8/a/x-{00..63}.tar", "http://h/a.tar"])
def test_urls_survive_being_paths(url: str) -> None:
    assert url_of(url) == url_of(Path(url)) == url_of(f"{url}/") == url


@pytest.mark.parametrize("path", ["/data/imagenet", "data", "s3", "x/s3://bucket", "C:/x", "a b:/c"])
def test_paths_are_no_urls(path: str) -> None:
    assert url_of(Path(path)) is None


def test_other_schemes_are_refused_unless_they_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="ftp://host/x is not a URL that can be read: they begin with s3://, gs://"):
        url_of(Path("ftp://host/x"))
    (tmp_path / "ftp:/host/x").mkdir(parents=True)
    assert url_of(Path("ftp:/host/x")) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "x.tar",
        "x-{000..012}.tar",
        "{a,b}/{8..11}",
        "{x-train-{00..02},x-val-{0..1}}.tar",
        "a{b{c,d},}e",
        "{3,5}{07..08}",
        "{9..0}{2..02}{00..101}",
    ],
)
def test_patterns_are_those_of_bash(pattern: str) -> None:
    shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True)
    assert expanded(pattern) == shell.stdout.split()


@pytest.mark.parametrize("pattern", ["x-{0..3", "x-{a..c}", "x-{5}", "{0..200000}"])
def test_patterns_that_mean_nothing(pattern: str) -> None:
    with pytest.raises(DatasetError):
        expanded(pattern)


def test_patterns_and_folders_are_told_apart() -> None:
    found = {url: is_pattern(url) for url in ("s3://b/x.tar", "s3://b/{0..3}.tar", "s3://b/x", "s3://b")}
    assert [*found.values()] == [True, True, False, False]
