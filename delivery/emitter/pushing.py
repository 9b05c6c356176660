"""Pushes between an emitter and the live path: linger, retry, or hand over.

Owns: an event between its acceptance and the outbound of its connections, in order for each user.
Never does: validation, recording, sockets. Nothing waits here; timers call back on the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delivery.domain.event import Event, EventClass
from delivery.domain.health import stretched
from delivery.domain.lifecycle import Outcome
from delivery.domain.policy import ClassPolicy
from delivery.domain.ports import Journal, Push, Pushed
from delivery.domain.records import Entry
from delivery.domain.retry import PERFORMANCE, Backoff
from delivery.emitter.batching import Batcher
from delivery.protocol import encode_event

logger = logging.getLogger(__name__)

MAX_HELD = 1_000
"""Events of one user that may wait behind a failed push; further ones are handed over."""


@dataclass(slots=True)
class PendingPush:
    """One event that is to be pushed.

    Attributes:
        entry: set until the journal has it: results of pushes are written to it and become part of
            the insert.
    """

    event: Event
    encoded: bytes
    retries: int
    backoff: Backoff
    linger: float
    entry: Entry | None = None


def _pending(
    event: Event, encoded: bytes, policy: ClassPolicy, performance: bool, entry: Entry | None
) -> PendingPush:
    """A pending push with the retries and linger of its class, or of performance mode."""
    if performance:
        return PendingPush(event, encoded, min(1, policy.retries), PERFORMANCE, 0.0, entry)
    return PendingPush(event, encoded, policy.retries, policy.backoff, policy.linger, entry)


class Pusher:
    """Pushes events, in order for each user. On the loop's thread, after ``start``."""

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        push: Push,
        journal: Journal,
        *,
        jitter: Callable[[], float],
        on_hand_over: Callable[[], None],
        on_auth_pushed: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """
        Args:
            on_auth_pushed: called when a sign-in event reached a connection and its entry is the
                journal's already: every push of one is recorded.
        """
        self._push = push
        self._journal = journal
        self._jitter = jitter
        self._on_hand_over = on_hand_over
        self._on_auth_pushed = on_auth_pushed
        self._batcher: Batcher[PendingPush] = Batcher()
        self._retrying: dict[str, deque[PendingPush]] = {}
        self._retry_timers: dict[str, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use the timers of this loop."""
        self._loop = loop

    def offer(
        self, event: Event, policy: ClassPolicy, performance: bool, entry: Entry | None = None
    ) -> PendingPush | None:
        """Push an event now, or as soon as linger and order allow.

        Args:
            entry: the event's entry, before the journal has it: the result is written to it and
                becomes part of the insert.

        Returns:
            The pending push, ``None`` if the push is done. You must unset its ``entry`` when the
            journal has the entry.
        """
        encoded = encode_event(event)
        may_go = (performance or policy.linger <= 0.0) and (
            not (self._retrying or self._batcher.waiting) or not self._must_wait(event.user_id)
        )
        if may_go:
            try:
                pushed = self._push.push(event, encoded)
            except Exception as error:
                pushed = _broken(event, error)
            if pushed.connections:
                if entry is not None:
                    entry.sent = True
                    entry.awaited = pushed.is_here
                if event.event_class is EventClass.AUTH:
                    self._note_sent(event, entry)
                return None
            item = _pending(event, encoded, policy, performance, entry)
            if not self._on_result(item, pushed, 1):
                self._hold((item,), 1)
            return item
        item = _pending(event, encoded, policy, performance, entry)
        self._queue(item)
        return item

    def _must_wait(self, user: str) -> bool:
        """Whether an event of this user is pending, which later ones must not overtake."""
        return user in self._retrying or self._batcher.is_waiting(user)

    def _queue(self, item: PendingPush) -> None:
        """Queue an event behind the pending ones of its user, or in a batch."""
        user = item.event.user_id
        held = self._retrying.get(user)
        if held is not None:
            if len(held) < MAX_HELD:
                held.append(item)
            else:
                self._fail(item, "too many events wait for a failed send")
        elif item.linger > 0.0:
            linger = stretched(item.linger, self._push.health(user))
            ready = self._batcher.add(user, item, self._loop.time(), linger)
            if ready:
                self._send(ready)
            else:
                self._arm()
        else:
            self._send([*self._batcher.take(user), item])

    def close(self) -> None:
        """Push lingering events, hand over those that wait for a retry, stop the timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timer in self._retry_timers.values():
            timer.cancel()
        self._retry_timers.clear()
        for batch in self._batcher.on_tick(float("inf")):
            self._send(batch, may_retry=False)
        while self._retrying:
            _, held = self._retrying.popitem()
            for item in held:
                self._fail(item, "the node is shutting down")

    def _send(self, items: Sequence[PendingPush], *, may_retry: bool = True) -> None:
        """Push events of one user in order; the first that needs a retry holds the others back."""
        for index, item in enumerate(items):
            if not self._try(item, 1 if may_retry else item.retries + 1):
                self._hold(items[index:], 1)
                return

    def _try(self, item: PendingPush, number: int) -> bool:
        """Push once; ``False`` when a retry may succeed."""
        return self._on_result(item, self._push_safely(item.event, item.encoded), number)

    def _on_result(self, item: PendingPush, pushed: Pushed, number: int) -> bool:
        if pushed.connections > 0:
            if item.entry is not None:
                item.entry.awaited = pushed.is_here
                item.entry.sent = True
            if item.event.event_class is EventClass.AUTH:
                self._note_sent(item.event, item.entry)
            return True
        if pushed.is_expected:
            self._push.keep_waiting(item.event, is_recorded=item.entry is None)
            return True
        reason = pushed.reason or "nobody connected"
        if pushed.failed and number <= item.retries and item.event.event_class.is_durable:
            if item.entry is not None:
                item.entry.pushes.append((Outcome.FAILED, reason))
            return False
        self._fail(item, reason)
        return True

    def _note_sent(self, event: Event, entry: Entry | None) -> None:
        """Record the push of a sign-in event that reached a connection; of others only failed ones
        are recorded."""
        if entry is not None:
            entry.pushes.append((Outcome.DELIVERED, None))
        else:
            self._on_auth_pushed(event)

    def _push_safely(self, event: Event, encoded: bytes) -> Pushed:
        try:
            return self._push.push(event, encoded)
        except Exception as error:
            return _broken(event, error)

    def _fail(self, item: PendingPush, reason: str) -> None:
        """Hand over an event that reached no connection; drop an ephemeral one."""
        if not item.event.event_class.is_durable:
            return
        if item.entry is not None:
            item.entry.hand_over = True
            item.entry.pushes.append((Outcome.FAILED, reason))
            return
        self._journal.hand_over(item.event.id, reason)
        self._on_hand_over()

    def _hold(self, items: Sequence[PendingPush], number: int) -> None:
        user = items[0].event.user_id
        self._retrying[user] = deque(items)
        delay = items[0].backoff.delay(number, self._jitter())
        self._retry_timers[user] = self._loop.call_later(delay, self._again, user, number + 1)

    def _again(self, user: str, number: int) -> None:
        self._retry_timers.pop(user, None)
        held = self._retrying.pop(user)
        if not self._try(held[0], number):
            self._hold(held, number)
            return
        held.popleft()
        self._send(tuple(held))

    def _arm(self) -> None:
        """Set the one timer to the earliest batch of all users."""
        due = self._batcher.next_due()
        if due is None or (self._timer is not None and self._timer_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._on_tick)

    def _on_tick(self) -> None:
        self._timer = None
        # A loop may call back a clock tick early: the timer's instant counts as reached.
        for batch in self._batcher.on_tick(max(self._loop.time(), self._timer_at)):
            self._send(batch)
        self._arm()


def _broken(event: Event, error: Exception) -> Pushed:
    """The result of a push that raised: a fault of the live path must not lose the event, so its
    chain takes it."""
    logger.error("push of event %s failed", event.id, exc_info=error)
    return Pushed(0, f"push raised {type(error).__name__}")
