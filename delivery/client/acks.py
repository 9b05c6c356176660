"""Which acknowledgements one connection owes. Pure.

Owns: when a count may speak for many events, and when only ids are safe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from delivery.client.backoff import FullJitter
from delivery.client.http import Http
from delivery.errors import DeliveryError
from delivery.protocol import MAX_ACK_IDS, Ack, encode_json

logger = logging.getLogger(__name__)


MAX_UNSENT = 5_000
"""Ids that wait for the network; older ones come back by replay."""
MAX_FAILURES = 8
"""After so many in a row it rests until the next acknowledgement."""
_AGAIN = frozenset({401, 408, 429})


class AckPoster:
    """Posts ids to ``/v1/acks``, one request at a time; whatever gathers meanwhile goes together.
    Outlives the streams whose acknowledgements it carries."""

    def __init__(
        self,
        http: Http,
        url: str,
        backoff: FullJitter,
        jitter: Callable[[], float],
        on_refused: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            on_refused: told that the token was not accepted, before the ids are posted again.
        """
        self._http = http
        self._url = url
        self._backoff = backoff
        self._jitter = jitter
        self._on_refused = on_refused
        self._waiting: dict[str, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None

    def add(self, event_id: str) -> None:
        """Acknowledge one more."""
        self._waiting[event_id] = None
        if len(self._waiting) > MAX_UNSENT:
            del self._waiting[next(iter(self._waiting))]
        if self._task is None or self._task.done():
            self._idle.clear()
            self._task = asyncio.create_task(self._run(), name="delivery-acks")

    async def drain(self, timeout: float) -> None:
        """Wait until nothing is on its way, for at most ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            logger.warning(
                "%d acknowledgements were not sent within %g s; expect the events again",
                len(self._waiting),
                timeout,
            )

    async def close(self) -> None:
        """Give up what has not left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=1.0)

    async def _run(self) -> None:
        failures = 0
        try:
            while self._waiting and failures < MAX_FAILURES:
                ids = list(self._waiting)[:MAX_ACK_IDS]
                if await self._post(ids):
                    failures = 0
                    for event_id in ids:
                        self._waiting.pop(event_id, None)
                else:
                    failures += 1
                    await asyncio.sleep(self._backoff.delay(failures + 1, self._jitter()))
        finally:
            self._idle.set()

    async def _post(self, ids: list[str]) -> bool:
        """Whether these need not be sent again."""
        try:
            reply = await self._http.ask("POST", self._url, encode_json({"ids": ids}))
        except DeliveryError as error:
            logger.info("cannot acknowledge %d events now: %s", len(ids), error)
            return False
        if reply.status == 200:
            return True
        if reply.status == 401:
            self._on_refused()
        is_final = 400 <= reply.status < 500 and reply.status not in _AGAIN
        logger.warning("the gateway answered %d to %d acknowledgements", reply.status, len(ids))
        return is_final


class Acks:
    """Gathers what was handled; ``take`` gives the frames that say so."""

    def __init__(self) -> None:
        self._handled = 0
        self._acked = 0
        self._is_in_order = True
        self._ids: list[str] = []

    def on_handled(self, n: int, event_id: str, is_durable: bool) -> None:
        """The event that was number ``n`` on this connection is done.

        A count acknowledges everything up to it, so it is only used while every event so far was
        handled, in order; after the first gap ids are sent.
        """
        if self._is_in_order and n == self._handled + 1:
            self._handled = n
            return
        self._is_in_order = False
        if is_durable:
            self._ids.append(event_id)

    def add(self, event_id: str) -> None:
        """An event that came over an earlier connection is done."""
        self._ids.append(event_id)

    def take(self) -> list[Ack]:
        """The frames to send now; empty when nothing is owed."""
        frames = []
        if self._handled > self._acked:
            self._acked = self._handled
            frames.append(Ack(upto=self._handled))
        ids, self._ids = self._ids, []
        frames.extend(
            Ack(ids=ids[start : start + MAX_ACK_IDS]) for start in range(0, len(ids), MAX_ACK_IDS)
        )
        return frames
