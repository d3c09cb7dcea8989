"""What an exception of fsspec and of the libraries behind it means: trying again may help, or the user must act.

The libraries share no base class, and whichever raised need not be the one in use; so errors are told apart by the
names of their classes, by status codes and by `errno`.
"""

from __future__ import annotations

import errno
import re

from ..errors import RemoteError

CREDENTIALS = {
    "s3": "Give credentials as other tools for S3 take them (AWS_PROFILE, AWS_ACCESS_KEY_ID ...), or "
    "FSSPEC_S3_ANON=true for a public bucket",
    "gs": "Log in with `gcloud auth application-default login`, or set FSSPEC_GS_TOKEN=anon for a public bucket",
    "http": "The server wants to know who asks: put the password into ~/.netrc",
}
LOST = {
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",
    "HTTPClientError",  # botocore
    "IncompleteReadError",
    "ResponseStreamingError",
    "ConnectionError",  # Python's, botocore's, requests'
    "TimeoutError",  # Python's, asyncio's
    "FSTimeoutError",
    "Lost",  # ours
}
CERTIFICATE = {"SSLError", "ClientSSLError", "SSLCertVerificationError"}
BUSY = {errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.EIO, errno.EPIPE}
LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE}
BUSY_STATUS = {408, 425, 429}


class Refused(RemoteError):
    """The server was reached, but does not give the file: it is not there, or it is not for everyone."""


class Lost(Exception):
    """A file arrived incomplete or damaged."""


def reason_to_retry(error: BaseException) -> str:
    """Return why a request failed in a few words, if the same request may succeed later; empty if it will not."""
    error = _behind(error)
    names, status = _names(error), _status(error)
    if isinstance(error, RemoteError) or names & CERTIFICATE or getattr(error, "errno", None) in LOCAL:
        return ""
    if status is not None:
        return f"the server answered {status}" if status >= 500 or status in BUSY_STATUS else ""
    if names & LOST or (isinstance(error, OSError) and error.errno in BUSY):
        return _words(error)
    return ""


def explained(error: BaseException, url: str) -> BaseException:
    """Return the error to raise for one that will not pass: in one line, what is wrong, where, and what to do.

    Errors of the local disk, and those that nobody expected, come back as they are.
    """
    error = _behind(error)
    names, status = _names(error), _status(error)
    if names & CERTIFICATE:
        return RemoteError(f"The certificate of {url} is not to be trusted ({_words(error)}).")
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and not _is_local(error)):
        what = "there is no such bucket" if "bucket does not exist" in str(error) else "nothing is there"
        return Refused(f"{url} cannot be read: {what}. Check the address.")
    if status in (401, 403) or "NoCredentialsError" in names or isinstance(error, PermissionError):
        who = "no credentials were found" if "NoCredentialsError" in names else "access is denied"
        hint = CREDENTIALS[url.partition("://")[0].replace("https", "http")]
        return Refused(f"{url} cannot be read: {who}. {hint}.")
    if status is not None:
        return RemoteError(f"{url} cannot be read: the server answered {status}.")
    if type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "aiobotocore", "gcsfs", "yarl") or (
        isinstance(error, OSError) and error.errno == errno.EINVAL
    ):
        return RemoteError(f"{url} cannot be read: {_words(error)}.")
    return error


def _behind(error: BaseException) -> BaseException:
    """Over HTTP, fsspec makes a FileNotFoundError of whatever kept it from looking; s3fs means it."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause and not type(cause).__module__.startswith("botocore"):
        return cause
    return error


def _is_local(error: OSError) -> bool:
    return bool(error.filename) and error.errno is not None and ":" not in str(error.filename)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    """The status of an HTTP answer: aiohttp's errors have it as `status`, gcsfs' as `code`."""
    found = str(getattr(error, "status", None) or getattr(error, "code", None))
    return int(found) if found.isdigit() else None


def _words(error: BaseException) -> str:
    if "FSTimeoutError" in _names(error):  # says nothing
        return "the server fell silent"
    text = re.sub(r" ssl:\w+", "", " ".join(str(error).split())).rstrip(".")
    return text[:200] or type(error).__name__
