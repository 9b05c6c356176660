"""A service whose descriptors are nearly used up by strangers: it goes on accepting events."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import jwt
import pytest

from tests.processes import SECRET, Process
from tests.waiting import until_blocking

pytestmark = pytest.mark.timeout(180)

LIMIT = 300
STRANGERS = 500
HALF_A_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    """``delivery up`` that may have ``LIMIT`` descriptors."""
    command = [sys.executable, "-m", "delivery", "up", "--json", "--port", "0"]
    process = Process(
        ["sh", "-c", f'ulimit -n {LIMIT}; exec "$0" "$@"', *command],
        tmp_path,
        {"JWT_SECRET": SECRET},
        "up",
    )
    yield process
    process.kill()


def open_connections(sockets: list[socket.socket]) -> int:
    """How many the service has not reset."""

    def is_open(one: socket.socket) -> bool:
        try:
            return one.recv(1) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    return sum(is_open(one) for one in sockets)


def test_strangers_that_hold_connections_cost_no_event(service: Process) -> None:
    url = service.json_line()["url"]
    host, port = url.removeprefix("http://").split(":")
    claims = {"sub": "service", "scope": "emit read", "exp": 4_000_000_000}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}
    with httpx.Client(base_url=url, headers=headers, timeout=10.0) as caller, ExitStack() as held:

        def emit(number: int) -> None:
            body = {"type": "note", "user_id": "ada", "run_id": "r", "data": {"n": number}}
            answer = caller.post("/v1/events", json=body)
            assert answer.status_code == 202, answer.text

        emit(0)
        sockets = []
        for _ in range(STRANGERS):
            one = held.enter_context(socket.create_connection((host, int(port)), timeout=10.0))
            one.sendall(HALF_A_REQUEST)
            one.setblocking(False)
            sockets.append(one)
        until_blocking(lambda: 0 < open_connections(sockets) < LIMIT // 2)
        for number in range(1, 20):
            emit(number)
        used = len(os.listdir(f"/proc/{service.process.pid}/fd"))
        assert used < LIMIT - 64, "some are left for the ledger and the log"
        assert caller.get("/readyz").status_code == 200
        held.close()

        def is_served() -> bool:
            try:
                return httpx.get(f"{url}/healthz", timeout=5.0).status_code == 200
            except httpx.HTTPError:
                return False

        until_blocking(is_served)
        found = caller.get("/v1/events", params={"user_id": "ada", "limit": 100}).json()["events"]
        assert len(found) == 20
    log = service.tail(1_000_000)
    assert "Too many open files" not in log
    assert "unforeseen" not in log
