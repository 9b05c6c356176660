"""A client that records the events of one connection, for ``delivery validate``.

Owns: one link at a time and the events that came over it. Never does: acknowledge by itself; the
user may be a real one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import aiohttp

from delivery.client.acks import AckPoster
from delivery.client.backoff import FullJitter
from delivery.client.connection import Connection
from delivery.client.http import Http, parse_url
from delivery.client.link import Ended, Link
from delivery.client.stream import Stream
from delivery.client.tokens import Tokens
from delivery.errors import ProtocolError, Unreachable
from delivery.protocol import Events

CLOSE_TIMEOUT = 3.0
DEVICE = "delivery-validate"


class Watcher:
    """Opens one link after the other.

    Args:
        token: a client's.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._endpoints = parse_url(url)
        self._tokens = Tokens(token)
        self._link: Link | None = None
        self._reading: asyncio.Task[Ended] | None = None
        self._seen: list[str] = []
        self._arrived = asyncio.Event()
        self.last_at = 0.0

    async def open_socket(self, timeout: float) -> float:
        """Connect over WebSocket; seconds until the welcome.

        Raises:
            Unreachable: no welcome came in time.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                link = await Connection.open(
                    self._session,
                    self._endpoints.socket,
                    self._tokens,
                    cursor=None,
                    device=DEVICE,
                )
        except (TimeoutError, ProtocolError) as error:
            raise Unreachable(str(error) or f"no welcome within {timeout:g} s") from error
        return await self._adopt(link, began)

    async def open_stream(self, timeout: float) -> float:
        """Connect over SSE; seconds until the welcome. Raises as ``open_socket``."""
        began = time.monotonic()
        acks = AckPoster(
            Http(self._session, self._tokens.current, timeout),
            self._endpoints.acks,
            FullJitter(),
            lambda: 0.5,
        )
        try:
            async with asyncio.timeout(timeout):
                link = await Stream.open(
                    self._session, self._endpoints.stream, self._tokens, acks, cursor=None
                )
        except (TimeoutError, ProtocolError) as error:
            raise Unreachable(str(error) or f"no welcome within {timeout:g} s") from error
        return await self._adopt(link, began)

    async def _adopt(self, link: Link, began: float) -> float:
        took = time.monotonic() - began
        await self.close()
        self._link = link
        self._reading = asyncio.create_task(link.run(self._on_events), name="delivery-watching")
        return took

    def _on_events(self, link: Link, frame: Events) -> None:
        self.last_at = time.monotonic()
        self._seen += [str(event["id"]) for event in frame.events]
        self._arrived.set()

    async def receive(self, ids: Sequence[str], timeout: float) -> list[str]:
        """Ids of ``ids`` that came, in order of arrival, repeats included.

        Returns when all of them came, when the time is over, or when the link has ended.
        """
        wanted = set(ids)
        try:
            async with asyncio.timeout(timeout):
                while not wanted <= set(self._seen) and not self._is_over:
                    self._arrived.clear()
                    await self._wait()
        except TimeoutError:
            pass  # the ids that came are the answer
        return [id_ for id_ in self._seen if id_ in wanted]

    def has_seen(self, event_id: str) -> bool:
        """Whether this event came over any link so far."""
        return event_id in self._seen

    @property
    def _is_over(self) -> bool:
        return self._reading is None or self._reading.done()

    async def _wait(self) -> None:
        arrived = asyncio.create_task(self._arrived.wait())
        try:
            tasks = {arrived} if self._reading is None else {arrived, self._reading}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrived.cancel()

    async def acknowledge(self, ids: Sequence[str], timeout: float) -> None:
        """Acknowledge these over the link."""
        if self._link is None:
            raise Unreachable("there is no connection")
        for event_id in ids:
            self._link.acknowledge(event_id)
        await self._link.drain(timeout)

    async def close(self) -> None:
        """Disconnect, if connected."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,), timeout=CLOSE_TIMEOUT)
            self._reading = None
        if self._link is not None:
            await self._link.close()
            self._link = None
