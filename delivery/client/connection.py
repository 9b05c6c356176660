"""One WebSocket to the gateway, from ``connect`` to close.

Owns: the handshake, one reader, one writer, the deadlines of both, the bookkeeping of
acknowledgements. Never does: reconnect, deduplicate, remember.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from delivery.client.acks import Acks
from delivery.client.tokens import Token, read_token, refresh_at
from delivery.errors import DeliveryError, InvalidFrame, ProtocolError, Unauthenticated, Unreachable
from delivery.protocol import (
    SUBPROTOCOL,
    ClientFrame,
    Close,
    Connect,
    Connected,
    Error,
    Events,
    Nack,
    Ping,
    Reconnect,
    Refresh,
    ServerFrame,
    decode_server,
    encode,
    may_reconnect,
)

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 10.0
SEND_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
SILENCE_GRACE = 5.0
MAX_MESSAGE = 64 << 20
REFRESH_AGAIN = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection that may be made anew ended; ``after`` seconds, if the server said when."""

    reason: str
    after: float | None = None


class Connection:
    """Use ``open``; then ``run`` until it returns; then ``close``."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, token: Token, welcome: Connected, used: str
    ) -> None:
        self.welcome = welcome
        self._socket = socket
        self._token = token
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self._acks = Acks()
        self._frames: list[ClientFrame] = []
        self._after: float | None = None
        self._refresh_at = refresh_at(token, used, welcome.expires)

    @classmethod
    async def open(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        token: Token,
        *,
        cursor: str | None,
        device: str | None,
    ) -> Connection:
        """Connect and be welcomed.

        Raises:
            Unauthenticated: the token is not good.
            ProtocolError: the server refuses, and asks not to come back.
            Unreachable: nobody answered in time; try again.
        """
        used = await _fresh(token)
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                socket = await session.ws_connect(
                    url,
                    protocols=(SUBPROTOCOL,),
                    autoping=False,
                    max_msg_size=MAX_MESSAGE,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
                )
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (401, 403):
                raise Unauthenticated(f"the gateway refused with {error.status}") from error
            raise Unreachable(f"the gateway answered {error.status} to the upgrade") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(f"cannot connect: {type(error).__name__}: {error}") from error
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await socket.send_str(encode(Connect(used, cursor, device)).decode())
                welcome = await _welcome(socket)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await socket.close()
            raise Unreachable(f"no welcome: {type(error).__name__}") from error
        except DeliveryError:
            await socket.close()
            raise
        return cls(socket, token, welcome, used)

    async def run(self, on_events: Callable[[Connection, Events], None]) -> Ended:
        """Read until the connection is over, while a writer sends what ``on_handled`` gathers.

        Raises:
            Unauthenticated: the server ended it for good because of the token.
            ProtocolError: the server ended it for good.
        """
        writer = asyncio.create_task(self._write(), name="delivery-client-writer")
        try:
            return await self._read(on_events)
        finally:
            writer.cancel()
            await asyncio.wait((writer,), timeout=CLOSE_TIMEOUT)

    async def _read(self, on_events: Callable[[Connection, Events], None]) -> Ended:
        # The server pings every heartbeat; two of them missed and a bit is silence.
        silence = 2.0 * self.welcome.heartbeat + SILENCE_GRACE
        while True:
            try:
                message = await self._socket.receive(timeout=silence)
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._on_frame(decode_server(message.data), on_events)
                elif message.type is aiohttp.WSMsgType.PING:
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await self._socket.pong(message.data)
                elif message.type is not aiohttp.WSMsgType.PONG:
                    return self._over()
            except TimeoutError:
                return Ended(f"nothing heard for {silence:g} s")
            except (aiohttp.ClientError, ConnectionError) as error:
                return Ended(f"{type(error).__name__}: {error}", self._after)
            except InvalidFrame as error:
                return Ended(str(error))

    def _on_frame(
        self, frame: ServerFrame, on_events: Callable[[Connection, Events], None]
    ) -> None:
        if isinstance(frame, Events):
            on_events(self, frame)
        elif isinstance(frame, Reconnect):
            self._after = frame.after_ms / 1000.0
        elif isinstance(frame, Error):
            log.warning("the gateway reports %s: %s", frame.code, frame.message)

    def _over(self) -> Ended:
        code = self._socket.close_code
        if may_reconnect(code):
            return Ended(f"closed with {code}", self._after)
        raise _refusal(code, "the gateway closed the connection")

    def on_handled(self, n: int, event_id: str, is_durable: bool) -> None:
        """The event that was number ``n`` here is done: acknowledge it, together with others."""
        self._acks.on_handled(n, event_id, is_durable)
        self._stir()

    def acknowledge(self, event_id: str) -> None:
        """Acknowledge an event that came over an earlier connection."""
        self._acks.add(event_id)
        self._stir()

    def nack(self, event_id: str, reason: str) -> None:
        """Tell the server that this client cannot handle the event."""
        self._frames.append(Nack(event_id, reason))
        self._stir()

    def _stir(self) -> None:
        self._sent.clear()
        self._wake.set()

    async def drain(self, timeout: float) -> None:
        """Wait until the acknowledgements gathered so far have been written, as far as possible."""
        try:
            async with asyncio.timeout(timeout):
                await self._sent.wait()
        except TimeoutError:
            log.warning(
                "acknowledgements were not sent within %g s; expect the events again", timeout
            )

    async def _write(self) -> None:
        """Send what gathers; everything that waits leaves together."""
        try:
            while not self._socket.closed:
                await self._refresh()
                for frame in self._outgoing():
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await self._socket.send_str(encode(frame).decode())
                if not self._wake.is_set():
                    self._sent.set()
                    await self._rest()
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            log.info("cannot write to the gateway: %s; reconnecting", type(error).__name__)
            await self._socket.close()

    async def _rest(self) -> None:
        """Sleep until there is something to send; a silent line gets a ping."""
        pause = self.welcome.heartbeat
        if self._refresh_at is not None:
            pause = min(pause, max(0.0, self._refresh_at - time.time()))
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            self._frames.append(Ping())

    def _outgoing(self) -> list[ClientFrame]:
        self._wake.clear()
        frames, self._frames = self._frames, []
        frames.extend(self._acks.take())
        return frames

    async def _refresh(self) -> None:
        if self._refresh_at is None or time.time() < self._refresh_at:
            return
        try:
            token = await read_token(self._token)
        except Exception as error:
            # The caller's function failed; the connection is still good for a while.
            log.warning("cannot get a new token: %s; trying again", type(error).__name__)
            self._refresh_at = time.time() + REFRESH_AGAIN
            return
        self._frames.append(Refresh(token))
        self._refresh_at = refresh_at(self._token, token, None)

    async def close(self) -> None:
        """Say goodbye, for at most 2 s."""
        await self._socket.close()


async def _fresh(source: Token) -> str:
    try:
        return await read_token(source)
    except DeliveryError:
        raise
    except Exception as error:
        # The caller's function asks some identity provider, which may be back in a moment.
        raise Unreachable(f"cannot get a token: {type(error).__name__}") from error


async def _welcome(socket: aiohttp.ClientWebSocketResponse) -> Connected:
    """The first frame, or why there was none."""
    told = "the gateway refused"
    while True:
        message = await socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            frame = decode_server(message.data)
            if isinstance(frame, Connected):
                return frame
            if isinstance(frame, Error):
                told = frame.message
        elif message.type is aiohttp.WSMsgType.PING:
            await socket.pong(message.data)
        elif message.type is not aiohttp.WSMsgType.PONG:
            if may_reconnect(socket.close_code):
                raise Unreachable(f"closed with {socket.close_code} before the welcome: {told}")
            raise _refusal(socket.close_code, told)


def _refusal(code: int | None, told: str) -> ProtocolError:
    if code == Close.INVALID_TOKEN:
        return Unauthenticated(f"{told} (close code {code}); get a new token")
    return ProtocolError(f"{told} (close code {code})", close_code=code or 0)
