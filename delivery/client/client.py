"""The listening client: events as an asynchronous iterator, acknowledged after the body.

Owns: when an event counts as handled, the begin and the end. Never does: connect (``lifeline``),
remember (``inbox``), frames (``connection``, ``stream``).
"""

from __future__ import annotations

import asyncio
import logging
import random
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import aiohttp

from delivery.client.acks import AckPoster
from delivery.client.backoff import FullJitter
from delivery.client.http import Http, parse_url
from delivery.client.link import Status
from delivery.client.pending import Inbox, Item
from delivery.client.received import ReceivedEvent
from delivery.client.reconnecting import UPGRADE, Lifeline, Plan
from delivery.client.store import MemoryStore, Store
from delivery.client.tokens import Token, Tokens
from delivery.errors import ConfigError, ProtocolError, Unreachable

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT = 2.0
POST_TIMEOUT = 10.0
TRANSPORTS = ("auto", "websocket", "sse")


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
        cursor: str | None = None,
        transport: Literal["auto", "websocket", "sse"] = "auto",
        upgrade_after: float = UPGRADE[0],
        on_status: Callable[[Status], object] | None = None,
        session: aiohttp.ClientSession | None = None,
        backoff: FullJitter | None = None,
        give_up_after: float | None = None,
        jitter: Callable[[], float] = random.random,
        **older: Any,
    ) -> None:
        """
        Args:
            url: the service, like ``http://127.0.0.1:8080``.
            token: the user's token, or a function (sync or async) that gives one. It is asked again
                before the token expires; a plain token that expires ends the client.
            device: tells this user's clients apart; stands in confirmations over WebSocket.
            store: what was handled; a ``FileStore`` makes a restarted process go on where it was.
            cursor: the id handled last, if you know better than the store.
            transport: ``auto``: WebSocket, and SSE while that does not get through.
            upgrade_after: seconds on SSE until a WebSocket is tried again; then ever more rarely.
            on_status: told what a badge can show, whenever it has changed, on the event loop.
            session: your own HTTP session; it is not closed.
            give_up_after: seconds without a connection after which ``Unreachable`` is raised;
                ``None`` waits for as long as it takes.
            jitter: a number from 0 to 1, for the pauses between tries.
            older: the arguments' names of 0.1.0, for one release.

        Raises:
            ConfigError: no such URL or transport.
        """
        give_up_after = _renamed(older, "patience", "give_up_after", give_up_after)
        jitter = _renamed(older, "dice", "jitter", jitter)
        if older:
            raise TypeError(f"Client has no argument {next(iter(older))!r}")
        if transport not in TRANSPORTS:
            raise ConfigError(f"transport must be one of {', '.join(TRANSPORTS)}")
        self._endpoints = parse_url(url)
        self._tokens = Tokens(token)
        self._inbox = Inbox(MemoryStore() if store is None else store, cursor, on_status)
        self._session = session
        self._owns_session = session is None
        self._plan = Plan(
            transport, device, backoff or FullJitter(), upgrade_after, give_up_after, jitter
        )
        self._current: Item | None = None
        self._acks: AckPoster | None = None
        self._lifeline: Lifeline | None = None
        self._runner: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._is_closed = False

    @property
    def status(self) -> Status:
        """What ``on_status`` was told last."""
        return self._inbox.status

    @property
    def reconnects(self) -> int:
        """How many connections are over, those included that gave way to a better one."""
        return self._lifeline.reconnects if self._lifeline is not None else 0

    @property
    def is_connected(self) -> bool:
        """Whether the gateway has welcomed us and the connection stands."""
        return self._inbox.link is not None

    @property
    def is_recovered(self) -> bool:
        """Whether the last welcome promised that nothing was missed."""
        link = self._inbox.link
        return link is not None and link.welcome.recovered

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
            item = self._inbox.pop()
            if item is not None:
                self._current = item
                return item.event
            if self._failure is not None:
                raise self._failure
            if self._is_closed:
                raise StopAsyncIteration
            self._inbox.arrived.clear()
            # Bounded by the caller (asyncio.timeout): a user without events has none for days.
            await self._inbox.arrived.wait()

    async def ack(self, event: ReceivedEvent) -> None:
        """Acknowledge an event now instead of after the body."""
        if self._current is not None and self._current.event is event:
            self._finish()
            return
        self._inbox.finish_early(event)

    async def nack(self, event: ReceivedEvent, reason: str) -> None:
        """Say that this client cannot handle the event: the server falls back at once (over SSE,
        which cannot say so, when the event's time is over)."""
        if self._current is not None and self._current.event is event:
            self._current = None
        if self._inbox.link is not None and event.is_durable:
            self._inbox.link.nack(event.id, reason[:200])

    async def close(self) -> None:
        """Send the acknowledgements that are due and disconnect. The event in hand stays open."""
        self._is_closed = True
        if self._inbox.link is not None:
            await self._inbox.link.drain(DRAIN_TIMEOUT)
        if self._acks is not None:
            await self._acks.drain(DRAIN_TIMEOUT)
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait((self._runner,), timeout=2 * DRAIN_TIMEOUT)
            self._runner = None
        if self._acks is not None:
            await self._acks.close()
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = None
        self._inbox.clear()
        self._inbox.on_status(state="closed", transport=None, retry_at=None)

    def _finish(self) -> None:
        """The event in hand is handled."""
        item, self._current = self._current, None
        if item is not None:
            self._inbox.finish(item)

    def _start(self) -> None:
        if self._runner is not None or self._is_closed or self._failure is not None:
            return
        if self._session is None:
            self._session = aiohttp.ClientSession()
        http = Http(self._session, self._tokens.current, POST_TIMEOUT)
        plan = self._plan
        self._acks = AckPoster(
            http, self._endpoints.acks, plan.backoff, plan.jitter, self._tokens.forget
        )
        self._lifeline = Lifeline(
            self._session, self._endpoints, self._tokens, self._acks, plan, self._inbox
        )
        self._runner = asyncio.create_task(self._run(self._lifeline), name="delivery-client")

    async def _run(self, lifeline: Lifeline) -> None:
        """Stay connected; whatever ends this for good is raised to the iterator."""
        try:
            await lifeline.run()
        except (ProtocolError, Unreachable) as error:
            self._failure = error
        except Exception as error:
            logger.exception("the client failed")
            self._failure = error
        finally:
            self._inbox.arrived.set()
        code = self._failure.close_code if isinstance(self._failure, ProtocolError) else None
        self._inbox.on_status(
            state="closed", transport=None, code=code, reason=str(self._failure), retry_at=None
        )


def _renamed(older: dict[str, Any], old: str, new: str, value: Any) -> Any:
    """An argument that a caller may still give by the name that it had in 0.1.0."""
    if old not in older:
        return value
    warnings.warn(f"{old} is called {new} now", DeprecationWarning, stacklevel=3)
    return older.pop(old)
