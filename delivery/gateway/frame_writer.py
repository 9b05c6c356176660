"""Frame writer: the port for the writing side of a WebSocket or an event stream.

Owns: the port, and the check that a write of aiohttp does not wait. Never does: encode or decide.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from delivery.domain.event import Event
from delivery.protocol import ServerFrame

CLOSE_GRACE = 3.0
"""Seconds in which a peer must read what is buffered and answer a close frame."""


class FrameWriter(Protocol):
    """The writing side of one socket. Only ``drain`` waits; a write raises ``ConnectionError`` when
    the peer is gone."""

    @property
    def is_blocked(self) -> bool:
        """Whether the send buffers are full because the peer does not read."""

    @property
    def is_closed(self) -> bool:
        """Whether the transport is closed or closing."""

    def write(self, frame: ServerFrame) -> None: ...
    def write_events(self, n: int, events: list[Event], encoded: list[bytes]) -> None: ...
    def ping(self, payload: bytes) -> None: ...

    async def drain(self) -> None:
        """Wait until the send buffers have room."""

    def abort(self) -> None:
        """Close the transport now and discard what it buffers."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the transport ends within ``CLOSE_GRACE`` even without an answer."""


def at_once(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that must finish in its first step.

    aiohttp's writes are coroutines. Without its flow control (no limit, no drain) they never wait;
    flow control is the connection's, see ``FrameWriter.is_blocked``.

    Raises:
        RuntimeError: the coroutine waited; a new release of aiohttp might do so.
    """
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("a socket write waited; flow control is the connection's")
