"""Raw requests at a real process: what strangers without a token cost their neighbours, what they
are told, what the log says; HEAD and HTTP/1.0, as proxies send them."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from pydantic import SecretStr

from delivery.api.demo_agent import DemoAgent
from delivery.bootstrap.node import Node as GatewayNode
from delivery.config import Settings
from delivery.domain.transports import Inbox
from tests.processes import Process, running
from tests.server_process import wait_until

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

    def __init__(self, process: Process, port: int, tokens: dict[str, str]) -> None:
        self.process = process
        self.port = port
        self.tokens = tokens

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
        said = process.json_line(60)
        port = urlsplit(said["url"]).port
        assert port is not None
        names = ("service_token", "client_token")
        yield Up(process, port, {name: said[name] for name in names})


@pytest.fixture
def neighbour(up: Up) -> Iterator[list[float]]:
    """Seconds that each request of another client took meanwhile."""
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
}
READABLE = {
    "unknown page": b"GET /nowhere" + b"a" * 5_000 + b" HTTP/1.1\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\n",
    "page": b"GET /client.js HTTP/1.1\r\n",
    "expectation": b"GET / HTTP/1.1\r\nExpect: the-impossible\r\n",
    "no token": b"GET /v1/stats HTTP/1.1\r\n",
    "no upgrade": b"GET /v1/ws HTTP/1.1\r\n",
    "a broken upgrade": b"GET /v1/ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 3\r\n",
}


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


UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def readable_paths(home: Path) -> list[str]:
    """Every path of the application that answers GET, with something in its placeholders."""
    settings = Settings(data_dir=home, jwt_secret=SecretStr("s" * 32), port=8080)
    node = GatewayNode(
        settings,
        "gateway",
        inbox=cast(Inbox, SimpleNamespace(forget=list)),
        demo_agent=lambda node: cast(DemoAgent, ()),
    )
    routes = node.gateway.build_app().router.routes()
    found = {
        route.resource.canonical for route in routes if route.resource and route.method == "GET"
    }
    return sorted(re.sub(r"\{.*?\}", "0190", path) for path in found)


STREAMS = ("/v1/stats/stream", "/v1/stream", "/v1/ws")


@pytest.mark.parametrize("token", ["service_token", "client_token"])
def test_head_has_no_body_and_holds_no_connection(up: Up, tmp_path: Path, token: str) -> None:
    paths = readable_paths(tmp_path / "data")
    assert set(STREAMS) | {"/v1/events/0190", "/metrics", "/client.js"} <= set(paths)
    authorization = f"Authorization: Bearer {up.tokens[token]}\r\n".encode()
    next_one = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    for path in paths:
        upgrade = UPGRADE if path == "/v1/ws" else b""
        head = b"HEAD %s HTTP/1.1\r\n" % path.encode() + HOST + authorization + upgrade + b"\r\n"
        first, _, rest = up.send(head + next_one).partition(b"\r\n\r\n")
        status = int(first.split()[1])
        assert rest.startswith(b"HTTP/1.1 200 "), (first, rest[:200])
        assert rest.count(b"HTTP/1.1 ") == 1
        assert status < 500, path
        if path in STREAMS:
            assert status == 405, path
            assert b"Allow: GET" in first
            assert b"event-stream" not in first


@pytest.mark.parametrize(
    ("path", "token"), [("/v1/stream", "client_token"), ("/v1/stats/stream", "service_token")]
)
def test_a_stream_over_http_1_0_ends_with_its_connection(up: Up, path: str, token: str) -> None:
    with socket.create_connection(("127.0.0.1", up.port), timeout=20) as peer:
        lines = (
            f"GET {path} HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer {up.tokens[token]}\r\n\r\n"
        )
        peer.sendall(lines.encode())
        said = b""
        while b"\ndata: " not in said:
            said += peer.recv(65_536)
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.split()[1] == b"200"
    assert b"chunked" not in head.lower()
    assert b"keep-alive" not in head.lower()
    # A comment may come first: it fills what a proxy would hold back.
    assert body.lstrip(b": \n").startswith(b"event: ")


def test_a_websocket_over_http_1_0_is_refused(up: Up) -> None:
    token = f"Authorization: Bearer {up.tokens['client_token']}\r\n".encode()
    answer = up.send(b"GET /v1/ws HTTP/1.0\r\n" + HOST + token + UPGRADE + b"\r\n")
    assert answer.split()[1] == b"400"


def malformed(up: Up) -> int:
    """What the metrics count."""
    text = up.get("/metrics")
    found = re.search(r"^delivery_malformed_requests_total\{.*\} ([0-9.]+)$", text, re.M)
    assert found is not None
    return int(float(found[1]))
