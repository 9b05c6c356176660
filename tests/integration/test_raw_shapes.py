"""Malformed HTTP and WebSocket frames at a real process: each is answered or closed, and the next
request, of this connection or another one, is answered as ever."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from delivery.bench.processes import processor_s
from tests.processes import running
from tests.server_process import wait_until

CRLF = b"\r\n"
MARK = b"/smuggled"


@dataclass(frozen=True)
class Up:
    port: int
    client_token: str
    service_token: str
    log: Path

    def send(self, raw: bytes, timeout: float = 5.0) -> bytes:
        """All that comes back until the server closes, or says nothing more for a while."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as peer:
            with suppress(ConnectionError):
                peer.sendall(raw)
            answer = b""
            with suppress(ConnectionError, TimeoutError):
                while chunk := peer.recv(65_536):
                    answer += chunk
                    peer.settimeout(1.0)  # there may be a second answer
            return answer

    def is_well(self) -> bool:
        answer = self.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return answer.startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("shapes")
    settings = {"DATA_DIR": str(home / "data"), "RATE_CONNECT": "0", "RATE_BAD_TOKENS": "0"}
    with running("up", "--json", "--port", "0", cwd=home, settings=settings) as process:
        said = process.json_line(60)
        port = urlsplit(said["url"]).port
        assert port is not None
        yield Up(port, said["client_token"], said["service_token"], process.log)
        log = process.log.read_text()
        assert "Traceback" not in log, log[-4_000:]


def post(*headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    lines = [b"POST /v1/acks HTTP/" + version, b"Host: a", *headers, b"", body]
    return CRLF.join(lines)


SMUGGLED = b"GET " + MARK + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
SIZE = b"Content-Length: %d" % len(SMUGGLED)
CHUNKED = b"Transfer-Encoding: chunked"

# Two servers that read one of these differently disagree about where the next request begins.
SMUGGLING = {
    "both lengths": post(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "both lengths, the other way round": post(CHUNKED, SIZE, body=b"0\r\n\r\n" + SMUGGLED),
    "two lengths": post(b"Content-Length: 0", SIZE, body=SMUGGLED),
    "two equal lengths": post(b"Content-Length: 0", b"Content-Length: 0", body=SMUGGLED),
    "a list of lengths": post(b"Content-Length: 0, 0", body=SMUGGLED),
    "a negative length": post(b"Content-Length: -1", body=SMUGGLED),
    "a signed length": post(b"Content-Length: +0", body=SMUGGLED),
    "a hexadecimal length": post(b"Content-Length: 0x0", body=SMUGGLED),
    "a length with an underscore": post(b"Content-Length: 0_0", body=SMUGGLED),
    "a length in another script": post("Content-Length: ٠".encode(), body=SMUGGLED),
    "a huge length": post(b"Content-Length: " + b"9" * 40, body=SMUGGLED),
    "chunked twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "chunked, then identity": post(
        b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", SIZE, body=SMUGGLED),
    "a coding behind a tab": post(b"Transfer-Encoding:\tchunked", SIZE, body=SMUGGLED),
    "a space before the colon": post(b"Transfer-Encoding : chunked", SIZE, body=SMUGGLED),
    "a folded header": post(b"X: a\r\n Content-Length: 0", body=SMUGGLED),
    "a folded coding": post(b"Transfer-Encoding:\r\n chunked", SIZE, body=SMUGGLED),
    "a bare line feed": post(b"X: a\nTransfer-Encoding: chunked", SIZE, body=SMUGGLED),
    "a bare carriage return": post(b"X: a\rTransfer-Encoding: chunked", SIZE, body=SMUGGLED),
    "a null in a header": post(b"X: a\x00b", SIZE, body=SMUGGLED),
    "a header without a name": post(b": a", SIZE, body=SMUGGLED),
    "a header without a colon": post(b"Content-Length", body=SMUGGLED),
    "a huge chunk": post(CHUNKED, body=b"f" * 20 + CRLF + SMUGGLED),
    "a negative chunk": post(CHUNKED, body=b"-1\r\n" + SMUGGLED),
    "a chunk of 0x": post(CHUNKED, body=b"0x0\r\n\r\n" + SMUGGLED),
    "a chunk with an underscore": post(CHUNKED, body=b"1_0\r\n" + SMUGGLED),
    "a chunk longer than its size": post(CHUNKED, body=b"1\r\nabc\r\n0\r\n\r\n" + SMUGGLED),
    "a chunk ended by a line feed": post(CHUNKED, body=b"0\n\n" + SMUGGLED),
    "chunked in HTTP/1.0": post(CHUNKED, SIZE, body=SMUGGLED, version=b"1.0"),
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_what_another_server_could_read_differently_ends_the_connection(up: Up, name: str) -> None:
    answer = up.send(SMUGGLING[name])
    # One answer at most: a second one would answer the hidden request on a shared connection. The
    # exception is a request that stands in no body, which this server must then answer 404.
    statuses = re.findall(rb"^HTTP/1\.1 (\d{3}) ", answer, re.M)
    assert statuses == [] or statuses[0] in (b"400", b"401", b"413", b"501"), answer[:300]
    if len(statuses) > 1:
        assert name in ("two equal lengths", "a coding behind a tab"), answer[:600]
    assert b"500" not in statuses
    assert up.is_well()


def get(target: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: a", *headers, b"Connection: close"]
    return CRLF.join([*lines, b"", b""])


SHAPES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "an absolute target": (get(b"http://elsewhere.example/healthz"), (200, 400, 404)),
    "an absolute target of another scheme": (get(b"ftp://a/healthz"), (400, 404, 200)),
    "an authority as target": (get(b"a:80"), (400, 404)),
    "CONNECT": (get(b"elsewhere.example:443", method=b"CONNECT"), (400, 404, 405)),
    "CONNECT with a path": (get(b"/healthz", method=b"CONNECT"), (400, 404, 405)),
    "OPTIONS of everything": (get(b"*", method=b"OPTIONS"), (400, 404, 405)),
    "TRACE": (get(b"/healthz", b"X-Secret: 1", method=b"TRACE"), (400, 404, 405)),
    "PRI of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 404, 405, 505)),
    "a method in lower case": (get(b"/healthz", method=b"get"), (200, 400, 405)),
    "dots in the path": (get(b"/v1/../../etc/passwd"), (400, 404)),
    "escaped dots": (get(b"/%2e%2e/%2e%2e/etc/passwd"), (400, 404)),
    "a broken escape": (get(b"/%zz%"), (400, 404)),
    "an escaped null": (get(b"/v1/users/a%00b/contacts"), (400, 401, 404, 422)),
    "an overlong escape": (get(b"/%c0%af%c0%af"), (400, 404)),
    "a second slash": (get(b"//healthz"), (400, 404)),
    "a fragment": (get(b"/healthz#x"), (200, 400, 404)),
    "a long query": (get(b"/healthz?" + b"a" * 7_000), (200, 400, 414)),
    "many parameters": (get(b"/healthz?" + b"&".join([b"a=b"] * 1_500)), (200, 400, 414)),
    "expect 100": (get(b"/healthz", b"Expect: 100-continue"), (100, 200)),
    "expect the impossible": (get(b"/healthz", b"Expect: 200-ok"), (400, 417)),
    "no host": (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", (200, 400)),
    "two hosts": (get(b"/healthz", b"Host: b"), (200, 400)),
    "an upgrade to another protocol": (
        get(b"/healthz", b"Upgrade: h2c", b"HTTP2-Settings: AA"),
        (200, 400),
    ),
    "an unknown upgrade of the socket": (
        get(b"/v1/ws", b"Upgrade: tcp"),
        (400, 426),
    ),
    "a range": (get(b"/client.js", b"Range: bytes=0-1,5-9,-1,0-"), (200, 206, 416)),
    "a chunk extension and trailers": (
        post(
            CHUNKED,
            b"Connection: close",
            body=b'2;name="a;b";x\r\n{}\r\n0;last\r\nX-Trailer: 1\r\nContent-Length: 9\r\n\r\n',
        ),
        (400, 401),
    ),
    "long chunk extensions": (
        post(CHUNKED, b"Connection: close", body=b"2;" + b"x" * 60_000 + b"\r\n{}\r\n0\r\n\r\n"),
        (400, 401, 413),
    ),
    "many trailers": (
        post(
            CHUNKED,
            b"Connection: close",
            body=b"0\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(5_000)) + CRLF,
        ),
        (400, 401),
    ),
    "a thousand headers": (get(b"/healthz", *(b"X-%d: 1" % n for n in range(1_000))), (200, 400)),
    "two tokens": (
        get(b"/v1/stats", b"Authorization: Bearer a", b"Authorization: Bearer b"),
        (400, 401),
    ),
    "a token that is no text": (get(b"/v1/stats", b"Authorization: Bearer \xff\xfe"), (400, 401)),
    "an encoding that is unknown": (
        post(b"Content-Encoding: exotic", b"Content-Length: 2", b"Connection: close", body=b"{}"),
        (400, 401, 415),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_an_unusual_request_gets_an_ordinary_answer(up: Up, name: str) -> None:
    raw, known = SHAPES[name]
    answer = up.send(raw)
    statuses = [int(one) for one in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", answer, re.M)]
    # 100 is no answer yet; a connection may also be closed without one.
    assert [one for one in statuses if one != 100 and one not in known] == [], answer[:300]
    assert len([one for one in statuses if one != 100]) <= 1
    assert b"X-Secret" not in answer
    assert b"root:" not in answer
    assert up.is_well()


UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: delivery.v1\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
)


class Peer:
    """A WebSocket by hand."""

    def __init__(self, up: Up) -> None:
        self.socket = socket.create_connection(("127.0.0.1", up.port), timeout=20)
        key = base64.b64encode(os.urandom(16))
        self.socket.sendall(UPGRADE + b"Sec-WebSocket-Key: " + key + b"\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.socket.recv(4_096)
        self.head, _, self.rest = head.partition(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 ")

    def connect(self, token: str) -> None:
        self.socket.sendall(frame(1, json.dumps({"type": "connect", "token": token}).encode()))

    def end(self) -> int | None:
        """Send nothing more; the close code, ``None`` if the connection just ended."""
        raw = self.rest
        with suppress(ConnectionError, TimeoutError):
            while chunk := self.socket.recv(65_536):
                raw += chunk
                if close_code(raw) is not None:
                    break
        self.socket.close()
        return close_code(raw)


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """Source: RFC 6455, section 5.2."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 65_536:
        head = bytes((first, mask | 126)) + struct.pack(">H", size)
    else:
        head = bytes((first, mask | 127)) + struct.pack(">Q", size)
    return head + (bytes(4) + payload if masked else payload)  # a mask of zeros changes nothing


def close_code(raw: bytes) -> int | None:
    """The code of the first close frame in a server's bytes."""
    at = 0
    while at + 2 <= len(raw):
        opcode, size, head = raw[at] & 15, raw[at + 1] & 127, 2
        if size == 126:
            size, head = int.from_bytes(raw[at + 2 : at + 4], "big"), 4
        elif size == 127:
            size, head = int.from_bytes(raw[at + 2 : at + 10], "big"), 10
        if at + head + size > len(raw):
            return None
        if opcode == 8:
            return int.from_bytes(raw[at + head : at + head + 2], "big") if size >= 2 else 1005
        at += head + size
    return None


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(8, struct.pack(">H", code) + reason)


# 1002: broken protocol, 1007: no UTF-8, 1009: too big, 3501: bad frame, 3505: too many, None: cut.
BROKEN = (1002, 1007, 1009, 3501, 3505, None)
FRAMES: dict[str, bytes] = {
    **{f"opcode {n}": frame(n, b"x") for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"reserved bits {n}": frame(1, b"{}", rsv=n) for n in (1, 2, 3, 4, 7)},
    "compressed without an agreement": frame(1, b"\xaa\x56\x2a\xff\x00" * 9, rsv=4),
    "binary": frame(2, b'{"type":"ping"}'),
    "a ping of 126 bytes": frame(9, b"x" * 126),
    "a fragmented ping": frame(9, b"x", fin=False) + frame(0, b"y"),
    "a fragmented close": frame(8, b"\x03\xe8", fin=False) + frame(0),
    "a continuation of nothing": frame(0, b"x"),
    "a message inside a message": frame(1, b"{", fin=False) + frame(1, b"}"),
    "a length of 2**63": b"\x81\xff" + struct.pack(">Q", 2**63) + b"mask",
    "a length of 2**64 - 1": b"\x82\xff" + b"\xff" * 8 + b"mask",
    "a length over the limit": b"\x81\xff" + struct.pack(">Q", 2**30) + b"mask" + b"x" * 1_000,
    "unmasked": frame(1, b'{"type":"ping"}', masked=False),
    "no UTF-8": frame(1, b"\xc3\x28"),
    "UTF-8 cut in the middle": frame(1, b'"\xe2\x82', fin=False) + frame(0, b'"'),
    "a surrogate in UTF-8": frame(1, b'"\xed\xa0\x80"'),
    "no JSON": frame(1, b"hello"),
    "empty": frame(1),
    "nested": frame(1, b'{"type":"ack","x":' + b"[" * 500_000),
    "a close of one byte": frame(8, b"\x03"),
    "a close whose reason is no UTF-8": closing(1000, b"\xff\xfe"),
    **{f"close {n}": closing(n) for n in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)},
}


@pytest.mark.parametrize("phase", ["before connect", "connected"])
@pytest.mark.parametrize("name", FRAMES)
def test_a_broken_frame_ends_its_connection_and_no_other(up: Up, name: str, phase: str) -> None:
    other = Peer(up)
    other.connect(up.client_token)
    peer = Peer(up)
    if phase == "connected":
        peer.connect(up.client_token)
    with suppress(ConnectionError):
        peer.socket.sendall(FRAMES[name])
    # A close is answered with a close: of the same code, or of the fault.
    answers = (*BROKEN, 1000, 1005, *((int(name.split()[1]),) if name.startswith("close ") else ()))
    assert peer.end() in answers
    other.socket.sendall(frame(1, b'{"type":"ping"}'))
    heard = other.rest
    while b'"pong"' not in heard:
        chunk = other.socket.recv(65_536)
        assert chunk, "the neighbour's connection ended"
        heard += chunk
    other.socket.close()


FINE = {
    "a ping between fragments": frame(1, b'{"type":', fin=False)
    + frame(9, b"x" * 125)
    + frame(0, b'"ping"}'),
    "one byte at a time": b"".join(
        frame(1 if n == 0 else 0, b'{"type":"ping"}'[n : n + 1], fin=n == 14) for n in range(15)
    ),
    "an empty last fragment": frame(1, b'{"type":"ping"}', fin=False) + frame(0),
    "an unsolicited pong": frame(10, b"x") + frame(1, b'{"type":"ping"}'),
}


@pytest.mark.parametrize("name", FINE)
def test_an_unusual_frame_that_is_allowed_is_answered(up: Up, name: str) -> None:
    peer = Peer(up)
    assert b"permessage-deflate" not in peer.head
    peer.connect(up.client_token)
    peer.socket.sendall(FINE[name])
    heard = peer.rest
    while b'"pong"' not in heard:
        chunk = peer.socket.recv(65_536)
        assert chunk, heard
        heard += chunk
    peer.socket.close()


def test_nothing_is_left_of_them(up: Up) -> None:
    descriptors = Path(f"/proc/{pid_of(up)}/fd")

    def count() -> int:
        return len(list(descriptors.iterdir()))

    before = count()
    for raw in [*SMUGGLING.values(), *(raw for raw, _ in SHAPES.values())]:
        with socket.create_connection(("127.0.0.1", up.port)) as peer, suppress(ConnectionError):
            peer.sendall(raw)
    for raw in FRAMES.values():
        peer_ = Peer(up)
        with suppress(ConnectionError):
            peer_.socket.sendall(raw)
        peer_.socket.close()
    wait_until(lambda: count() <= before + 3, "descriptors are given back")


def pid_of(up: Up) -> int:
    """The process that listens on the port. Source: proc(5), /proc/net/tcp."""
    wanted = f":{up.port:04X} 00000000:0000 0A"
    line = next(one for one in Path("/proc/net/tcp").read_text().splitlines() if wanted in one)
    link = f"socket:[{line.split()[9]}]"
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(fd) == link:
                return int(fd.parts[2])
    raise AssertionError("no process listens")


def bomb(size: int) -> bytes:
    """That many zeros, compressed."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


@pytest.mark.parametrize("path", [b"/v1/events", b"/v1/callbacks/email", b"/nowhere"])
@pytest.mark.parametrize("has_token", [False, True])
def test_what_is_refused_is_not_unpacked(up: Up, path: bytes, has_token: bool) -> None:
    raw = bomb(256 << 20)
    token = up.service_token if has_token else "none"
    head = (
        b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + token.encode() + b"\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n" % len(raw)
    )
    pid = pid_of(up)
    before = processor_s(pid)
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", up.port), timeout=20) as peer,
        suppress(ConnectionError, TimeoutError),
    ):
        peer.sendall(head + raw)
        while chunk := peer.recv(65_536):  # until the server ends the connection
            answer += chunk
    took = processor_s(pid) - before
    assert answer == b"" or answer.split(b" ", 2)[1] in (b"401", b"403", b"404", b"405", b"413")
    assert took < 0.4, "unpacking all of it takes about a second of the processor"
