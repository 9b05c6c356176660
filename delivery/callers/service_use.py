"""The use of tokens by services, for the compliance log.

Owns: which use is recorded: the first of each token in each hour, on each node, and few tokens of
one service, so that a backend that makes a token for every request does not fill the log. Never
does: hold up a request, or record a user's token.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from delivery.callers.principal import Principal
from delivery.errors import DeliveryError

logger = logging.getLogger(__name__)

KIND = "service_token_used"
HOUR = 3_600.0
PER_SERVICE = 20
"""Tokens of one service that are recorded in an hour; the last row says that there are more."""
PER_HOUR = 1_000
"""Rows of one node in an hour, whatever the services are called."""
MAX_PENDING = 64

_NONE: frozenset[str] = frozenset()

Record = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]
"""Appends a row: kind, user (none here), facts."""


class ServiceUse:
    """Records uses in tasks of the running loop.

    Args:
        node: the node's name, for the rows.
        clock: epoch seconds.
    """

    def __init__(
        self, record: Record, node: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._record = record
        self._node = node
        self._clock = clock
        self._hour = -1
        self._seen: dict[str, set[str]] = {}
        self._rows = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """The number of services that are remembered."""
        return len(self._seen)

    def __call__(self, principal: Principal, fingerprint: str) -> None:
        """Note a verified token of a service.

        Args:
            fingerprint: tells tokens without a ``jti`` apart; no part of the token.
        """
        hour = int(self._clock() // HOUR)
        if hour != self._hour:
            self._hour, self._seen, self._rows = hour, {}, 0
        token = principal.token_ids[0] if principal.token_ids else fingerprint
        seen = self._seen.get(principal.subject, _NONE)
        if token in seen or len(seen) >= PER_SERVICE:
            return
        if self._rows >= PER_HOUR or len(self._tasks) >= MAX_PENDING:
            return  # the next use tries again
        # Only what has a row is remembered, so that names cost no memory.
        seen = self._seen.setdefault(principal.subject, set())
        seen.add(token)
        self._rows += 1
        facts: dict[str, Any] = {
            "service": principal.subject,
            "scopes": sorted(principal.scopes),
            "token": token,
            "node": self._node,
        }
        if len(seen) == PER_SERVICE:
            facts["more"] = True
        task = asyncio.get_running_loop().create_task(self._append(facts, hour, token))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _append(self, facts: Mapping[str, Any], hour: int, token: str) -> None:
        try:
            await self._record(KIND, "", facts)
        except DeliveryError as error:
            if hour == self._hour:
                self._forget(facts["service"], token)
            logger.warning("use of a service's token was not recorded: %s", error)

    def _forget(self, service: str, token: str) -> None:
        """Let the next use of a token be recorded: this one has no row."""
        seen = self._seen[service]
        seen.discard(token)
        self._rows -= 1
        if not seen:
            del self._seen[service]

    async def close(self) -> None:
        """Wait for rows that are being written."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
