"""The emitter over HTTP, with the surface of the embedded one.

Owns: ids, what can be checked before anything is sent, and waiting for confirmations. Never does:
the class of an event, its number, its fast path: those are the service's.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Unpack

import aiohttp
from uuid_utils import uuid7

from delivery.client.contacts import RemoteContacts
from delivery.client.events import RemoteEvents
from delivery.client.http import Http, Outbox, Reply, parse_url, to_error
from delivery.client.tokens import Token
from delivery.domain.emission import Data, Emission, EventOptions, Receipt, given_options
from delivery.domain.event import (
    check_context_id,
    check_event_id,
    check_event_type,
    check_flags,
)
from delivery.domain.options import wire_options
from delivery.domain.payload import encode_object
from delivery.errors import InvalidContext, Overloaded, Unreachable
from delivery.protocol import encode_json

FIRST_POLL = 0.05
LAST_POLL = 1.0


def connect(
    url: str,
    token: Token,
    *,
    session: aiohttp.ClientSession | None = None,
    timeout: float = 10.0,
    deadline: float = 30.0,
    max_buffered: int = 10_000,
) -> Remote:
    """Emit to a service elsewhere: ``async with delivery.connect(url, token) as d``.

    Args:
        url: the service, like ``http://127.0.0.1:8080``.
        token: a service's token with scope ``emit``, or a function (sync or async) that gives one.
            ``receipt.confirmed()`` also needs scope ``read``.
        session: your own HTTP session; it is not closed.
        timeout: seconds one request may take.
        deadline: seconds for which an event is retried before ``Unreachable`` or ``Overloaded``.
        max_buffered: events that may wait to be sent; more raise ``Overloaded``.

    Raises:
        ConfigError: the URL is none.
    """
    return Remote(
        url,
        token,
        session=session,
        timeout=timeout,
        deadline=deadline,
        max_buffered=max_buffered,
    )


class Remote:
    """A connection to the service's HTTP API. Made by ``connect``."""

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        session: aiohttp.ClientSession | None,
        timeout: float,
        deadline: float,
        max_buffered: int,
    ) -> None:
        self._endpoints = parse_url(url)
        self._token = token
        self._session = session
        self._owns_session = session is None
        self._timeout = timeout
        self._deadline = deadline
        self._max_buffered = max_buffered
        self._http: Http | None = None
        self._outbox: Outbox | None = None

    async def __aenter__(self) -> Remote:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        self._http = Http(self._session, self._token, self._timeout)
        self._outbox = Outbox(
            self._http, self._endpoints, deadline=self._deadline, capacity=self._max_buffered
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def emitter(
        self,
        user_id: str,
        run_id: str,
        thread_id: str | None = None,
        performance: bool = False,
    ) -> RemoteEmitter:
        """An emitter for one run of one user.

        Args:
            performance: accepted for the sake of one surface; how hard the fast path tries is set
                by the service's policies for events that come over HTTP.

        Raises:
            InvalidContext: an id cannot address anybody.
        """
        return RemoteEmitter(self, user_id, run_id, thread_id)

    @property
    def is_away(self) -> bool:
        """Whether the latest request that carried events got no answer."""
        return self._outbox is not None and self._outbox.is_away

    @property
    def contacts(self) -> RemoteContacts:
        """Addresses and preferences of users."""
        return RemoteContacts(self._ask)

    @property
    def events(self) -> RemoteEvents:
        """What the ledger knows: list, show, replay."""
        return RemoteEvents(self._ask)

    async def stats(self) -> dict[str, Any]:
        """The figures of the last minutes, as in ``GET /v1/stats``. Raises as ``events.list``."""
        return await self.events.stats()

    async def _ask(self, method: str, path: str, body: bytes | None) -> Reply:
        if self._http is None:
            raise Unreachable("the connection to the service is not open: use async with")
        return await self._http.ask(method, self._endpoints.base + path, body)

    async def event(self, event_id: str) -> dict[str, Any] | None:
        """The event with its state, attempts and confirmations; ``None`` if it is not there.

        Raises:
            Unreachable: the service did not answer.
            Unauthenticated: the token is not good.
            RemoteError: the service refused.
        """
        return await self._read(event_id, self._timeout)

    async def _read(self, event_id: str, timeout: float) -> dict[str, Any] | None:
        if self._http is None:
            raise Unreachable("the connection to the service is not open")
        reply = await self._http.ask("GET", self._endpoints.event(event_id), timeout=timeout)
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise to_error(reply.status, reply.document, retry_after=reply.retry_after)
        return dict(reply.document)

    def post(self, event_id: str, body: bytes) -> Receipt:
        """The emitters': queue an encoded event."""
        if self._outbox is None:
            raise Unreachable("the connection to the service is not open: use async with")
        receipt = Receipt(event_id, self)
        self._outbox.put(receipt, body)
        return receipt

    def waiter(self) -> asyncio.Future[None]:
        """See ``Desk``: the outbox answers every receipt by its deadline."""
        return asyncio.get_running_loop().create_future()

    async def wait_confirmed(self, event_id: str, timeout: float) -> bool:
        """See ``Desk``: ask the service, ever more rarely.

        Raises:
            Unreachable: (or Overloaded) the last question got no answer; the outcome is unknown.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        pause = FIRST_POLL
        while True:
            left = deadline - loop.time()
            unanswered: Exception | None = None
            state = None
            try:
                # Not there yet: only a spool may have it so far.
                state = (await self._read(event_id, max(0.1, left)) or {}).get("state")
            except (Unreachable, Overloaded) as error:
                unanswered = error
            if state == "confirmed":
                return True
            if state == "expired":
                return False
            left = deadline - loop.time()
            if left <= 0.0:
                if unanswered is not None:
                    raise unanswered
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(LAST_POLL, pause * 2.0)

    async def close(self, timeout: float = 10.0) -> None:
        """Send what waits, for at most ``timeout`` seconds, then disconnect."""
        if self._outbox is not None:
            await self._outbox.close(timeout)
        if self._owns_session and self._session is not None:
            await self._session.close()
            self._session = None
        self._http = None


class RemoteEmitter(Emission):
    """Emits events of one run to one user, through the service's HTTP API."""

    def __init__(
        self, remote: Remote, user_id: str, run_id: str, thread_id: str | None = None
    ) -> None:
        """
        Raises:
            InvalidContext: an id cannot address anybody.
        """
        self._remote = remote
        self._context = {
            "user_id": check_context_id("user_id", user_id),
            "run_id": check_context_id("run_id", run_id),
        }
        if thread_id is not None:
            self._context["thread_id"] = check_context_id("thread_id", thread_id)
        try:
            encode_json(self._context)
        except UnicodeEncodeError:
            raise InvalidContext("user_id, run_id and thread_id must be valid Unicode") from None

    def emit_nowait(
        self,
        type: str,
        data: Data | None = None,
        *,
        id: str | None = None,
        meta: Data | None = None,
        **options: Unpack[EventOptions],
    ) -> Receipt:
        """See ``Emission``. What only the service can know comes with ``receipt.accepted()``."""
        event_id = str(uuid7()) if id is None else check_event_id(id)
        wire: dict[str, Any] = {"id": event_id, "type": check_event_type(type), **self._context}
        wire["data"] = {} if data is None else data
        encode_object("data", wire["data"])
        if meta is not None:
            encode_object("meta", meta)
            if "flags" in meta:
                check_flags(meta["flags"])
            wire["meta"] = meta
        if options:
            wire |= wire_options(given_options(options) or {})
        return self._remote.post(event_id, encode_json(wire))

    def __repr__(self) -> str:
        return f"<RemoteEmitter user={self._context['user_id']!r} run={self._context['run_id']!r}>"
