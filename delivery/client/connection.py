"""One WebSocket to the gateway, from ``connect`` to close.

Owns: the handshake, one reader, one writer, the deadlines of both, the bookkeeping of
acknowledgements. Never does: reconnect, deduplicate, remember.
"""

from __future__ import annotations

import asyncio
import logging
import time

import aiohttp

from delivery.client.acks import Acks
from delivery.client.link import (
    SOCKET_TIMEOUT,
    WELCOME_TIMEOUT,
    Ended,
    NotOpened,
    OnEvents,
    Transport,
    refusal,
)
from delivery.client.tokens import Tokens, is_newer, refresh_pause
from delivery.errors import DeliveryError, InvalidFrame
from delivery.protocol import (
    SUBPROTOCOL,
    ClientFrame,
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

logger = logging.getLogger(__name__)

SEND_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
SILENCE_GRACE = 5.0
MAX_MESSAGE = 64 << 20


class Connection:
    """Use ``open``; then ``run`` until it returns; then ``close``."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, tokens: Tokens, welcome: Connected, used: str
    ) -> None:
        self.welcome = welcome
        self._socket = socket
        self._tokens = tokens
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self._acks = Acks()
        self._frames: list[ClientFrame] = []
        self._after: float | None = None
        self._told: str | None = None
        self._used = used
        self._refusals = 0
        self._refresh_at = tokens.refresh_at(used, welcome.expires)

    @property
    def transport(self) -> Transport:
        """See ``Link``."""
        return "websocket"

    @classmethod
    async def open(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        tokens: Tokens,
        *,
        cursor: str | None,
        device: str | None,
    ) -> Connection:
        """Connect and be welcomed.

        Raises:
            Unauthenticated: the token is not good.
            ProtocolError: the server refuses, and asks not to come back.
            NotOpened: no answer in time, or no socket got through; try again.
        """
        used = await tokens.current()
        socket: aiohttp.ClientWebSocketResponse | None = None
        try:
            async with asyncio.timeout(WELCOME_TIMEOUT), asyncio.timeout(SOCKET_TIMEOUT) as silence:
                socket = await session.ws_connect(
                    url,
                    protocols=(SUBPROTOCOL,),
                    autoping=False,
                    max_msg_size=MAX_MESSAGE,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT),
                )
                await socket.send_str(encode(Connect(used, cursor, device)).decode())
                connection = cls(socket, tokens, await _welcome(socket, silence), used)
                socket = None
                return connection
        except aiohttp.WSServerHandshakeError as error:
            # No token was in the request, so this is about WebSockets, whatever the status.
            raise NotOpened(Ended(f"HTTP {error.status} to the upgrade")) from error
        except aiohttp.ClientConnectorError as error:
            raise NotOpened(Ended(f"cannot connect: {error}"), is_no_way=False) from error
        except TimeoutError as error:
            raise NotOpened(Ended("no socket: no answer in time"), is_silent=True) from error
        except (aiohttp.ClientError, OSError, InvalidFrame) as error:
            raise NotOpened(Ended(f"no socket: {type(error).__name__}")) from error
        finally:
            if socket is not None:
                await socket.close()

    async def run(self, on_events: OnEvents) -> Ended:
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

    async def _read(self, on_events: OnEvents) -> Ended:
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

    def _on_frame(self, frame: ServerFrame | None, on_events: OnEvents) -> None:
        if isinstance(frame, Events):
            on_events(self, frame)
        elif isinstance(frame, Reconnect):
            self._after = frame.after_ms / 1000.0
        elif isinstance(frame, Error):
            logger.warning("the gateway reports %s: %s", frame.code, frame.message)
            if frame.code == "unauthorized":
                self._on_refused(frame.message)

    def _on_refused(self, told: str) -> None:
        """The newer token is not good: the connection stands on the old one, so ask again."""
        self._told = told
        self._tokens.forget()
        if self._tokens.can_refresh:
            self._refresh_later()
            self._wake.set()

    def _over(self) -> Ended:
        code = self._socket.close_code
        if may_reconnect(code):
            return Ended(self._told or f"closed with {code}", self._after, code)
        raise refusal(code, self._told or "the gateway closed the connection")

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
            logger.warning(
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
            logger.info("cannot write to the gateway: %s; reconnecting", type(error).__name__)
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
            token = await self._tokens.renew()
        except DeliveryError as error:
            # The connection is still good for a while.
            logger.warning("%s; trying again", error)
            self._refresh_later()
            return
        if not is_newer(token, self._used):
            self._refresh_later()
            return
        self._frames.append(Refresh(token))
        self._refresh_at = self._tokens.refresh_at(token)

    def _refresh_later(self) -> None:
        self._refusals += 1
        self._refresh_at = time.time() + refresh_pause(self._refusals)

    async def close(self) -> None:
        """Say goodbye, for at most 2 s."""
        await self._socket.close()


async def _welcome(socket: aiohttp.ClientWebSocketResponse, silence: asyncio.Timeout) -> Connected:
    """The welcome, or why there was none."""
    told, after = "", None
    while True:
        message = await socket.receive()
        silence.reschedule(asyncio.get_running_loop().time() + SOCKET_TIMEOUT)
        if message.type is aiohttp.WSMsgType.TEXT:
            frame = decode_server(message.data)
            if isinstance(frame, Connected):
                return frame
            if isinstance(frame, Error):
                told = frame.message
            elif isinstance(frame, Reconnect):
                after = frame.after_ms / 1000.0
        elif message.type is aiohttp.WSMsgType.PING:
            await socket.pong(message.data)
        elif message.type is not aiohttp.WSMsgType.PONG:
            if may_reconnect(socket.close_code):
                code = socket.close_code
                raise NotOpened(
                    Ended(told or f"closed with {code} before the welcome", after, code)
                )
            raise refusal(socket.close_code, told or "the gateway refused")
