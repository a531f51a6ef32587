"""A web server that behaves as a test says: well, or not."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler", bytes, int], None]
"""Answers a request for a file, from a byte on (0: no range was asked for)."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Files by their path, each request noted as its path and the byte that it begins at."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], host: str) -> None:
        super().__init__((host, 0), Handler)
        self.host = host
        self.files = files
        self.asked: list[tuple[str, int]] = []
        self.answers: list[Answer] = []
        """Of the next requests, in their order; the ones after them are answered well."""
        self.closing = threading.Event()
        self.outwaited = False
        """A client has waited for as long as a server that stalls does."""
        self.scheme = "http"

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is part of a test."""

    @property
    def root(self) -> str:
        return f"{self.scheme}://{self.host}:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(part[1]) if part else 0
        self.server.asked.append((self.path, start))
        answer = self.server.answers.pop(0) if self.server.answers else well
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        if part and part[2]:
            content = content[: int(part[2]) + 1]
        with suppress(BrokenPipeError, ConnectionResetError):
            answer(self, content, start)

    def head(self, status: int, length: int | None, **headers: str) -> None:
        """A status line with headers; no length ends the answer with the connection."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def well(handler: Handler, content: bytes, start: int) -> None:
    """As the standard has it."""
    if start >= len(content) > 0:
        handler.send_error(416)
        return
    length = len(content) - start
    if start:
        handler.head(206, length, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")
    else:
        handler.head(200, length)
    handler.wfile.write(content[start:])


def without_ranges(handler: Handler, content: bytes, start: int) -> None:
    """Knows nothing of ranges and sends everything."""
    handler.head(200, len(content))
    handler.wfile.write(content)


def cut(part: float) -> Answer:
    """Promises all and closes after a part of it."""

    def answer(handler: Handler, content: bytes, start: int) -> None:
        end = start + int((len(content) - start) * part)
        if start:
            handler.head(206, len(content) - start, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.head(200, len(content))
        handler.wfile.write(content[start:end])

    return answer


def stall(part: float) -> Answer:
    """Sends a part, then nothing more, and keeps the connection."""

    def answer(handler: Handler, content: bytes, start: int) -> None:
        handler.head(200, len(content))
        handler.wfile.write(content[: int(len(content) * part)])
        handler.wfile.flush()
        handler.server.outwaited |= not handler.server.closing.wait(20)

    return answer


def status(code: int, **headers: str) -> Answer:
    """Another answer than the file."""

    def answer(handler: Handler, content: bytes, start: int) -> None:
        handler.head(code, 5, **headers)
        handler.wfile.write(b"sorry")

    return answer


def shorter(handler: Handler, content: bytes, start: int) -> None:
    """Says that the file is shorter than it is."""
    handler.head(200, len(content) // 2)
    handler.wfile.write(content)


def other_part(handler: Handler, content: bytes, start: int) -> None:
    """Answers with another range than was asked for."""
    handler.head(206, len(content) - 1, Content_Range=f"bytes 1-{len(content) - 1}/{len(content)}")
    handler.wfile.write(content[1:])


@contextmanager
def serving(
    files: dict[str, bytes], certificate: tuple[str, str] | None = None, host: str = "127.0.0.1"
) -> Iterator[Server]:
    """A server of some files; with the paths of a certificate and its key, by https."""
    server = Server(files, host)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
    assert not server.outwaited
