"""``GET /v1/ws``: a WebSocket from its upgrade to its end.

Owns: aiohttp's socket, reading from it, verifying tokens for the session. Never does: decide what a
frame means (the session), or write (the connection, through ``SocketWriter``).
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

from delivery.callers.rates import BAD_TOKENS, CONNECT
from delivery.domain.event import Event
from delivery.errors import InvalidFrame, RateLimited, Unauthenticated
from delivery.gateway.frame_writer import CLOSE_GRACE, at_once
from delivery.gateway.session import Phase
from delivery.gateway.sockets.frame_budget import Fault
from delivery.gateway.sockets.socket_reader import DirectSocket
from delivery.protocol import (
    MAX_FRAME_BYTES,
    SUBPROTOCOL,
    Ack,
    Close,
    Connected,
    ServerFrame,
    decode_client,
    encode,
    events_frame,
    text_frame,
)

if TYPE_CHECKING:
    from delivery.callers.principal import Principal
    from delivery.gateway.connection import Connection
    from delivery.gateway.fast_path import FastPath

logger = logging.getLogger(__name__)

VERIFY_TIMEOUT = 10.0
_ENDED = frozenset(
    {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}
)  # no further message follows these


class SocketWriter:
    """The writing side of one WebSocket."""

    def __init__(
        self, request: web.Request, socket: DirectSocket, stream: AbstractStreamWriter
    ) -> None:
        self._protocol = request.protocol
        self._socket = socket
        self._stream = stream
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
        if type(frame) is Connected:
            # Here as well: with the token in its upgrade request, a client may only acknowledge.
            self._socket.admit()
        self._send(encode(frame), WSMsgType.TEXT)

    def write_events(self, n: int, events: list[Event], encoded: list[bytes]) -> None:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the transport is closed")
        transport.write(text_frame(events_frame(n, encoded)))

    def ping(self, payload: bytes) -> None:
        self._send(payload, WSMsgType.PING)

    def pong(self, payload: bytes) -> None:
        """Answer a ping; a peer that does not read gets no answer."""
        if not self.is_blocked:
            self._send(payload, WSMsgType.PONG)

    async def drain(self) -> None:
        await self._stream.drain()

    def close(self, code: int, reason: str) -> None:
        if self.is_closing or self.is_closed:
            return
        self.is_closing = True
        # Source: RFC 6455, section 5.5: a control frame carries at most 125 bytes.
        payload = code.to_bytes(2, "big") + reason.encode()[:123].decode("utf-8", "ignore").encode()
        try:
            self._send(payload, WSMsgType.CLOSE)
        except ConnectionError as error:
            logger.debug("close frame not sent: %s", error)
        # The reader waits for the answer to the close frame; a peer that does not read sends none.
        self._abort = asyncio.get_running_loop().call_later(CLOSE_GRACE, self.abort)

    def abort(self) -> None:
        """Close the transport and discard what it buffers."""
        if self._protocol.transport is not None:
            self._protocol.transport.abort()

    def end(self) -> None:
        """Release the transport after reading has ended."""
        if self._abort is not None:
            self._abort.cancel()
        if self._protocol.transport is not None and self.is_closing:
            self._protocol.transport.close()

    def _send(self, payload: bytes, kind: WSMsgType) -> None:
        at_once(self._socket.send_frame(payload, kind))


async def serve_socket(request: web.Request, path: FastPath, address: str) -> web.StreamResponse:
    """Handle ``GET /v1/ws`` until the socket is closed; ``address`` is the client's."""
    header = await _header_principal(request, path, address)
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
    stream = await socket.prepare(request)
    writer = SocketWriter(request, socket, stream)
    connection = path.open(writer, None if isinstance(header, Exception) else header)
    try:
        if isinstance(header, Exception):
            _refuse(connection, header)
        await _read(socket, writer, connection, path, address)
    finally:
        path.forget(connection)
        writer.end()
    return socket


async def _header_principal(
    request: web.Request, path: FastPath, address: str
) -> Principal | Unauthenticated | RateLimited | None:
    """The principal of the Authorization header, or why its token is refused. A refused token ends
    in a close code, which tells a client whether to reconnect; an HTTP status does not."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return None
    try:
        principal = await _verify(path, token.strip(), address)
        await path.rates.take(CONNECT, principal.subject)
    except (Unauthenticated, RateLimited) as error:
        return error
    return principal


async def _verify(path: FastPath, token: str, address: str) -> Principal:
    try:
        return await _verify_in_time(path, token)
    except Unauthenticated as error:
        if error.close_code == Close.INVALID_TOKEN:
            await path.rates.take(BAD_TOKENS, address)
        raise


async def _verify_in_time(path: FastPath, token: str) -> Principal:
    try:
        async with asyncio.timeout(VERIFY_TIMEOUT):
            principal = await path.auth.verify(token)
    except TimeoutError as error:
        raise Unauthenticated(
            "the token could not be verified in time; reconnect", close_code=Close.FORCED_RECONNECT
        ) from error
    _ = principal.user_id  # raises for a service, which has no events of its own
    return principal


async def _read(
    socket: DirectSocket,
    writer: SocketWriter,
    connection: Connection,
    path: FastPath,
    address: str,
) -> None:
    session = connection.session
    clock = path.clock

    def on_fault(fault: Fault) -> None:
        if fault is Fault.UNMASKED:
            connection.perform(session.on_bad_frame("a client masks its frames"))
        else:
            connection.perform(session.on_over_budget())

    take = partial(_take, connection, clock)
    socket.take_with(take, connection.take_ack, path.defer_teardown, on_fault)
    while True:
        message = await socket.receive()
        kind = message.type
        if kind is WSMsgType.TEXT:
            if connection.is_closed:
                continue  # closing: only the answer to the close frame matters
            try:
                frame = decode_client(message.data)
            except InvalidFrame as error:
                connection.perform(session.on_bad_frame(str(error)))
                continue
            token = connection.perform(session.on_client_frame(frame, clock()))
            if token is not None:
                await _check(token, connection, path, address)
            if session.phase is Phase.OPEN:
                socket.admit()
        elif kind is WSMsgType.PONG:
            connection.on_pong(bytes(message.data))
        elif kind is WSMsgType.PING:
            _pong(writer, connection, bytes(message.data))
        elif kind in _ENDED:
            connection.has_left = kind is WSMsgType.CLOSE
            return
        else:
            connection.perform(session.on_bad_frame("frames are JSON text, not binary"))


def _take(connection: Connection, clock: Callable[[], float], raw: bytes) -> bool:
    """Handle an acknowledgement as it arrives; ``False`` for other and for malformed frames."""
    if connection.is_closed:
        return False
    try:
        frame = decode_client(raw)
    except InvalidFrame:
        return False  # ``_read`` answers it
    if type(frame) is not Ack:
        return False
    try:
        connection.perform(connection.session.on_client_frame(frame, clock()))
    except Exception:
        # One broken connection must not raise into the transport.
        logger.exception("connection %s failed", connection.id)
        connection.close(Close.FORCED_RECONNECT, "internal error")
    return True


async def _check(token: str, connection: Connection, path: FastPath, address: str) -> None:
    is_refresh = connection.session.phase is Phase.OPEN
    try:
        principal = await _verify(path, token, address)
        if not is_refresh:
            await path.rates.take(CONNECT, principal.subject)
    except (Unauthenticated, RateLimited) as error:
        _refuse(connection, error)
    else:
        connection.on_principal(principal)


def _refuse(connection: Connection, error: Unauthenticated | RateLimited) -> None:
    session = connection.session
    if isinstance(error, RateLimited):
        connection.perform(session.on_rate_limited(str(error)))
    else:
        connection.perform(session.on_refused(error))


def _pong(writer: SocketWriter, connection: Connection, payload: bytes) -> None:
    try:
        writer.pong(payload)
    except ConnectionError as error:
        logger.debug("connection %s: pong not sent: %s", connection.session.connection_id, error)
