"""Revoked tokens, in memory: every door asks, for every token.

Owns: what was revoked, which tokens that covers, and how this process learns of it: all at the
start, then from messages of other nodes, and from the ledger every few seconds, for what a node
that was cut off has missed. Never does: verify a token, or close a connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from delivery.callers.principal import Principal
from delivery.domain.node_messages import Revoked
from delivery.domain.ports import Reads, Writes
from delivery.domain.users.revocation import Revocation, RevocationKind
from delivery.errors import LedgerError

logger = logging.getLogger(__name__)

REFRESH_EVERY = 2.0
OVERLAP = timedelta(seconds=60)
"""How far a refresh reads back: a transaction may commit that long after it has read the clock."""
PURGE_EVERY = 600.0
PAGE = 1_000
FIRST_LOAD = 5.0
"""Seconds for which a start waits for the ledger."""


class Revocations:
    """What is revoked. On the loop's thread.

    Args:
        clock: epoch seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tokens: dict[str, float] = {}
        self._users: dict[str, tuple[float, float]] = {}  # -> before, until
        self._watchers: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._tokens) + len(self._users)

    def watch(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever something was revoked."""
        self._watchers.append(callback)

    def add(self, revoked: Iterable[Revocation]) -> None:
        """Add revocations; known ones change nothing."""
        news = [one for one in revoked if self._note(one)]
        if news:
            self.tell()

    def tell(self) -> None:
        """Call the watchers."""
        for callback in self._watchers:
            callback()

    def covers(self, principal: Principal) -> bool:
        """Whether the principal's token is revoked."""
        if self._tokens and any(token_id in self._tokens for token_id in principal.token_ids):
            return True
        if not self._users or not principal.is_client:
            return False  # a service's name is no user's
        found = self._users.get(principal.subject)
        if found is None:
            return False
        # A token that does not say when it was issued counts as an old one.
        return principal.issued_at is None or principal.issued_at < found[0]

    def prune(self) -> None:
        """Forget what has expired."""
        now = self._clock()
        self._tokens = {one: until for one, until in self._tokens.items() if until > now}
        self._users = {one: both for one, both in self._users.items() if both[1] > now}

    def _note(self, one: Revocation) -> bool:
        until = one.expires_at.timestamp()
        if one.kind is RevocationKind.JTI:
            is_new = one.subject not in self._tokens
            self._tokens[one.subject] = max(until, self._tokens.get(one.subject, 0.0))
            return is_new
        before = one.before.timestamp() if one.before is not None else 0.0
        known = self._users.get(one.subject, (0.0, 0.0))
        self._users[one.subject] = (max(before, known[0]), max(until, known[1]))
        return before > known[0]


def message_of(node: str, revoked: Revocation) -> Revoked:
    """The message to other nodes."""
    return Revoked(
        node=node,
        what="jti" if revoked.kind is RevocationKind.JTI else "user",
        subject=revoked.subject,
        before=None if revoked.before is None else revoked.before.timestamp(),
        until=revoked.expires_at.timestamp(),
    )


def of_message(message: Revoked) -> Revocation:
    """The revocation in a message."""
    before = None if message.before is None else datetime.fromtimestamp(message.before, UTC)
    return Revocation(
        RevocationKind(message.what),
        message.subject,
        before,
        datetime.fromtimestamp(message.until, UTC),
    )


class RevocationReader:
    """Reads revocations from the ledger: all at the start, then what is new.

    Args:
        period: seconds between two reads.
    """

    def __init__(
        self,
        revocations: Revocations,
        reads: Reads,
        writes: Writes,
        *,
        period: float = REFRESH_EVERY,
    ) -> None:
        self._revocations = revocations
        self._reads = reads
        self._writes = writes
        self._period = period
        self._since: datetime | None = None
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all, then go on in a task. A ledger that is away does not stop the start: what was
        revoked is known as soon as it answers."""
        try:
            async with asyncio.timeout(FIRST_LOAD):
                await self._read()
        except (LedgerError, TimeoutError) as error:
            self._on_failure(error)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        purge_at = loop.time() + PURGE_EVERY
        while True:
            await asyncio.sleep(self._period)
            try:
                await self._read()
                if loop.time() >= purge_at:
                    purge_at = loop.time() + PURGE_EVERY
                    self._revocations.prune()
                    await self._writes.purge_revocations()
                self._is_failing = False
            except (LedgerError, TimeoutError) as error:
                self._on_failure(error)
            except Exception:
                # The task must not end: without it a revocation could be missed for good.
                logger.exception("revoked tokens could not be read")

    async def _read(self) -> None:
        now = await self._reads.now()
        last: Revocation | None = None
        while True:
            page = await self._reads.revocations(self._since, last, PAGE)
            self._revocations.add(page)
            if len(page) < PAGE:
                break
            last = page[-1]
        self._since = now - OVERLAP

    def _on_failure(self, error: Exception) -> None:
        if not self._is_failing:
            reason = str(error) or "no answer in time"
            logger.warning("revoked tokens: the ledger cannot be read: %s", reason)
        self._is_failing = True
