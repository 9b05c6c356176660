"""Waits of receipts for acceptance and confirmation, in one process.

Owns: the waits, their bounds and their timeouts. The gateway reports confirmations; since a bus may
drop messages, the ledger is asked as well, at growing intervals. Never does: record anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from delivery.errors import LedgerUnavailable, Overloaded

logger = logging.getLogger(__name__)

FIRST_SLICE = 0.25
LAST_SLICE = 2.0
REMEMBERED = 10_000

IsConfirmed = Callable[[str], Awaitable[bool]]


class Receipts:
    """Implements the ``Desk`` of local receipts. Everything here runs on the loop's thread, after
    ``start``."""

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        is_confirmed: IsConfirmed,
        *,
        accept_timeout: float = 30.0,
        capacity: int = 100_000,
    ) -> None:
        """
        Args:
            is_confirmed: asks the ledger whether an event is confirmed.
            accept_timeout: seconds after which a missing answer of the journal is an error.
            capacity: waits for confirmation at one time, at most.
        """
        self._is_confirmed = is_confirmed
        self._accept_timeout = accept_timeout
        self._capacity = capacity
        self._accepting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._recent: set[str] = set()  # two sets that rotate: bounded without evictions
        self._recent_before: set[str] = set()
        self._count = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make waits on this loop."""
        self._loop = loop

    def waiter(self) -> asyncio.Future[None]:
        """Make a wait for the journal's answer; one timer serves all waits."""
        future = self._loop.create_future()
        # Answers come in order, so the done ones stand at the front.
        while self._accepting and self._accepting[0][1].done():
            self._accepting.popleft()
        self._accepting.append((self._loop.time() + self._accept_timeout, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._accept_timeout, self._on_overdue)
        return future

    def _on_overdue(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._accepting:
            deadline, future = self._accepting[0]
            if not future.done() and deadline > now:
                self._timer = self._loop.call_at(deadline, self._on_overdue)
                return
            self._accepting.popleft()
            if not future.done():
                future.set_exception(
                    LedgerUnavailable(
                        f"no answer within {self._accept_timeout:g} s; the event may yet be "
                        "recorded: emit it again under the same id"
                    )
                )

    def confirmed(self, ids: Sequence[str]) -> None:
        """End the waits for events that were confirmed, here or on another node."""
        self._recent.update(ids)
        if len(self._recent) > REMEMBERED:
            self._recent_before, self._recent = self._recent, set()
        if not self._waiting:
            return
        for event_id in ids:
            for future in self._waiting.pop(event_id, ()):
                if not future.done():
                    future.set_result(None)

    async def wait_confirmed(self, event_id: str, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for one event's confirmation, then ask the ledger.

        Raises:
            Overloaded: too many waits.
        """
        if event_id in self._recent or event_id in self._recent_before:
            return True
        if self._count >= self._capacity:
            raise Overloaded(f"{self._count} confirmations are awaited already")
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(event_id, []).append(future)
        self._count += 1
        try:
            return await self._watch(event_id, future, self._loop.time() + timeout)
        finally:
            self._count -= 1
            self._forget(event_id, future)

    async def _watch(self, event_id: str, future: asyncio.Future[None], deadline: float) -> bool:
        pause = FIRST_SLICE
        while True:
            left = deadline - self._loop.time()
            await asyncio.wait((future,), timeout=max(0.0, min(pause, left)))
            if future.done():
                return True
            try:
                if await self._is_confirmed(event_id):
                    return True
            except LedgerUnavailable as error:
                logger.debug("cannot ask the ledger about event %s: %s", event_id, error)
            if self._loop.time() >= deadline:
                return future.done()
            pause = min(LAST_SLICE, pause * 2)

    def _forget(self, event_id: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(event_id)
        if waiting is None or future not in waiting:
            return
        waiting.remove(future)
        if not waiting:
            del self._waiting[event_id]

    @property
    def waiting(self) -> int:
        """Count of waits for a confirmation."""
        return self._count

    def close(self) -> None:
        """Stop the timer. Open waits end by their own timeouts."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
