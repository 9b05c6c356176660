"""Malformed clients: malformed HTTP and frames, bad tokens, half requests, bombs.

Owns: their shapes, and what is counted of the answers. Never does: behave.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import random
from collections import Counter
from contextlib import suppress

ANSWER_TIMEOUT = 2.0
PAUSE = 0.2
"""Seconds between two tries of one client."""
_HOST = b"Host: a\r\n"
_UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\n" + _HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: delivery.v1\r\n"
    b"Sec-WebSocket-Key: %s\r\n\r\n"
)
_MASK = bytes(4)
FRAMES = (
    b"\x83\x81" + _MASK + b"x",  # a reserved opcode
    b"\xf1\x82" + _MASK + b"{}",  # reserved bits
    b"\x89\xfe\x00\x7e" + _MASK + b"x" * 126,  # a ping that is too long
    b"\x09\x81" + _MASK + b"x",  # a fragmented ping
    b"\x80\x81" + _MASK + b"x",  # a continuation of nothing
    b"\x81\xff\x7f" + b"\xff" * 7 + _MASK,  # 2**63 bytes
    b"\x88\x82" + _MASK + b"\x00\x00",  # a close code that there is not
    b"\x81\x82" + _MASK + b"\xc3\x28",  # no UTF-8
    b"\x81\x05hello",  # unmasked
    b"\x89\x80" + _MASK,  # a ping, many times
)
REQUESTS = (
    b"GET /a\x01 HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET /v1/stats HTTP/1.1\r\n" + _HOST + b"Authorization: Bearer a.b.c\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\n" + _HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /v1/events HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    b"ffffffffffffffffffff\r\n",
    b"POST /v1/callbacks/email HTTP/1.1\r\n" + _HOST + b"Content-Length: 2\r\n\r\n{}",
    b"GET /healthz HTTP/1.1\r\n" + _HOST + b"X-Half: ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT elsewhere:443 HTTP/1.1\r\n" + _HOST + b"\r\n",
)


def bodies(token: str) -> list[bytes]:
    """Requests with a good token and a bad body."""
    deep = b'{"events":' + b"[" * 100_000
    many = b'{"events":[' + b",".join([b"[]"] * 200_000) + b"]}"
    found = []
    for raw, encoding in (
        (deep, ""),
        (b'{"type":"x"}', ""),
        (b'{"type":"x","user_id":"\\ud800","run_id":"r","data":{}}', ""),
        (b"\xff\xfe", ""),
        (gzip.compress(many), "Content-Encoding: gzip\r\n"),
        (gzip.compress(bytes(64 << 20)), "Content-Encoding: gzip\r\n"),
        (b"no gzip", "Content-Encoding: gzip\r\n"),
    ):
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\n{encoding}Content-Length: {len(raw)}\r\n\r\n"
        )
        found.append(head.encode() + raw)
    return found


class Hostile:
    """Malformed clients of one gateway.

    Args:
        token: a service's, for requests whose body alone is bad.

    Attributes:
        tries: connections so far.
        answers: by status, or the word that stands for another ending.
    """

    def __init__(self, host: str, port: int, token: str, *, seed: int = 1) -> None:
        self._host = host
        self._port = port
        self._bodies = bodies(token)
        self._random = random.Random(seed)
        self.tries = 0
        self.answers: Counter[str] = Counter()

    async def run(self) -> None:
        """Try one shape after the other until cancelled."""
        while True:
            self.tries += 1
            try:
                async with asyncio.timeout(2 * ANSWER_TIMEOUT):
                    self.answers[await self._try()] += 1
            except TimeoutError:
                self.answers["silence"] += 1
            except OSError:
                self.answers["cut"] += 1
            await asyncio.sleep(PAUSE)

    async def _try(self) -> str:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            kind = self._random.randrange(3)
            if kind == 0:
                writer.write(_UPGRADE % base64.b64encode(os.urandom(16)))
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self._random.choice(FRAMES) * self._random.choice((1, 1, 300)))
            else:
                writer.write(self._random.choice(REQUESTS if kind == 1 else self._bodies))
            if self._random.random() < 0.2:
                return "left"  # without waiting for the answer
            async with asyncio.timeout(ANSWER_TIMEOUT):
                said = await reader.read(65_536)
        except asyncio.IncompleteReadError:
            return "cut"
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        if said.startswith(b"HTTP/1."):
            return said.split(b" ", 2)[1][:3].decode("ascii", "replace")
        return "frames" if said else "closed"
