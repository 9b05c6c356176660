"""An endpoint for development: takes messages, checks their signatures, shows them.

Owns: the HTTP server and the check. Never does: serve more than a developer's machine.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY = 1_048_576
TIMEOUT = 10.0
_LENGTH = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Received:
    """A message.

    Attributes:
        fault: why it was refused; ``None`` if its signature is right.
    """

    id: str
    body: Any
    fault: str | None


class Listener:
    """Listens until it is closed.

    Args:
        keys: one of which must have signed.
        status: what good messages are answered with.
        show: called with each message, one at a time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        keys: list[bytes],
        *,
        status: int,
        show: Callable[[Received], None],
    ) -> None:
        self._verifiers = [Webhook(base64.b64encode(key).decode()) for key in keys]
        self._status = status
        self._show = show
        self._showing = threading.Lock()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            timeout = TIMEOUT

            def do_POST(self) -> None:
                self.send_response(listener.take(self))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Messages are shown, requests are not."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self._server.server_address[1])

    def run(self) -> None:
        """Serve until ``stop``."""
        self._server.serve_forever(0.1)

    def stop(self) -> None:
        """End ``run``, from another thread."""
        threading.Thread(target=self._server.shutdown, daemon=True).start()

    def close(self) -> None:
        """Close the socket."""
        self._server.server_close()

    def take(self, request: BaseHTTPRequestHandler) -> int:
        """Read, check and show one message; returns the status to answer with."""
        length = request.headers.get("Content-Length", "")
        if _LENGTH.fullmatch(length) is None or int(length) > MAX_BODY:
            return 413
        raw = request.rfile.read(int(length))
        headers = {name.lower(): value for name, value in request.headers.items()}
        fault = self._fault(raw, headers)
        try:
            body = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            body, fault = raw.decode("utf-8", "replace"), fault or "the body is not JSON"
        found = Received(headers.get("webhook-id", ""), body, fault)
        with self._showing:
            self._show(found)
        return self._status if fault is None else 401

    def _fault(self, raw: bytes, headers: dict[str, str]) -> str | None:
        fault = "no secret to check it with"
        for verifier in self._verifiers:
            try:
                verifier.verify(raw, headers)
            except WebhookVerificationError as error:
                fault = str(error)
            except ValueError:
                return "the body is not JSON"
            else:
                return None
        return fault
