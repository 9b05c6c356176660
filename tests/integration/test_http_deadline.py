"""A provider that answers byte by byte ends its attempt at the deadline, with and without TLS."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from delivery.errors import OutcomeUnknown
from delivery.transports.http import Poster
from tests.smtp_servers import certificate, raw_server

LIMIT = 30.0
"""Seconds until the server gives up, far past the deadline."""


@pytest.mark.parametrize("tls", [False, True])
def test_a_head_that_comes_byte_by_byte_ends_with_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    ended = threading.Event()
    server_side, _ = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "127.0.0.1.pem"))

    def drip(connection: socket.socket) -> None:
        wrapped = server_side.wrap_socket(connection, server_side=True) if tls else connection
        wrapped.recv(4_096)
        ends = time.monotonic() + LIMIT
        with contextlib.suppress(OSError):
            wrapped.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while time.monotonic() < ends:
                wrapped.sendall(b"x")
                ended.wait(0.05)
            return
        ended.set()

    with raw_server(drip) as port:
        poster = Poster("slow", f"http{'s' if tls else ''}://127.0.0.1:{port}", trust_env=False)
        with pytest.raises(OutcomeUnknown):
            poster.post("/", timeout=0.5, json={})
        assert ended.wait(LIMIT / 2), "the server was cut off"
