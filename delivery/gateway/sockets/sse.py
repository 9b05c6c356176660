"""``GET /v1/stream``: events as server-sent events, for clients without WebSockets.

Owns: the format of the stream and its response. Never does: acknowledge (``POST /v1/acks`` does, at
any node), or decide what is sent: a ``Connection`` does, as on a WebSocket.
Source: WHATWG HTML, section 9.2, Server-sent events.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http import HttpVersion11, StreamWriter

from delivery.domain.event import Event
from delivery.errors import Overloaded
from delivery.gateway.frame_writer import CLOSE_GRACE, at_once
from delivery.protocol import Pong, Reconnect, ServerFrame, encode

if TYPE_CHECKING:
    from delivery.callers.principal import Principal
    from delivery.gateway.fast_path import FastPath

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",  # a proxy that compresses would buffer events
    "X-Accel-Buffering": "no",  # nginx would buffer events
    "X-Content-Type-Options": "nosniff",
}
MAX_CURSOR_CHARS = 128
PADDING = b":" + b" " * 4_096 + b"\n\n"
"""A comment that fills the buffer that a proxy may want full before it passes anything on."""


class EventStreamWriter:
    """The writing side of one event stream; ``ended`` ends its handler."""

    def __init__(self, request: web.Request, stream: StreamWriter) -> None:
        self._protocol = request.protocol
        self._stream = stream
        self._abort: asyncio.TimerHandle | None = None
        self.ended = asyncio.Event()

    @property
    def is_blocked(self) -> bool:
        return self._protocol.writing_paused and not self.is_closed

    @property
    def is_closed(self) -> bool:
        transport = self._protocol.transport
        return transport is None or transport.is_closing()

    def write(self, frame: ServerFrame) -> None:
        name = type(frame).__struct_config__.tag
        lines = [b"event: %s" % str(name).encode(), b"data: %s" % encode(frame)]
        if isinstance(frame, Reconnect):
            lines.insert(0, b"retry: %d" % frame.after_ms)
        self._send(b"\n".join(lines) + b"\n\n")

    def write_events(self, n: int, events: list[Event], encoded: list[bytes]) -> None:
        blocks = [
            b"id: %s\nevent: event\ndata: %s\n\n" % (event.id.encode(), raw)
            for event, raw in zip(events, encoded, strict=True)
        ]
        self._send(b"".join(blocks))

    def begin(self) -> None:
        """Send what makes proxies pass on the rest at once."""
        self._send(PADDING)

    def ping(self, payload: bytes) -> None:
        # A message and no comment, which some proxies drop: their client would hear nothing.
        self.write(Pong())

    async def drain(self) -> None:
        await self._stream.drain()

    def close(self, code: int, reason: str) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        self._abort = asyncio.get_running_loop().call_later(CLOSE_GRACE, self.abort)

    def end(self) -> None:
        """Release the timer after the response has ended."""
        if self._abort is not None:
            self._abort.cancel()

    def abort(self) -> None:
        self.ended.set()
        if self._protocol.transport is not None:
            self._protocol.transport.abort()

    def _send(self, data: bytes) -> None:
        if self.is_closed:
            raise ConnectionResetError("the client is gone")
        at_once(self._stream.write(data, drain=False))


async def serve_stream(
    request: web.Request, path: FastPath, principal: Principal
) -> web.StreamResponse:
    """Answer ``GET /v1/stream`` of an authenticated client until the stream ends.

    Raises:
        Overloaded: the user has too many connections, or the node is shutting down.
    """
    registry = path.registry
    if registry.is_closing or not registry.has_room(principal.user_id):
        raise Overloaded("too many connections of this user, or the node is shutting down")
    response = web.StreamResponse(headers=HEADERS)
    if request.version >= HttpVersion11:  # an older client reads until the connection ends
        response.enable_chunked_encoding()
    stream = await response.prepare(request)
    if not isinstance(stream, StreamWriter):
        raise ConnectionResetError("the client was gone before the stream began")
    writer = EventStreamWriter(request, stream)
    connection = path.open(writer, principal, is_stream=True)
    # A client that needs a ticket cannot send the header either, except when it reconnects.
    cursor = request.headers.get("Last-Event-ID") or request.query.get("cursor")
    connection.session.cursor = cursor[:MAX_CURSOR_CHARS] if cursor else None
    try:
        writer.begin()
        connection.on_principal(principal)
        await writer.ended.wait()
        if not writer.is_closed:
            await response.write_eof()
    finally:
        path.forget(connection)
        writer.end()
    return response
