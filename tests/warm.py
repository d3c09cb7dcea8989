"""Python programs in processes that start at once: forks of a server that has imported torch, DALI and our modules.

`Popen` and `run` take the commands that those of subprocess take, if they begin with `sys.executable`. The processes
have their own ids, limits, signals and exit codes, and end as any interpreter does; only the seconds of importing are
saved. A test of what is imported, or of a variable that is read while importing, needs a real start.
"""

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from alexnet.console.imports import quick_imports

COMMANDS = ("bench", "evaluate", "features", "pack", "predict", "stats", "train")
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(10**9), "MALLOC_TRIM_THRESHOLD_": str(10**9)}  # a third less time


PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL


class Popen:
    """A program: `command` is `sys.executable`, then `-m MODULE`, `-c CODE` or a file, then its arguments."""

    def __init__(
        self,
        command: Sequence[Any],
        *,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        assert command[0] == sys.executable
        words = [str(word) for word in command[1:]]
        request = {"words": words, "environment": dict(env or os.environ), "folder": str(Path.cwd())}
        (self.stdout, out), (self.stderr, err) = _stream(stdout, 1), _stream(stderr, 2)
        self._news, news = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with tempfile.TemporaryFile("w+") as file, news:
            json.dump(request, file)
            file.seek(0)
            socket.send_fds(_server(), [b"start"], [file.fileno(), out, err, news.fileno()])
        os.close(out)
        os.close(err)
        self.pid = int(self._news.recv(99))
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, or minus the number of the signal that ended it."""
        if self.returncode is None:
            self._news.settimeout(timeout)
            self.returncode = int(self._news.recv(99))
            self._news.close()
        return self.returncode

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._news], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it wrote into pipes, once it has ended."""
        with ThreadPoolExecutor(2) as pool:
            texts = [pool.submit(pipe.read if pipe else str) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except TimeoutError:
                self._news.settimeout(None)
                self.kill()
                raise
            finally:
                found = [text.result() for text in texts]
                self.close()
        return found[0], found[1]

    def close(self) -> None:
        """Close its pipes, once they have been read."""
        for pipe in (self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[Any], *, timeout: float | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; return its exit code and what it wrote."""
    child = Popen(command, stdout=PIPE, stderr=PIPE, env=env)
    stdout, stderr = child.communicate(timeout)
    return subprocess.CompletedProcess(command, child.wait(), stdout, stderr)


def _stream(wanted: int | IO[Any] | None, usual: int) -> tuple[IO[str] | None, int]:
    """Return our end of a pipe, if that is wanted, and a new descriptor for the program."""
    if wanted == PIPE:
        ours, theirs = os.pipe()
        return os.fdopen(ours), theirs
    if wanted == DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    return None, os.dup(usual if wanted is None else wanted if isinstance(wanted, int) else wanted.fileno())


@cache
def _server() -> socket.socket:
    """Start the server, which ends with this process; return where it takes requests."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1", **KEEP_MEMORY},
        )

    def stop() -> None:
        ours.close()
        server.wait()

    atexit.register(stop)
    return ours


# -- in the server ------------------------------------------------------------------------------------------


def main() -> None:
    """Answer requests until there are no more; each program returns from here, too."""
    with quick_imports():
        for command in COMMANDS:
            import_module(f"alexnet.console.commands.{command}")
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"  # noqa: PTH208
    requests = socket.socket(fileno=int(sys.argv[1]))
    keepers = list[int]()
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, 99, 4)
        keepers = [keeper for keeper in keepers if os.waitpid(keeper, os.WNOHANG) == (0, 0)]
        if not message:
            return
        if (keeper := os.fork()) == 0:
            break
        keepers.append(keeper)
        for descriptor in descriptors:
            os.close(descriptor)
    requests.close()
    keep(*descriptors)


def keep(request: int, out: int, err: int, news: int) -> None:
    """Start a program, and tell its process id and, in the end, its exit code."""
    pid = os.fork()
    if pid == 0:
        os.close(news)
        become(request, out, err)
        return
    os.close(out)
    os.close(err)
    keeper = socket.socket(fileno=news)
    keeper.send(str(pid).encode())
    keeper.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def become(request: int, out: int, err: int) -> None:
    """Run a program as the interpreter would."""
    for found, wanted in ((out, 1), (err, 2)):
        os.dup2(found, wanted)
        os.close(found)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    with os.fdopen(request) as file:
        what = json.load(file)
    os.chdir(what["folder"])
    os.environ.clear()
    os.environ.update(what["environment"])
    kind, *rest = what["words"]
    if kind == "-m":
        sys.argv = rest
        sys.path[0] = ""
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[0] = ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        sys.path[0] = str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    main()
