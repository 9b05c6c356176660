"""Requests that are not HTTP, from strangers without a token, at a real process: what they cost
their neighbours, what they are told, and what the log says."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from delivery.bench.faults.server import wait_until

from tests.processes import Process, running

BUDGET = 0.35
"""Seconds that a neighbour's request may take meanwhile; a blocked loop took 0.7 to 11."""

HOST = b"Host: a\r\n"
FILLERS = {
    "letters": b"a" * 7_000,
    "tokens": b"eyJ-" * 1_700,
    "schemes": b"://a:" * 1_400,
    "names": b"token" * 1_400,
    "assignments": b"token=" * 1_100,
    "dots": b"eyJaaaaa." * 700,
    "mixed": b"secret-eyJ-token:bearer=" * 290,
}


class Up:
    """One ``delivery up``."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    def send(self, raw: bytes) -> bytes:
        """The whole answer to these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as peer:
            peer.sendall(raw)
            answer = b""
            with suppress(ConnectionError):  # it need not read what it refuses
                while chunk := peer.recv(65_536):
                    answer += chunk
            return answer

    def get(self, path: str) -> str:
        """A page, as text."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One process for the module."""
    home = tmp_path_factory.mktemp("up")
    with running(
        "up", "--json", "--port", "0", cwd=home, settings={"DATA_DIR": str(home / "data")}
    ) as process:
        port = urlsplit(process.json_line(60)["url"]).port
        assert port is not None
        yield Up(process, port)


@pytest.fixture
def neighbour(up: Up) -> Iterator[list[float]]:
    """Seconds that each request of somebody else took meanwhile."""
    took: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            began = time.perf_counter()
            up.get("/client.js")
            took.append(time.perf_counter() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: len(took) >= 3, "the neighbour's first answers")
    took.clear()
    yield took
    ended.set()
    thread.join(30)


def in_path(filler: bytes) -> bytes:
    """A request line with a control byte behind the filler."""
    return b"GET /" + filler + b"\x01 HTTP/1.1\r\n" + HOST + b"\r\n"


def in_header(filler: bytes) -> bytes:
    """A header with a control byte behind the filler."""
    return b"GET / HTTP/1.1\r\n" + HOST + b"X: " + filler + b"\x01\r\n\r\n"


@pytest.mark.parametrize("place", [in_path, in_header])
@pytest.mark.parametrize("filler", FILLERS)
def test_a_malformed_request_holds_up_no_neighbour(
    up: Up, neighbour: list[float], place: object, filler: str
) -> None:
    assert callable(place)
    answer = up.send(place(FILLERS[filler]))
    seen = len(neighbour)
    wait_until(lambda: len(neighbour) >= seen + 2, "the neighbour's answers after it")
    assert answer.split()[1] == b"400"
    assert max(neighbour) < BUDGET


MALFORMED = {
    "control byte in the path": b"GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "control byte in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01\r\n\r\n",
    "long line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no method": b"!\x7f / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a version to come": b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    "two lengths": b"POST /v1/acks HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
                   b"Content-Length: 2\r\n\r\n",
    "terminal escapes": b"GET /\x1b[2J\x1b]0;x\x07 HTTP/1.1\r\nHost: a\r\n\r\n",
}  # fmt: skip
READABLE = {
    "unknown page": b"GET /nowhere" + b"a" * 5_000 + b" HTTP/1.1\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\n",
    "page": b"GET /client.js HTTP/1.1\r\n",
    "expectation": b"GET / HTTP/1.1\r\nExpect: the-impossible\r\n",
    "no token": b"GET /v1/stats HTTP/1.1\r\n",
    "no upgrade": b"GET /v1/ws HTTP/1.1\r\n",
    "a broken upgrade": b"GET /v1/ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        b"Sec-WebSocket-Version: 3\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_a_problem_of_one_log_line(up: Up, name: str) -> None:
    before, counted = len(up.process.log.read_text()), malformed(up)
    answer = up.send(MALFORMED[name])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == b"400"
    assert b"application/problem+json" in head
    assert json.loads(body)["type"] == "/problems/bad-request"
    assert len(body) < 400
    assert malformed(up) == counted + 1
    wait_until(lambda: len(up.process.log.read_text()) > before, "the log line")
    said = up.process.log.read_text()[before:]
    assert re.fullmatch(r"[^\n]+ malformed request from 127\.0\.0\.1: [^\n]+\n", said)


@pytest.mark.parametrize("name", MALFORMED | READABLE)
def test_no_answer_tells_a_version(up: Up, name: str) -> None:
    raw = MALFORMED.get(name) or READABLE[name] + HOST + b"Connection: close\r\n\r\n"
    head, _, body = up.send(raw).partition(b"\r\n\r\n")
    assert re.findall(rb"(?im)^server: *(.*?)\r?$", head) == [b"delivery"]
    assert not re.search(rb"(?i)aiohttp|python", head)
    assert len(body) < 1_000 or name == "page"


def test_a_flood_of_malformed_requests_is_logged_at_a_bounded_rate(up: Up) -> None:
    before, counted = len(up.process.log.read_text()), malformed(up)
    for _ in range(300):
        up.send(MALFORMED["control byte in the path"])
    assert malformed(up) == counted + 300
    said = up.process.log.read_text()[before:]
    assert said.count("malformed request") < 250


def malformed(up: Up) -> int:
    """What the metrics count."""
    found = re.search(r"^delivery_malformed_requests_total\{.*\} (\d+)$", up.get("/metrics"), re.M)
    assert found is not None
    return int(found[1])
