"""An HTTP server of its own for the metrics of a process that serves nothing else.

Owns: its port and its thread. Never does: share a thread with tasks, or wait for a slow reader.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from delivery.errors import ConfigError
from delivery.telemetry.instruments import expose

READ_TIMEOUT = 5.0
PATH = "/metrics"


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_TIMEOUT
    server_version = "delivery"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the metrics; there is no other page."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        body, content_type = expose(self.headers.get("Accept", ""))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape every few seconds says nothing new."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: a reader that left is no fault of this process."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class MetricsServer:
    """Serves ``/metrics``; it listens from its making, and answers from ``start``.

    Raises:
        ConfigError: the port is taken, or is not this user's.
    """

    def __init__(self, host: str, port: int) -> None:
        server = _ServerV6 if ":" in host else _Server
        try:
            self._server = server((host, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}; set DELIVERY_METRICS_PORT to a "
                "port that no other process of this machine has"
            ) from error
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="delivery-metrics", daemon=True
        )
        self._thread.start()

    def forget(self) -> None:
        """Close the socket in a forked child, which would hold the port after its parent."""
        self._server.socket.close()

    def stop(self) -> None:
        """Answer no more."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(READ_TIMEOUT)
            self._thread = None
        self._server.server_close()
