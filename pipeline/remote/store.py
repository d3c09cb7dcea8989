"""Files behind URLs: which are there, what is known of each, and one of them whole on the local disk.

fsspec does the talking: s3fs, gcsfs, or its own file system over HTTP. It is imported only here, and only once there is
a URL. A lost connection is tried again, patiently; what that cannot mend is one line for the user (`errors.py`).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from ..errors import RemoteError
from ..optional import how_to_install
from .errors import Lost, Refused, explained, reason_to_retry

log = logging.getLogger("alexnet")

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
# Seconds before each further attempt. Ranks wait ten minutes for each other: a shard must be given up before that.
BRIEFLY, PATIENTLY = (1, 2, 4), (1, 2, 4, 8, 16, 32, 60, 60)
CONNECT_SECONDS, SILENT_SECONDS = 30, 60  # a whole shard may take as long as it likes
LISTERS = 16  # requests at once: over HTTP, each file is asked for its size

Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL, as it was when it was listed."""

    url: str
    size: int  # bytes
    tag: str  # changes whenever the file does: an ETag, or a time
    checksum: str = ""  # `md5:...` or `blake2b:...`, in hexadecimal; empty if none is known

    @property
    def name(self) -> str:
        return unquote(self.url.rpartition("/")[2])


def list_folder(url: str) -> list[str]:
    """Return the URLs of what is right below a folder; those of folders end in a slash. Over HTTP, read its page."""
    entries = _patiently(url, BRIEFLY, lambda: _file_system(url).ls(f"{url}/", detail=True))
    scheme = url.partition("://")[0]
    urls = {_with_scheme(scheme, e["name"].rstrip("/")) + "/" * (e["type"] == "directory") for e in entries}
    return sorted(found for found in urls if found.startswith(f"{url}/") and found != f"{url}/")


def examine(urls: Iterable[str]) -> list[RemoteFile]:
    """Ask for the size and tag of files, several at once; RemoteError if one is not there."""
    with ThreadPoolExecutor(LISTERS, thread_name_prefix="alexnet-list") as pool:
        return list(pool.map(lambda url: _patiently(url, BRIEFLY, partial(_examine, url)), urls))


def examine_those_there(urls: Iterable[str]) -> list[RemoteFile]:
    """Ask for the size and tag of files, and leave out what is not there."""

    def examine_if_there(url: str) -> RemoteFile | None:
        try:
            return _patiently(url, BRIEFLY, partial(_examine, url))
        except Refused:
            return None

    with ThreadPoolExecutor(LISTERS, thread_name_prefix="alexnet-list") as pool:
        return [file for file in pool.map(examine_if_there, urls) if file]


def fetch(file: RemoteFile, path: Path) -> None:
    """Write the whole file to `path`; verify its size, its checksum if there is one, and that it is the one listed.

    RemoteError if it has changed since, or if it did not arrive in spite of all patience.
    """
    _patiently(file.url, PATIENTLY, partial(_fetch_once, file, path, set[str]()))


def _examine(url: str) -> RemoteFile:
    info = _file_system(url).info(url)
    if str(info.get("mimetype")).startswith("text/html"):  # of a login, or in place of a 404
        raise Refused(f"{url} cannot be read: the server answers with a web page. Check the address.")
    size = info.get("size")
    if size is None:
        raise RemoteError(f"{url} cannot be read: the server does not say how large it is.")
    tag = next((str(info[key]) for key in ("ETag", "etag", "generation", "Last-Modified") if info.get(key)), "")
    return RemoteFile(url, int(size), tag.strip('"'), _checksum(url, tag.strip('"'), info))


def _fetch_once(file: RemoteFile, path: Path, seen: set[str]) -> None:
    """Fetch and verify; `seen` collects wrong checksums."""
    _file_system(file.url).get_file(file.url, str(path))
    now, size = _examine(file.url), path.stat().st_size
    if (now.size, now.tag) != (file.size, file.tag):
        was, is_now = (f"{f.size:,} bytes, tag {f.tag or 'none'}" for f in (file, now))
        hint = "Start again, on data that stays as it is"
        raise RemoteError(f"{file.url} has changed since it was listed ({was}; now {is_now}). {hint}.")
    if size != file.size:
        raise Lost(f"{size:,} of {file.size:,} bytes arrived")
    kind, _, wanted = file.checksum.partition(":")
    if not wanted:
        return
    with path.open("rb") as content:
        found = hashlib.file_digest(content, kind).hexdigest()
    if found == wanted:
        return
    if found not in seen:
        seen.add(found)
        raise Lost(f"its {kind} is wrong")
    # What arrives twice is what is there. S3's ETag of an object encrypted by KMS looks like an MD5, and is none.
    if kind != "md5":
        raise RemoteError(f"{file.url} is damaged: its {kind} is not the one in pack.json. Upload it again.")


def _patiently(url: str, patience: Sequence[float], request: Callable[[], Result]) -> Result:
    """Return what the request does; repeat it, after longer and longer pauses, while that may help."""
    for attempt in range(len(patience) + 1):
        try:
            return request()
        except Exception as error:
            if not (reason := reason_to_retry(error)):
                raise explained(error, url) from error
            if attempt == len(patience):
                tried = f"{attempt + 1} attempts in {sum(patience):.0f} s"
                hint = "Check the address and the network, and start again; what has arrived is kept"
                raise RemoteError(f"{url} cannot be read: {reason} ({tried}). {hint}.") from error
            log.warning("%s: %s; trying again in %g s", url, reason, patience[attempt])
            time.sleep(patience[attempt])
    raise AssertionError


def _file_system(url: str) -> Any:
    """The file system for a URL: fsspec keeps one for each kind and process, so this is called for every request."""
    scheme = url.partition("://")[0]
    try:
        import fsspec

        return fsspec.filesystem(scheme, **_options(scheme))
    except ImportError as error:
        missing = "fsspec" if error.name == "fsspec" else PACKAGES[scheme]
        raise RemoteError(how_to_install(url, missing, "remote", error)) from error


def _options(scheme: str) -> dict[str, Any]:
    if scheme == "s3":
        return {"use_listings_cache": False, "max_concurrency": 1}  # in parts, a short one would leave a hole
    if scheme == "gs":
        return {"use_listings_cache": False}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    headers = {"Accept-Encoding": "identity"}
    return {"client_kwargs": {"timeout": timeout, "trust_env": True, "headers": headers}}


def _with_scheme(scheme: str, name: str) -> str:
    return name if "://" in name else f"{scheme}://{name}"


def _checksum(url: str, tag: str, info: dict[str, Any]) -> str:
    """S3's ETag is the MD5 of an object that was uploaded in one part; Google tells the MD5."""
    if url.startswith("s3:") and re.fullmatch("[0-9a-f]{32}", tag):
        return f"md5:{tag}"
    if url.startswith("gs:") and info.get("md5Hash"):
        return f"md5:{base64.b64decode(info['md5Hash']).hex()}"
    return ""
