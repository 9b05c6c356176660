"""Where a connection's frames go: the port between it and a WebSocket or an event stream."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from delivery.domain.event import Event
from delivery.protocol import ServerFrame

CLOSE_GRACE = 3.0
"""Seconds that a peer gets to answer a close (and to read what is buffered before it)."""


class Sink(Protocol):
    """A socket's writing side. Nothing waits but ``drain``; writes raise ``ConnectionError`` when
    the peer is gone."""

    @property
    def is_blocked(self) -> bool:
        """Whether the peer does not read: the buffers are full."""

    @property
    def is_closed(self) -> bool:
        """Whether the peer is gone."""

    def write(self, frame: ServerFrame) -> None: ...
    def write_events(self, n: int, events: list[Event], encoded: list[bytes]) -> None: ...
    def ping(self, payload: bytes) -> None: ...

    async def drain(self) -> None:
        """Wait until the peer has read enough."""

    def abort(self) -> None:
        """End now, whatever is still buffered."""

    def close(self, code: int, reason: str) -> None:
        """Say goodbye, and end within ``CLOSE_GRACE`` whether the peer answers or not."""


def at_once(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that has nothing to wait for: aiohttp's writes are coroutines, but with flow
    control left to us (no limit, no drain) they finish in their first step.

    Raises:
        RuntimeError: it did wait, which a new release of aiohttp might bring.
    """
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("a socket write waited; flow control is the connection's")
