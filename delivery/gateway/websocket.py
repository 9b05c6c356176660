"""``GET /v1/ws``: a WebSocket from its upgrade to its end.

Owns: aiohttp's socket, reading from it, checking the tokens that a session asks about. Never
does: decide what a frame means (the session), or write (the connection, through ``SocketSink``).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from delivery.domain.event import Event
from delivery.errors import InvalidFrame, Unauthenticated
from delivery.gateway.frame_budget import Fault
from delivery.gateway.session import Phase
from delivery.gateway.sink import CLOSE_GRACE, at_once
from delivery.gateway.socket_reader import DirectSocket
from delivery.protocol import (
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    Ack,
    Close,
    ServerFrame,
    decode_client,
    encode,
    events_frame,
    text_frame,
)

if TYPE_CHECKING:
    from delivery.gateway.auth import Principal
    from delivery.gateway.connection import Connection
    from delivery.gateway.fast_path import FastPath

logger = logging.getLogger(__name__)

VERIFY_TIMEOUT = 10.0
_ENDED = frozenset(
    {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}
)  # after these nothing more comes


class SocketSink:
    """The writing side of one WebSocket."""

    def __init__(
        self, request: web.Request, socket: DirectSocket, writer: AbstractStreamWriter
    ) -> None:
        self._protocol = request.protocol
        self._socket = socket
        self._writer = writer
        self._abort: asyncio.TimerHandle | None = None
        self.is_closing = False

    @property
    def is_blocked(self) -> bool:
        return self._protocol.writing_paused and not self.is_closed

    @property
    def is_closed(self) -> bool:
        transport = self._protocol.transport
        return transport is None or transport.is_closing()

    def write(self, frame: ServerFrame) -> None:
        self._send(encode(frame), WSMsgType.TEXT)

    def write_events(self, n: int, events: list[Event], encoded: list[bytes]) -> None:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the transport is closed")
        transport.write(text_frame(events_frame(n, encoded)))

    def ping(self, payload: bytes) -> None:
        self._send(payload, WSMsgType.PING)

    def pong(self, payload: bytes) -> None:
        """Answer a ping; somebody who does not read is not answered."""
        if not self.is_blocked:
            self._send(payload, WSMsgType.PONG)

    async def drain(self) -> None:
        await self._writer.drain()

    def close(self, code: int, reason: str) -> None:
        if self.is_closing or self.is_closed:
            return
        self.is_closing = True
        # Source: RFC 6455, section 5.5: a control frame carries at most 125 bytes.
        payload = code.to_bytes(2, "big") + reason.encode()[:123].decode("utf-8", "ignore").encode()
        try:
            self._send(payload, WSMsgType.CLOSE)
        except ConnectionError as error:
            logger.debug("no close frame reaches a peer that is gone: %s", error)
        # The reader waits for the peer's answer; a peer that does not read never gives one.
        self._abort = asyncio.get_running_loop().call_later(CLOSE_GRACE, self.abort)

    def abort(self) -> None:
        """End the transport whatever it still buffers."""
        if self._protocol.transport is not None:
            self._protocol.transport.abort()

    def end(self) -> None:
        """The reader is done."""
        if self._abort is not None:
            self._abort.cancel()
        if self._protocol.transport is not None and self.is_closing:
            self._protocol.transport.close()

    def _send(self, payload: bytes, kind: WSMsgType) -> None:
        at_once(self._socket.send_frame(payload, kind))


async def serve_socket(request: web.Request, path: FastPath) -> web.StreamResponse:
    """The handler of ``GET /v1/ws``."""
    header = await _header_principal(request, path)
    socket = DirectSocket(
        protocols=(SUBPROTOCOL,),
        compress=False,
        max_msg_size=MAX_FRAME_BYTES,
        autoping=False,
        autoclose=False,
        timeout=CLOSE_GRACE,
        writer_limit=sys.maxsize,  # flow control is the connection's: see at_once
        decode_text=False,
    )
    writer = await socket.prepare(request)
    sink = SocketSink(request, socket, writer)
    connection = path.open(sink, None if isinstance(header, Exception) else header)
    try:
        if isinstance(header, Unauthenticated):
            connection.perform(connection.session.on_refused(header))
        await _read(socket, sink, connection, path)
    finally:
        path.forget(connection)
        sink.end()
    return socket


async def _header_principal(
    request: web.Request, path: FastPath
) -> Principal | Unauthenticated | None:
    """Whom the upgrade's Authorization header names. A bad token is answered with a close code: an
    HTTP status tells a client nothing about coming back."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    try:
        return await _verify(path, token.strip())
    except Unauthenticated as error:
        return error


async def _verify(path: FastPath, token: str) -> Principal:
    try:
        async with asyncio.timeout(VERIFY_TIMEOUT):
            principal = await path.auth.verify(token)
    except TimeoutError as error:
        raise Unauthenticated(
            "the token could not be checked in time; come back", close_code=Close.FORCED_RECONNECT
        ) from error
    _ = principal.user_id  # refuses a service before the session hears of it
    return principal


async def _read(
    socket: DirectSocket, sink: SocketSink, connection: Connection, path: FastPath
) -> None:
    session = connection.session
    clock = path.clock

    def on_fault(fault: Fault) -> None:
        if fault is Fault.UNMASKED:
            connection.perform(session.on_bad_frame("a client masks its frames"))
        else:
            connection.perform(session.on_over_budget())

    socket.take_with(partial(_take, connection, clock), path.leave, on_fault)
    while True:
        message = await socket.receive()
        kind = message.type
        if kind is WSMsgType.TEXT:
            if connection.is_closed:
                continue  # on its way out: only the answer to our close is of interest
            try:
                frame = decode_client(message.data)
            except InvalidFrame as error:
                connection.perform(session.on_bad_frame(str(error)))
                continue
            token = connection.perform(session.on_client_frame(frame, clock()))
            if token is not None:
                await _check(token, connection, path)
            if session.phase is Phase.OPEN:
                socket.admit()
        elif kind is WSMsgType.PONG:
            connection.on_pong(bytes(message.data))
        elif kind is WSMsgType.PING:
            _pong(sink, connection, bytes(message.data))
        elif kind in _ENDED:
            return
        else:
            connection.perform(session.on_bad_frame("frames are JSON text, not binary"))


def _take(connection: Connection, clock: Callable[[], float], raw: bytes) -> bool:
    """Handle an acknowledgement at once; ``False`` for every other frame, and for bad ones."""
    if connection.is_closed:
        return False
    try:
        frame = decode_client(raw)
    except InvalidFrame:
        return False  # the reader says so, in its turn
    if type(frame) is not Ack:
        return False
    try:
        connection.perform(connection.session.on_client_frame(frame, clock()))
    except Exception:
        # One broken connection must not raise into the transport.
        logger.exception("connection %s failed", connection.id)
        connection.close(Close.FORCED_RECONNECT, "internal error")
    return True


async def _check(token: str, connection: Connection, path: FastPath) -> None:
    try:
        principal = await _verify(path, token)
    except Unauthenticated as error:
        connection.perform(connection.session.on_refused(error))
    else:
        connection.on_principal(principal)


def _pong(sink: SocketSink, connection: Connection, payload: bytes) -> None:
    try:
        sink.pong(payload)
    except ConnectionError as error:
        logger.debug("connection %s: %s", connection.session.connection_id, error)
