"""From an emitter to the fast path: linger, retry, or hand over.

Owns: what happens to an event between acceptance and a socket's queue, in order for each user.
Never does: validation, recording, sockets. Nothing here waits; timers call back on the loop.
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
"""Events of one user that may queue behind one whose send failed; more are handed over."""


@dataclass(slots=True)
class Parcel:
    """One event on its way to the sockets.

    Attributes:
        entry: while it has not been given to the journal: results are written onto it and become
            part of the insert. ``None`` afterwards.
    """

    event: Event
    encoded: bytes
    retries: int
    backoff: Backoff
    linger: float
    entry: Entry | None = None


def _parcel(
    event: Event, encoded: bytes, policy: ClassPolicy, performance: bool, entry: Entry | None
) -> Parcel:
    """A parcel with the effort that its class, or performance mode, asks for."""
    if performance:
        return Parcel(event, encoded, min(1, policy.retries), PERFORMANCE, 0.0, entry)
    return Parcel(event, encoded, policy.retries, policy.backoff, policy.linger, entry)


class Pusher:
    """Pushes parcels, each user's in order. On the loop's thread, after ``start``."""

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        push: Push,
        journal: Journal,
        *,
        dice: Callable[[], float],
        on_hand_over: Callable[[], None],
    ) -> None:
        self._push = push
        self._journal = journal
        self._dice = dice
        self._on_hand_over = on_hand_over
        self._batcher: Batcher[Parcel] = Batcher()
        self._retrying: dict[str, deque[Parcel]] = {}
        self._retry_timers: dict[str, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs; timers are its own."""
        self._loop = loop

    def offer(
        self, event: Event, policy: ClassPolicy, performance: bool, entry: Entry | None = None
    ) -> Parcel | None:
        """Push now, or as soon as linger and order allow.

        Args:
            entry: while the caller has not given it to the journal: the result is written onto it
                and becomes part of the insert.

        Returns:
            What is under way still, ``None`` if that was all. You must take the entry off it when
            the journal has it.
        """
        encoded = encode_event(event)
        may_go = (performance or policy.linger <= 0.0) and (
            not (self._retrying or self._batcher.waiting) or not self._must_wait(event.user_id)
        )
        if may_go:
            pushed = self._call(event, encoded)
            if pushed.connections:
                if entry is not None:
                    entry.sent = True
                    entry.awaited = pushed.is_here
                    if event.event_class is EventClass.AUTH:
                        _note_sent(entry)
                return None
            item = _parcel(event, encoded, policy, performance, entry)
            if not self._judge(item, pushed, 1):
                self._hold((item,), 1)
            return item
        item = _parcel(event, encoded, policy, performance, entry)
        self._queue(item)
        return item

    def _must_wait(self, user: str) -> bool:
        """Whether something of this user is still under way, which nothing may overtake."""
        return user in self._retrying or self._batcher.is_waiting(user)

    def _queue(self, item: Parcel) -> None:
        """Behind what waits for this user already, or into a batch."""
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
        """Push what lingers, hand over what is being retried, stop the timers."""
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

    def _send(self, items: Sequence[Parcel], *, may_retry: bool = True) -> None:
        """One user's parcels, one by one: the first that must be retried holds the rest back."""
        for index, item in enumerate(items):
            if not self._try(item, 1 if may_retry else item.retries + 1):
                self._hold(items[index:], 1)
                return

    def _try(self, item: Parcel, number: int) -> bool:
        """Push once; ``False`` when it is worth another try."""
        return self._judge(item, self._call(item.event, item.encoded), number)

    def _judge(self, item: Parcel, pushed: Pushed, number: int) -> bool:
        if pushed.connections > 0:
            if item.entry is not None:
                item.entry.awaited = pushed.is_here
                _note_sent(item.entry)
            return True
        reason = pushed.reason or "nobody connected"
        if pushed.failed and number <= item.retries and item.event.event_class.is_durable:
            if item.entry is not None:
                item.entry.pushes.append((Outcome.FAILED, reason))
            return False
        self._fail(item, reason)
        return True

    def _call(self, event: Event, encoded: bytes) -> Pushed:
        try:
            return self._push.push(event, encoded)
        except Exception as error:
            # A fault in the fast path must not cost the event: the chain is what it falls back to.
            logger.exception("pushing event %s failed", event.id)
            return Pushed(0, f"push raised {type(error).__name__}")

    def _fail(self, item: Parcel, reason: str) -> None:
        """Nobody was reached: the chain starts at once. Ephemeral events are dropped."""
        if not item.event.event_class.is_durable:
            return
        if item.entry is not None:
            item.entry.hand_over = True
            item.entry.pushes.append((Outcome.FAILED, reason))
            return
        self._journal.hand_over(item.event.id, reason)
        self._on_hand_over()

    def _hold(self, items: Sequence[Parcel], number: int) -> None:
        user = items[0].event.user_id
        self._retrying[user] = deque(items)
        delay = items[0].backoff.delay(number, self._dice())
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
        """One timer for the earliest batch of all users."""
        due = self._batcher.next_due()
        if due is None or (self._timer is not None and self._timer_at <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._on_tick)

    def _on_tick(self) -> None:
        self._timer = None
        # A loop may call back a clock tick early; what is due by its own timer is due.
        for batch in self._batcher.on_tick(max(self._loop.time(), self._timer_at)):
            self._send(batch)
        self._arm()


def _note_sent(entry: Entry) -> None:
    entry.sent = True
    if entry.event.event_class is EventClass.AUTH:
        # Sign-in events carry every try on the record, the one that reached a socket too.
        entry.pushes.append((Outcome.DELIVERED, None))
