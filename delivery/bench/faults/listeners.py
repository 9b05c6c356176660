"""The clients of the users: well-behaved ones with a handler, and misbehaving ones.

Owns: every first and repeated sight of an event, with its instant and its connection; and what the
misbehaving ones do on the wire. Never does: judge the sights; that is the audit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from delivery.bench.faults.proxy import fault_proxy
from delivery.client.backoff import FullJitter
from delivery.client.client import Client
from delivery.client.http import parse_url
from delivery.client.store import MemoryStore
from delivery.protocol import SUBPROTOCOL, Connect, encode

WELCOME_TIMEOUT = 60.0
CLOSE_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Sight:
    """A handler's sight of an event.

    Attributes:
        connection: which of the client's connections it was, from 0.
        at: monotonic seconds.
    """

    event_id: str
    connection: int
    at: float


@dataclass(frozen=True, slots=True)
class Away(FullJitter):
    """A client that comes back after a fixed time, however often it failed."""

    seconds: float = 2.0

    def delay(self, failures: int, jitter: float) -> float:
        """See ``FullJitter``."""
        return self.seconds


class Listener:
    """One user with one client at a time; the store outlives the client.

    Attributes:
        sights: in the order of the handler's calls.
        returns: whether every event must have reached the handler in the end.
        misbehaves: whether the client misbehaves at first; its times are not counted.
        has_address: whether mail reaches the user.
    """

    def __init__(self, user_id: str, token: str) -> None:
        self.user_id = user_id
        self.token = token
        self.sights: list[Sight] = []
        self.returns = True
        self.misbehaves = False
        self.has_address = False
        self.store = MemoryStore()
        self._client: Client | None = None
        self._earlier = 0

    @property
    def connection(self) -> int | None:
        """The number of the connection that stands, ``None`` while there is none."""
        if self._client is None or not self._client.is_connected:
            return None
        return self._earlier + self._client.reconnects

    async def listen(
        self, url: str, session: aiohttp.ClientSession, backoff: FullJitter | None
    ) -> None:
        """Handle events until cancelled."""
        client = Client(url, self.token, store=self.store, session=session, backoff=backoff)
        self._client = client
        try:
            async with client:
                async for event in client:
                    number = self._earlier + client.reconnects
                    self.sights.append(Sight(event.id, number, time.monotonic()))
        finally:
            self._earlier += client.reconnects + 1
            self._client = None


Misbehaviour = Callable[[Listener, str, aiohttp.ClientSession], Awaitable[None]]
"""The behaviour of a client that does not follow the protocol; runs until cancelled."""


class Clients:
    """All listeners; some may misbehave."""

    def __init__(self, url: str, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self.by_user = {listener.user_id: listener for listener in listeners}
        self._url = url
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self, backoff: FullJitter | None, misbehaving: dict[str, Misbehaviour]) -> None:
        """Connect all clients; returns when every well-behaved one has been welcomed.

        Raises:
            TimeoutError: one was not.
        """
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        for listener in self.listeners:
            behave = misbehaving.get(listener.user_id)
            if behave is None:
                self._begin(listener, listener.listen(self._url, self._session, backoff))
            else:
                self._begin(listener, behave(listener, self._url, self._session))
        well_behaved = [one for one in self.listeners if one.user_id not in misbehaving]
        async with asyncio.timeout(WELCOME_TIMEOUT):
            while any(one.connection is None for one in well_behaved):
                self.check()
                await asyncio.sleep(0.02)

    def _begin(self, listener: Listener, work: Awaitable[None]) -> None:
        self._tasks[listener.user_id] = asyncio.ensure_future(work)

    async def replace_misbehaving(self, users: list[str]) -> None:
        """Give these users a well-behaved client from now on."""
        if self._session is None:
            return
        gone = [self._tasks.pop(user) for user in users]
        await _cancel(gone)
        for user in users:
            listener = self.by_user[user]
            self._begin(listener, listener.listen(self._url, self._session, None))

    def check(self) -> None:
        """Raise what a client raised: none may end by itself."""
        for task in self._tasks.values():
            if task.done() and not task.cancelled():
                task.result()

    async def close(self) -> None:
        """Disconnect all clients."""
        await _cancel(list(self._tasks.values()))
        if self._session is not None:
            await self._session.close()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)


SLOW = 300.0
"""Bytes per second, less than one event."""
DEAF = 10.0
RESTLESS = 0.3
PAUSE = 0.3
SOCKET_CLOSE_TIMEOUT = 1.0


async def slow(listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
    """Behave well behind a line that is too thin for the events sent over it."""
    async with fault_proxy(urlsplit(url).port or 0, throttle=SLOW) as line:
        await listener.listen(f"http://127.0.0.1:{line.port}", session, None)


async def deaf(listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
    """Connect and never read, so that pings stay unanswered as well."""

    async def wait(_socket: aiohttp.ClientWebSocketResponse) -> None:
        await asyncio.sleep(DEAF)

    await _for_ever(listener, url, session, wait)


async def mute(listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
    """Read everything and acknowledge nothing."""

    async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
        async for _ in socket:
            pass

    await _for_ever(listener, url, session, read)


async def restless(listener: Listener, url: str, session: aiohttp.ClientSession) -> None:
    """Connect and leave, again and again, without a close frame of its own."""

    async def leave(_socket: aiohttp.ClientWebSocketResponse) -> None:
        await asyncio.sleep(RESTLESS)

    await _for_ever(listener, url, session, leave)


async def _for_ever(
    listener: Listener,
    url: str,
    session: aiohttp.ClientSession,
    use: Callable[[aiohttp.ClientWebSocketResponse], Awaitable[None]],
) -> None:
    """Connect, again and again; an error of the network only ends one connection."""
    timeout = aiohttp.ClientWSTimeout(ws_close=SOCKET_CLOSE_TIMEOUT)
    while True:
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with session.ws_connect(
                parse_url(url).socket, protocols=(SUBPROTOCOL,), max_msg_size=0, timeout=timeout
            ) as socket:
                await socket.send_str(encode(Connect(listener.token)).decode())
                await use(socket)
        await asyncio.sleep(PAUSE)
