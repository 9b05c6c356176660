"""An HTTP server on loopback that answers from a script and remembers what it was asked."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LIMIT = 10.0


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What to answer; ``hang`` reads the request and never answers, ``reset`` cuts the line."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    reset: bool = False


class WebServer:
    """Answers each request with ``answer(request)``; the last answers are the default."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Reply] = lambda request: Reply()
        self.closing = threading.Event()
        self._arrived = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = LIMIT

            def do_POST(self) -> None:
                outer._serve(self)

            do_GET = do_PUT = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                """Tests look at ``requests``."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def wait_for(self, count: int) -> list[Request]:
        """The requests, once there are ``count``."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, LIMIT):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came")
            return list(self.requests)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Request(handler.command, handler.path, dict(handler.headers.items()), body)
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        reply = self.answer(request)
        if reply.hang:
            self.closing.wait(LIMIT)
            return
        if reply.reset:
            # Linger 0: closing sends a reset instead of an end.
            handler.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            handler.connection.close()
            return
        handler.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(reply.body)


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A running server."""
    server = WebServer()
    server._thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server._server.shutdown()
        server._server.server_close()
        server._thread.join(LIMIT)
