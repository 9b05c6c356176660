"""The users: real clients, and what the handler of each saw.

Owns: every first and repeated sight of an event, with its instant and its connection. Never does:
judge them; that is the audit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from delivery.client.backoff import FullJitter
from delivery.client.client import Client
from delivery.client.store import MemoryStore

WELCOME_TIMEOUT = 60.0
CLOSE_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Sight:
    """A handler was given an event.

    Attributes:
        connection: which of the client's connections it was, from 0.
        at: monotonic seconds.
    """

    event_id: str
    connection: int
    at: float


@dataclass(frozen=True, slots=True)
class Away(FullJitter):
    """Come back after so many seconds, however often it failed."""

    seconds: float = 2.0

    def delay(self, failures: int, dice: float) -> float:
        """See ``FullJitter``."""
        return self.seconds


class Listener:
    """One user with one client at a time; the store outlives the client.

    Attributes:
        sights: in the order in which the handler saw the events.
        returns: whether every event must have reached the handler in the end.
        is_odd: whether the client misbehaves at first; what it is late with says nothing.
        has_address: whether mail reaches the user.
    """

    def __init__(self, user_id: str, token: str) -> None:
        self.user_id = user_id
        self.token = token
        self.sights: list[Sight] = []
        self.returns = True
        self.is_odd = False
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


Odd = Callable[[Listener, str, aiohttp.ClientSession], Awaitable[None]]
"""How a client that is not well behaves: runs until cancelled."""


class Audience:
    """All listeners; most are well, some may be odd."""

    def __init__(self, url: str, listeners: list[Listener]) -> None:
        self.listeners = listeners
        self.by_user = {listener.user_id: listener for listener in listeners}
        self._url = url
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self, backoff: FullJitter | None, odd: dict[str, Odd]) -> None:
        """Connect everybody; returns when those who are well have been welcomed.

        Raises:
            TimeoutError: somebody was not.
        """
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        for listener in self.listeners:
            way = odd.get(listener.user_id)
            if way is None:
                self._begin(listener, listener.listen(self._url, self._session, backoff))
            else:
                self._begin(listener, way(listener, self._url, self._session))
        well = [one for one in self.listeners if one.user_id not in odd]
        async with asyncio.timeout(WELCOME_TIMEOUT):
            while any(one.connection is None for one in well):
                self.check()
                await asyncio.sleep(0.02)

    def _begin(self, listener: Listener, work: Awaitable[None]) -> None:
        self._tasks[listener.user_id] = asyncio.ensure_future(work)

    async def cure(self, users: list[str]) -> None:
        """From now on these users listen with a client that is well."""
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
        """Disconnect everybody."""
        await _cancel(list(self._tasks.values()))
        if self._session is not None:
            await self._session.close()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)
