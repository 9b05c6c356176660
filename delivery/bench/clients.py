"""The clients: many lean WebSocket clients in one process, which acknowledge every event.

Owns: a minimal client of RFC 6455, since a full one would be the bottleneck. It counts the events
that came, and those that came twice.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import time
from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

decode = msgspec.json.Decoder().decode
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
SAMPLE = 8
"""One frame of so many is compared with the clock, never the first, which begins a run."""


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame with the masking key 0: legal, and the payload stays as it is."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + b"\0\0\0\0" + payload
    return bytes((0x80 | opcode, 0xFE)) + struct.pack("!H", size) + b"\0\0\0\0" + payload


class User(asyncio.Protocol, ABC):
    """One connection of a client; subclasses handle its text frames."""

    def __init__(self, request: bytes, hello: bytes | None) -> None:
        self._request = request
        self._hello = hello
        self._buffer = b""
        self._is_open = False
        self.received = 0
        self.repeated = 0
        self.out: list[bytes] = []
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._is_open:
            head, mark, buffer = buffer.partition(b"\r\n\r\n")
            if not mark:
                self._buffer = head
                return
            if b" 101 " not in head.split(b"\r\n", 1)[0]:
                raise ConnectionError(head.decode(errors="replace"))
            self._is_open = True
            if self._hello is not None:
                self.transport.write(masked(_TEXT, self._hello))
        self._buffer = self._frames(buffer)
        if self.out:
            self.transport.write(b"".join(self.out))
            self.out.clear()

    def _frames(self, buffer: bytes) -> bytes:
        """Handle every whole frame; returns the rest."""
        at, end = 0, len(buffer)
        while end - at >= 2:
            size, start = buffer[at + 1] & 0x7F, at + 2
            if size == 126:
                if end < start + 2:
                    break
                size = int.from_bytes(buffer[start : start + 2])
                start += 2
            elif size == 127:
                if end < start + 8:
                    break
                size = int.from_bytes(buffer[start : start + 8])
                start += 8
            if end < start + size:
                break
            self._on_frame(buffer[at] & 0x0F, buffer[start : start + size])
            at = start + size
        return buffer[at:]

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            self.on_text(payload)
        elif opcode == _PING:
            self.out.append(masked(_PONG, payload))
        elif opcode == _CLOSE:
            self.transport.close()

    @abstractmethod
    def on_text(self, payload: bytes) -> None:
        """Handle one text frame; put frames to send into ``out``."""


class FloorUser(User):
    """An acknowledgement per event, as the floor's protocol has it."""

    def on_text(self, payload: bytes) -> None:
        self.received += 1
        self.out.append(masked(_TEXT, b'{"ack":%d}' % decode(payload)["seq"]))


class ProductUser(User):
    """``delivery.v1``: one cumulative acknowledgement per frame of events."""

    def __init__(self, request: bytes, hello: bytes | None) -> None:
        super().__init__(request, hello)
        self._seqs: dict[str, int] = {}
        self._count = 0
        self.waits: list[float] = []

    def on_text(self, payload: bytes) -> None:
        frame = decode(payload)
        if frame["type"] != "events":
            return
        self._count += 1
        if self._count % SAMPLE == 0:
            # Both processes read one machine's clock, and ``at`` is the instant of the emission.
            self.waits.append(time.time() - epoch(frame["events"][0]["at"]))
        for event in frame["events"]:
            self.received += 1
            if event["seq"] is not None:
                last = self._seqs.get(event["run_id"], 0)
                self.repeated += event["seq"] <= last
                self._seqs[event["run_id"]] = event["seq"]
        self.out.append(acknowledgement(frame["n"]))


def acknowledgement(upto: int) -> bytes:
    """The frame that acknowledges all events of a connection up to this one."""
    return masked(_TEXT, b'{"type":"ack","upto":%d}' % upto)


def epoch(instant: str) -> float:
    """An event's instant as seconds."""
    return datetime.fromisoformat(instant).timestamp()


class SilentUser(User):
    """Counts the events that come and acknowledges none."""

    def on_text(self, payload: bytes) -> None:
        frame = decode(payload)
        if frame["type"] == "events":
            self.received += len(frame["events"])


async def connect(
    url: str, users: int, tokens: list[str] | None, *, are_silent: bool = False
) -> list[User]:
    """Connect all clients, one after the other.

    Args:
        tokens: one per user for the product, ``None`` for the floor.
        are_silent: the clients acknowledge nothing.
    """
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    made: list[User] = []
    for user in range(users):
        request, hello = opening(parts.netloc, user, tokens)
        kind: type[User] = FloorUser if tokens is None else ProductUser
        if are_silent:
            kind = SilentUser

        def factory(
            kind: type[User] = kind, request: bytes = request, hello: bytes | None = hello
        ) -> User:
            return kind(request, hello)

        _, protocol = await loop.create_connection(
            factory, parts.hostname or "127.0.0.1", parts.port or 80
        )
        made.append(protocol)
    return made


def opening(host: str, user: int, tokens: list[str] | None) -> tuple[bytes, bytes | None]:
    """The upgrade request of a client and its first frame; the floor's clients have none."""
    key = base64.b64encode(os.urandom(16)).decode()
    path = f"/ws?user={user}" if tokens is None else "/v1/ws"
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
    ]
    if tokens is None:
        return ("\r\n".join(lines) + "\r\n\r\n").encode(), None
    lines.append("Sec-WebSocket-Protocol: delivery.v1")
    hello = msgspec.json.encode({"type": "connect", "token": tokens[user]})
    return ("\r\n".join(lines) + "\r\n\r\n").encode(), hello
