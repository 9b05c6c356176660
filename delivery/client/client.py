"""The listening client: events as an asynchronous iterator, acknowledged after the body.

Owns: reconnecting, the order of remember and acknowledge, what a handler sees twice (nothing).
Never does: frames (``connection``), storage (``store``).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import aiohttp

from delivery.client.backoff import FullJitter
from delivery.client.connection import Connection, Ended
from delivery.client.endpoints import parse_url
from delivery.client.received import ReceivedEvent
from delivery.client.store import MemoryStore, Store
from delivery.client.tokens import Token
from delivery.errors import ProtocolError, Unreachable
from delivery.protocol import Events

log = logging.getLogger(__name__)

DRAIN_TIMEOUT = 2.0
STEADY = 5.0
"""Seconds after which a connection counts as good, and the backoff starts anew."""


@dataclass(slots=True)
class _Item:
    """An event and where it came from."""

    event: ReceivedEvent
    connection: Connection
    n: int


class Client:
    """Listens for one user's events.

    ::

        async with delivery.Client("http://127.0.0.1:8080", token) as client:
            async for event in client:
                await handle(event)

    An event is acknowledged when the next one is asked for, or when ``async with`` is left without
    an error. If the body raises, the event is not acknowledged and comes again. After a ``break``
    outside of ``async with``, call ``ack(event)`` for the last one.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        device: str | None = None,
        store: Store | None = None,
        session: aiohttp.ClientSession | None = None,
        backoff: FullJitter | None = None,
        patience: float | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            url: the service, like ``http://127.0.0.1:8080``.
            token: the user's token, or a function (sync or async) that gives a fresh one.
            device: tells this user's clients apart.
            store: what was handled; a ``FileStore`` makes a restarted process go on where it was.
            session: your own HTTP session; it is not closed.
            patience: seconds without a connection after which ``Unreachable`` is raised; ``None``
                waits for as long as it takes.
        """
        self._url = parse_url(url).socket
        self._token = token
        self._device = device
        self._store: Store = MemoryStore() if store is None else store
        self._session = session
        self._owns_session = session is None
        self._backoff = backoff or FullJitter()
        self._patience = patience
        self._dice = dice
        self._buffer: deque[_Item] = deque()
        self._arrived = asyncio.Event()
        self._current: _Item | None = None
        self._connection: Connection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._is_closed = False
        self.reconnects = 0

    @property
    def is_connected(self) -> bool:
        """Whether the gateway has welcomed us and the connection stands."""
        return self._connection is not None

    @property
    def is_recovered(self) -> bool:
        """Whether the last welcome promised that nothing was missed."""
        return self._connection is not None and self._connection.welcome.recovered

    async def __aenter__(self) -> Client:
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish()
        await self.close()

    def __aiter__(self) -> Client:
        # A loop that starts anew: the body of the one before did not end for its last event.
        self._current = None
        return self

    async def __anext__(self) -> ReceivedEvent:
        self._finish()
        self._start()
        while True:
            item = self._pop()
            if item is not None:
                self._current = item
                return item.event
            if self._failure is not None:
                raise self._failure
            if self._is_closed:
                raise StopAsyncIteration
            self._arrived.clear()
            # Bounded by the caller (asyncio.timeout): a user without events has none for days.
            await self._arrived.wait()

    async def ack(self, event: ReceivedEvent) -> None:
        """Acknowledge an event now instead of after the body."""
        if self._current is not None and self._current.event is event:
            self._finish()
            return
        self._remember(event)
        if self._connection is not None and event.is_durable:
            self._connection.acknowledge(event.id)

    async def nack(self, event: ReceivedEvent, reason: str) -> None:
        """Say that this client cannot handle the event: the server falls back at once."""
        if self._current is not None and self._current.event is event:
            self._current = None
        if self._connection is not None and event.is_durable:
            self._connection.nack(event.id, reason[:200])

    async def close(self) -> None:
        """Send the acknowledgements that are due and disconnect. The event in hand stays open."""
        self._is_closed = True
        if self._connection is not None:
            await self._connection.drain(DRAIN_TIMEOUT)
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait((self._runner,), timeout=2 * DRAIN_TIMEOUT)
            self._runner = None
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = None
        self._buffer.clear()
        self._arrived.set()

    def _finish(self) -> None:
        """The event in hand is handled: remember it, then acknowledge it."""
        item, self._current = self._current, None
        if item is None:
            return
        self._remember(item.event)
        self._acknowledge(item)

    def _remember(self, event: ReceivedEvent) -> None:
        # Ephemeral events have no place in the ledger, so they cannot be a cursor.
        if event.is_durable and event.id not in self._store:
            self._store.remember(event.id)

    def _acknowledge(self, item: _Item) -> None:
        if item.connection is self._connection:
            item.connection.on_handled(item.n, item.event.id, item.event.is_durable)
        elif self._connection is not None and item.event.is_durable:
            self._connection.acknowledge(item.event.id)

    def _pop(self) -> _Item | None:
        """The next event that the handler has not seen."""
        while self._buffer:
            item = self._buffer.popleft()
            if item.event.id not in self._store:
                return item
            self._acknowledge(item)
        return None

    def _start(self) -> None:
        if self._runner is None and not self._is_closed and self._failure is None:
            if self._session is None:
                self._session = aiohttp.ClientSession()
            self._runner = asyncio.create_task(self._run(self._session), name="delivery-client")

    async def _run(self, session: aiohttp.ClientSession) -> None:
        """Connect, listen, come back; whatever ends this for good is raised to the iterator."""
        try:
            await self._keep_connected(session)
        except (ProtocolError, Unreachable) as error:
            self._failure = error
        except Exception as error:
            log.exception("the client failed")
            self._failure = error
        finally:
            self._arrived.set()

    async def _keep_connected(self, session: aiohttp.ClientSession) -> None:
        failures = 0
        heard_at = time.monotonic()
        while True:
            began = time.monotonic()
            ended, was_welcomed = await self._listen(session)
            now = time.monotonic()
            if was_welcomed:
                heard_at = now
                self.reconnects += 1
            elif self._patience is not None and now - heard_at >= self._patience:
                raise Unreachable(f"no connection for {self._patience:g} s: {ended.reason}")
            failures = 1 if was_welcomed and now - began >= STEADY else failures + 1
            delay = ended.after
            if delay is None:
                delay = self._backoff.delay(failures, self._dice())
            if self._patience is not None and not was_welcomed:
                delay = min(delay, max(0.0, heard_at + self._patience - now))
            log.info("disconnected (%s); reconnecting in %.2f s", ended.reason, delay)
            await asyncio.sleep(delay)

    async def _listen(self, session: aiohttp.ClientSession) -> tuple[Ended, bool]:
        """One connection from open to close, and whether the gateway welcomed us."""
        try:
            connection = await Connection.open(
                session,
                self._url,
                self._token,
                cursor=self._store.cursor,
                device=self._device,
            )
        except (Unreachable, TimeoutError) as error:
            return Ended(str(error) or "timeout"), False
        self._on_connected(connection)
        try:
            return await connection.run(self._on_events), True
        finally:
            self._connection = None
            await connection.close()

    def _on_connected(self, connection: Connection) -> None:
        self._connection = connection
        if connection.welcome.recovered:
            # What waits here unhandled is unconfirmed, so it is replayed now, in order.
            kept = [item for item in self._buffer if not item.event.is_durable]
            self._buffer = deque(kept)

    def _on_events(self, connection: Connection, frame: Events) -> None:
        first = frame.n - len(frame.events) + 1
        # The server keeps to max_in_flight; only ephemeral events can be more, and may be dropped.
        room = 2 * connection.welcome.max_in_flight
        for offset, wire in enumerate(frame.events):
            event = ReceivedEvent(wire)
            if len(self._buffer) < room:
                self._buffer.append(_Item(event, connection, first + offset))
            elif event.is_durable:
                raise ConnectionError("the gateway sends more than it may have in flight")
        self._arrived.set()
