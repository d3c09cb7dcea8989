"""Servers on 127.0.0.1 that can be told to fail: files over HTTP, and a wire on which what S3 answers is cut short."""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import threading
import time
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, TypeVar

Server = TypeVar("Server", bound=socketserver.BaseServer)
Fault = Literal["reset", "truncated", "garbage", "busy", "denied", "slow", "stuck"]


class FileServer(ThreadingHTTPServer):
    """Serves a folder, with ETags and ranges, and with pages that list it while `lists` is true.

    Each entry of `faults[path]` spoils one answer to a GET. `asked` counts the requests by method and path.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Files)
        self.folder, self.lists = folder, True
        self.page = b""  # the answer to everything, if there is one
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.asked: Counter[str] = Counter()
        self.stuck = threading.Event()  # set it to let the answers go on that are

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:  # a client that hung up is none of our business
        pass


class _Files(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.asked[f"{self.command} {name}"] += 1
        waiting = self.server.faults[name]
        fault = waiting.popleft() if self.command == "GET" and waiting else None
        path = self.server.folder / name
        if self.server.page:
            self._answer(200, self.server.page, {"Content-Type": "text/html; charset=utf-8"})
        elif fault in ("busy", "denied"):
            self._answer(503 if fault == "busy" else 403, b"not now", {})
        elif path.is_dir() and self.server.lists:
            entries = (f"{p.name}/" if p.is_dir() else p.name for p in sorted(path.iterdir()))
            page = "".join(f'<a href="{entry}">{entry}</a>\n' for entry in entries)
            self._answer(200, page.encode(), {"Content-Type": "text/html"})
        elif path.is_file():
            self._send_file(path.read_bytes(), fault)
        else:
            self._answer(404, b"not found", {})

    def _send_file(self, content: bytes, fault: Fault | None) -> None:
        headers = {"ETag": f'"{zlib.crc32(content):08x}"', "Content-Type": "application/octet-stream"}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._answer(206, content[first : last + 1], headers)
        elif fault == "truncated":
            self._answer(200, content[: len(content) // 2], headers)
        elif fault == "garbage":
            self._answer(200, bytes(len(content)), headers)
        else:
            self._answer(200, content, headers, fault)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for part in (body[i : i + len(body) // 8 + 1] for i in range(0, len(body), len(body) // 8 + 1)):
            self.wfile.write(part)
            if fault == "slow":
                time.sleep(0.05)
            if fault == "stuck":
                self.server.stuck.wait()
            if fault == "reset":
                _reset(self.connection)
                self.close_connection = True
                return

    def log_message(self, *_: object) -> None:
        pass


def _reset(connection: socket.socket) -> None:
    """Hang up without a word: the other side sees `connection reset by peer`."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Let a server answer, in a thread, until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def serving(folder: Path) -> AbstractContextManager[FileServer]:
    return running(FileServer(folder))


class Wire(socketserver.ThreadingTCPServer):
    """Passes connections on to a server; hangs up `cuts` times, after `after` bytes of an answer."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.port, self.cuts, self.after = port, 0, 0

    def handle_error(self, *_: object) -> None:
        pass


class _Passing(socketserver.BaseRequestHandler):
    server: Wire

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as there:
            threading.Thread(target=_copy, args=(self.request, there), daemon=True).start()
            passed = 0
            while part := there.recv(4096):
                passed += len(part)
                if self.server.cuts and passed > self.server.after:
                    self.server.cuts -= 1
                    self.request.shutdown(socket.SHUT_RDWR)
                    return
                self.request.sendall(part)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def wired(port: int) -> AbstractContextManager[Wire]:
    return running(Wire(port))
