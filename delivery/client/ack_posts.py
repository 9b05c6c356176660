"""Acknowledgements over HTTP, for what came over a stream.

Owns: the bounded list of those that have not left, and trying again. Never does: read what was
unknown: an event that is still unconfirmed comes again, and is acknowledged again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from delivery.client.backoff import FullJitter
from delivery.client.posting import Http
from delivery.errors import DeliveryError
from delivery.protocol import MAX_ACK_IDS, encode_json

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
        dice: Callable[[], float],
        on_refused: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            on_refused: told that the token was not accepted, before the ids are posted again.
        """
        self._http = http
        self._url = url
        self._backoff = backoff
        self._dice = dice
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
                    await asyncio.sleep(self._backoff.delay(failures + 1, self._dice()))
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
