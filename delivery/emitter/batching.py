"""Batches of events with a bounded wait, for classes whose policy has a linger. Pure.

Owns: how long an event waits, and for how many others. Never does: read a clock (monotonic seconds
are passed in), or push: a ready batch is returned to the caller.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Generic, TypeVar

from delivery.domain.health import MAX_LINGER

T = TypeVar("T")

MIN_BATCH = 5
MAX_BATCH = 20
_WEIGHT = 0.3


class _UserQueue(Generic[T]):
    """Waiting items of one user, and the mean gap between arrivals."""

    __slots__ = ("due", "gap", "items", "last_at", "size")

    def __init__(self) -> None:
        self.items: list[T] = []
        self.due = 0.0
        self.size = MIN_BATCH
        self.gap: float | None = None
        self.last_at: float | None = None

    def on_arrival(self, now: float) -> None:
        """Update the mean gap between events; newer gaps weigh more."""
        if self.last_at is not None:
            gap = max(now - self.last_at, 1e-6)
            self.gap = gap if self.gap is None else self.gap + _WEIGHT * (gap - self.gap)
        self.last_at = now

    def expected(self, linger: float) -> float:
        """Expected number of further events within ``linger`` seconds."""
        return 0.0 if self.gap is None else linger / self.gap


class Batcher(Generic[T]):
    """Gathers items by user in batches of 5 to 20, for at most 100 ms.

    An event waits only if another event of its user is likely to come within the linger.

    Attributes:
        waiting: count of waiting items of all users.
    """

    def __init__(self, *, capacity: int = 10_000) -> None:
        self.waiting = 0
        self._capacity = capacity
        self._queues: OrderedDict[str, _UserQueue[T]] = OrderedDict()
        self._due: list[tuple[float, str]] = []

    def add(self, key: str, item: T, now: float, linger: float) -> list[T]:
        """Add an item. Returns the batch that it completes, in order, or ``[]`` when it waits.

        Args:
            key: the user.
            now: monotonic seconds.
            linger: the longest wait in seconds; more than 0.1 counts as 0.1.
        """
        queue = self._queue_of(key)
        queue.on_arrival(now)
        linger = min(linger, MAX_LINGER)
        expected = queue.expected(linger)
        queue.items.append(item)
        self.waiting += 1
        if len(queue.items) == 1:
            if expected < 1.0:
                return self.take(key)
            queue.size = min(MAX_BATCH, max(MIN_BATCH, round(expected)))
            queue.due = now + min(linger, queue.size * (queue.gap or 0.0))
            heapq.heappush(self._due, (queue.due, key))
        return self.take(key) if len(queue.items) >= queue.size else []

    def take(self, key: str) -> list[T]:
        """Take all waiting items of this user."""
        queue = self._queues.get(key)
        if queue is None or not queue.items:
            return []
        items, queue.items = queue.items, []
        self.waiting -= len(items)
        return items

    def is_waiting(self, key: str) -> bool:
        """Whether an item of this user waits."""
        queue = self._queues.get(key)
        return queue is not None and bool(queue.items)

    def on_tick(self, now: float) -> list[list[T]]:
        """Take the batches that are due."""
        ready = []
        while self._due and self._due[0][0] <= now:
            due, key = heapq.heappop(self._due)
            if self._is_current(due, key):
                ready.append(self.take(key))
        return ready

    def next_due(self) -> float | None:
        """Monotonic instant of the earliest batch that is due; ``None`` when no item waits."""
        while self._due:
            if self._is_current(*self._due[0]):
                return self._due[0][0]
            heapq.heappop(self._due)
        return None

    def _is_current(self, due: float, key: str) -> bool:
        """Whether a due time is that of a waiting batch, not of one that was taken earlier."""
        queue = self._queues.get(key)
        return queue is not None and bool(queue.items) and queue.due == due

    def _queue_of(self, key: str) -> _UserQueue[T]:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _UserQueue()
            self._forget()
        else:
            self._queues.move_to_end(key)
        return queue

    def _forget(self) -> None:
        """Forget the user with the oldest event, unless items of that user wait."""
        if len(self._queues) <= self._capacity:
            return
        oldest, queue = next(iter(self._queues.items()))
        if queue.items:
            self._queues.move_to_end(oldest)
        else:
            del self._queues[oldest]
