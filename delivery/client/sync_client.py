"""The blocking twin of the listening client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any

from delivery.client.client import Client
from delivery.client.link import Status
from delivery.client.received import ReceivedEvent
from delivery.client.sync import STOP_TIMEOUT, LoopThread
from delivery.client.tokens import Token
from delivery.errors import Unreachable


class BlockingClient:
    """The blocking twin of ``Client``: ``with BlockingClient(url, token) as client: for event in
    client: …``; acknowledged after the body, under the same rules."""

    def __init__(self, url: str, token: Token, **options: Any) -> None:
        """
        Args:
            options: as of ``Client``.
        """
        self._make: Callable[[], Client] = lambda: Client(url, token, **options)
        self._client: Client | None = None
        self._thread: LoopThread | None = None

    def __enter__(self) -> BlockingClient:
        self._thread = LoopThread("delivery-client")
        self._client = self._thread.run(self._enter(), STOP_TIMEOUT)
        return self

    async def _enter(self) -> Client:
        return await self._make().__aenter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        client, thread = self._opened()
        self._client = self._thread = None
        try:
            thread.run(client.__aexit__(kind, error, trace), 2 * STOP_TIMEOUT)
        finally:
            thread.stop()

    def _opened(self) -> tuple[Client, LoopThread]:
        if self._client is None or self._thread is None:
            raise Unreachable("the client is not open: use with")
        return self._client, self._thread

    def __iter__(self) -> BlockingClient:
        client, _ = self._opened()
        client.__aiter__()
        return self

    def __next__(self) -> ReceivedEvent:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout: float | None = None) -> ReceivedEvent | None:
        """The next event, ``None`` when none came within ``timeout`` seconds (``None``: for ever)
        or the client was closed. Acknowledges the one before."""
        client, thread = self._opened()
        future = thread.start(_next(client, timeout))
        while True:
            try:
                return future.result(1.0)  # in slices, so that Ctrl-C is heard everywhere
            except FutureTimeout:
                if future.done():
                    raise
            except BaseException:
                future.cancel()
                raise

    @property
    def status(self) -> Status:
        """See ``Client.status``. ``on_status`` is called on the background thread."""
        return self._opened()[0].status

    @property
    def is_connected(self) -> bool:
        """See ``Client.is_connected``."""
        return self._opened()[0].is_connected

    @property
    def is_recovered(self) -> bool:
        """See ``Client.is_recovered``."""
        return self._opened()[0].is_recovered

    def ack(self, event: ReceivedEvent) -> None:
        """See ``Client.ack``."""
        client, thread = self._opened()
        thread.run(client.ack(event), STOP_TIMEOUT)

    def nack(self, event: ReceivedEvent, reason: str) -> None:
        """See ``Client.nack``."""
        client, thread = self._opened()
        thread.run(client.nack(event, reason), STOP_TIMEOUT)


async def _next(client: Client, timeout: float | None) -> ReceivedEvent | None:
    try:
        async with asyncio.timeout(timeout):
            return await client.__anext__()
    except (StopAsyncIteration, TimeoutError):
        return None
