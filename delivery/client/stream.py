"""One stream of server-sent events from the gateway, acknowledged over HTTP.

Owns: the request, one reader, its deadlines, and ending in time for a newer token. Never does:
reconnect, deduplicate, remember.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import random
import re
import time
from collections.abc import Iterator

import aiohttp

from delivery.client.acks import AckPoster
from delivery.client.http import seconds
from delivery.client.link import OPEN_TIMEOUT, Ended, NotOpened, OnEvents, Transport, refusal
from delivery.client.tokens import Tokens, is_newer, refresh_pause
from delivery.errors import DeliveryError, InvalidFrame
from delivery.protocol import (
    MAX_FRAME_BYTES,
    Close,
    Connected,
    Error,
    Events,
    Reconnect,
    decode_json,
    decode_server,
)

logger = logging.getLogger(__name__)

_DEFAULT_NAME = "message"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseParser:
    """``feed`` it what comes; each message is yielded once, as a name and its data.

    A line may end with LF, CRLF or CR, whatever the server wrote: proxies change it.
    """

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        """
        Args:
            limit: bytes that one message may have.
        """
        self._limit = limit
        self._line = bytearray()
        self._is_after_cr = False
        self._is_at_start = True
        self._size = 0
        self._name = _DEFAULT_NAME
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """The messages that this chunk completes.

        Raises:
            InvalidFrame: a message is larger than the limit.
        """
        if not chunk:
            return
        if self._is_after_cr:
            # The line ended with the CR, without waiting for what follows.
            chunk = chunk.removeprefix(b"\n")
        self._is_after_cr = chunk.endswith(b"\r")
        first, *others = _LINE_END.split(chunk)
        self._line += first
        for following in others:
            message = self._take(bytes(self._line))
            self._line = bytearray(following)
            if message is not None:
                yield message
        if self._size + len(self._line) > self._limit:
            raise InvalidFrame(f"the stream sent a message of over {self._limit} bytes")

    def _take(self, line: bytes) -> tuple[str, str] | None:
        if self._is_at_start:
            self._is_at_start = False
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line:
            name, data = self._name, self._data
            self._name, self._data, self._size = _DEFAULT_NAME, [], 0
            return (name, b"\n".join(data).decode(errors="replace")) if data else None
        self._size += len(line)
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode(errors="replace") or _DEFAULT_NAME
        elif field == b"data":
            self._data.append(value)
        # `id` stands in the event as well, `retry` in the reconnect frame; a comment says nothing.
        return None


CHUNK = 1 << 16
HEARTBEATS = 2.5
"""So many heartbeats without a word are silence."""
MAX_PROBLEM = 1 << 16

FRAMES = frozenset(("connected", "reconnect", "error"))
"""Messages that are read; others, the heartbeat's too, only show that the stream lives."""

Message = tuple[str, str]


class Stream:
    """Use ``open``; then ``run`` until it returns; then ``close``."""

    def __init__(
        self, response: aiohttp.ClientResponse, tokens: Tokens, used: str, acks: AckPoster
    ) -> None:
        self.welcome: Connected
        self._response = response
        self._tokens = tokens
        self._used = used
        self._refusals = 0
        self._posts = acks
        self._parser = SseParser()
        self._messages: list[Message] = []
        self._n = 0
        self._after: float | None = None
        self._over: Ended | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._heard_at = time.monotonic()
        self._refresh_at: float | None = None

    @property
    def transport(self) -> Transport:
        """See ``Link``."""
        return "sse"

    @classmethod
    async def open(
        cls,
        session: aiohttp.ClientSession,
        url: str,
        tokens: Tokens,
        acks: AckPoster,
        *,
        cursor: str | None,
    ) -> Stream:
        """Ask for the stream and be welcomed.

        Raises:
            Unauthenticated: the token is not good.
            NotOpened: no answer in time, or none with a stream.
        """
        used = await tokens.current()
        # Identity: a proxy that compresses would hold events back.
        headers = {
            "Authorization": f"Bearer {used}",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "Cache-Control": "no-store",
        } | ({"Last-Event-ID": cursor} if cursor else {})
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                response = await session.get(
                    url,
                    headers=headers,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                )
                await _check(response)
                stream = cls(response, tokens, used, acks)
                await stream._be_welcomed()
                response = None
                return stream
        except aiohttp.ClientConnectorError as error:
            raise NotOpened(Ended(f"cannot connect: {error}"), is_no_way=False) from error
        except (aiohttp.ClientError, OSError, TimeoutError, InvalidFrame) as error:
            raise NotOpened(Ended(f"no stream: {type(error).__name__}")) from error
        finally:
            if response is not None:
                response.close()

    async def _be_welcomed(self) -> None:
        while True:
            chunk = await self._response.content.read(CHUNK)
            if not chunk:
                raise NotOpened(Ended("the stream ended before the welcome", self._after))
            self._messages.extend(self._parser.feed(chunk))
            while self._messages:
                name, data = self._messages.pop(0)
                frame = decode_server(data) if name in FRAMES else None
                if isinstance(frame, Connected):
                    self.welcome = frame
                    self._refresh_at = self._tokens.refresh_at(self._used, frame.expires)
                    return
                if isinstance(frame, Reconnect):
                    self._after = frame.after_ms / 1000.0
                logger.debug("the stream began with %s", name)

    def pause(self, is_full: bool) -> None:
        """Stop reading while the client has no room: the network then holds the gateway back."""
        if is_full:
            self._room.clear()
        else:
            self._room.set()

    async def run(self, on_events: OnEvents) -> Ended:
        """Read until the stream is over, or until a newer token needs another one."""
        self._heard_at = time.monotonic()
        while True:
            try:
                self._hand_out(on_events)
                if self._over is not None:
                    return self._over
                if self._is_refresh_due and await self._has_new_token():
                    return Ended("another stream for the new token", 0.0)
                chunk = await self._next_chunk()
                if chunk is None:
                    continue
                if not chunk:
                    return Ended("the stream ended", self._after)
                self._messages.extend(self._parser.feed(chunk))
            except TimeoutError:
                return Ended("the stream was silent")
            except (aiohttp.ClientError, ConnectionError) as error:
                return Ended(f"{type(error).__name__}: {error}", self._after)
            except InvalidFrame as error:
                return Ended(str(error))

    async def _next_chunk(self) -> bytes | None:
        """What comes next, empty at the end; ``None`` when it is time for something else.

        Raises:
            TimeoutError: nothing has come for too long.
        """
        quiet = HEARTBEATS * self.welcome.heartbeat
        left = self._heard_at + quiet - time.monotonic()
        if self._refresh_at is not None:
            left = min(left, max(0.0, self._refresh_at - time.time()))
        try:
            async with asyncio.timeout(max(0.0, left)):
                if not self._room.is_set():
                    # Bounded by the deadline of this turn; the time is the client's own.
                    self._heard_at = time.monotonic()
                    await self._room.wait()
                    self._heard_at = time.monotonic()
                chunk = await self._response.content.read(CHUNK)
        except TimeoutError:
            if self._room.is_set() and time.monotonic() - self._heard_at >= quiet:
                raise
            if not self._room.is_set():
                self._heard_at = time.monotonic()
            return None
        self._heard_at = time.monotonic()
        return chunk

    def _hand_out(self, on_events: OnEvents) -> None:
        """Everything that has come, events together."""
        messages, self._messages = self._messages, []
        events = []
        for name, data in messages:
            if name == "event":
                events.append(decode_json(data))
                continue
            frame = decode_server(data) if name in FRAMES else None
            if isinstance(frame, Reconnect):
                self._after = frame.after_ms / 1000.0
            elif isinstance(frame, Error):
                self._on_error(frame)
        if events:
            self._n += len(events)
            on_events(self, Events(self._n, events))

    def _on_error(self, frame: Error) -> None:
        if frame.code == "unauthorized":
            self._over = Ended(frame.message, self._after, Close.TOKEN_EXPIRED)
        else:
            logger.warning("the gateway reports %s: %s", frame.code, frame.message)

    @property
    def _is_refresh_due(self) -> bool:
        return self._refresh_at is not None and time.time() >= self._refresh_at

    async def _has_new_token(self) -> bool:
        """Ask for it first: while there is none, the stream is good for a while."""
        self._refusals += 1
        self._refresh_at = time.time() + refresh_pause(self._refusals)
        try:
            return is_newer(await self._tokens.renew(), self._used)
        except DeliveryError as error:
            logger.warning("%s; trying again", error)
            return False

    def on_handled(self, n: int, event_id: str, is_durable: bool) -> None:
        """See ``Link``."""
        if is_durable:
            self._posts.add(event_id)

    def acknowledge(self, event_id: str) -> None:
        """See ``Link``; also good for a stream that is over."""
        self._posts.add(event_id)

    def nack(self, event_id: str, reason: str) -> None:
        """A stream has none: without an ack the event falls back when its time is over."""

    async def drain(self, timeout: float) -> None:
        """See ``Link``."""
        await self._posts.drain(timeout)

    async def close(self) -> None:
        """See ``Link``."""
        self._response.close()


async def _check(response: aiohttp.ClientResponse) -> None:
    """Go on with a stream, or raise why there is none."""
    if response.status == 200 and response.content_type == "text/event-stream":
        return
    raw = await response.content.read(MAX_PROBLEM)
    try:
        problem = decode_json(raw)
    except InvalidFrame:
        problem = None
    told = problem if isinstance(problem, dict) else {}
    reason = str(told.get("detail") or told.get("title") or f"HTTP {response.status}")
    after = seconds(response.headers.get("Retry-After"))
    # A crowd that was sent away with one number must not come back as one.
    spread = after * (1.0 + random.random()) if after else None
    if response.status == 401 and spread is not None:
        raise NotOpened(Ended(reason, spread, Close.NOT_YET))
    if response.status == 401 and "expired" in reason:
        raise NotOpened(Ended(reason, code=Close.TOKEN_EXPIRED))
    if response.status in (401, 403):
        raise refusal(Close.INVALID_TOKEN, reason)
    raise NotOpened(Ended(reason, spread))
