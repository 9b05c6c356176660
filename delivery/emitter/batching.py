"""Natural batches with a bounded wait, for classes whose policy allows to linger.

Owns: how long and for how many an event waits. Pure: the instant is passed in, in seconds of any
monotonic clock; what to do with a ready batch is the caller's business.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Generic, TypeVar

from delivery.domain.health import MAX_LINGER

T = TypeVar("T")

LEAST = 5
MOST = 20
_WEIGHT = 0.3


class _Lane(Generic[T]):
    """What waits for one user, and how fast it comes."""

    __slots__ = ("due", "gap", "items", "last_at", "size")

    def __init__(self) -> None:
        self.items: list[T] = []
        self.due = 0.0
        self.size = LEAST
        self.gap: float | None = None
        self.last_at: float | None = None

    def on_arrival(self, now: float) -> None:
        """Learn the mean gap between events; the newest one counts most."""
        if self.last_at is not None:
            gap = max(now - self.last_at, 1e-6)
            self.gap = gap if self.gap is None else self.gap + _WEIGHT * (gap - self.gap)
        self.last_at = now

    def expected(self, linger: float) -> float:
        """How many more events are likely to come within ``linger`` seconds."""
        return 0.0 if self.gap is None else linger / self.gap


class Batcher(Generic[T]):
    """Gathers items by user in batches of 5 to 20, for at most 100 ms.

    A user who gets few events waits for nothing: holding one back pays only if another one is
    likely to come within the linger.

    Attributes:
        waiting: how many items wait, of all users.
    """

    def __init__(self, *, capacity: int = 10_000) -> None:
        self.waiting = 0
        self._capacity = capacity
        self._lanes: OrderedDict[str, _Lane[T]] = OrderedDict()
        self._due: list[tuple[float, str]] = []

    def add(self, key: str, item: T, now: float, linger: float) -> list[T]:
        """Add an item; the batch that it completes, in order, or ``[]`` when it is to wait.

        Args:
            key: the user.
            now: monotonic seconds.
            linger: the longest wait in seconds; more than 0.1 counts as 0.1.
        """
        lane = self._lane(key)
        lane.on_arrival(now)
        linger = min(linger, MAX_LINGER)
        expected = lane.expected(linger)
        lane.items.append(item)
        self.waiting += 1
        if len(lane.items) == 1:
            if expected < 1.0:
                return self.take(key)
            lane.size = min(MOST, max(LEAST, round(expected)))
            lane.due = now + min(linger, lane.size * (lane.gap or 0.0))
            heapq.heappush(self._due, (lane.due, key))
        return self.take(key) if len(lane.items) >= lane.size else []

    def take(self, key: str) -> list[T]:
        """Everything that waits for this user, now."""
        lane = self._lanes.get(key)
        if lane is None or not lane.items:
            return []
        items, lane.items = lane.items, []
        self.waiting -= len(items)
        return items

    def is_waiting(self, key: str) -> bool:
        """Whether something waits for this user."""
        lane = self._lanes.get(key)
        return lane is not None and bool(lane.items)

    def on_tick(self, now: float) -> list[list[T]]:
        """The batches whose time has come."""
        ready = []
        while self._due and self._due[0][0] <= now:
            due, key = heapq.heappop(self._due)
            if self._is_current(due, key):
                ready.append(self.take(key))
        return ready

    def next_due(self) -> float | None:
        """The instant of the next ``on_tick`` that has something to do."""
        while self._due:
            if self._is_current(*self._due[0]):
                return self._due[0][0]
            heapq.heappop(self._due)
        return None

    def _is_current(self, due: float, key: str) -> bool:
        """Whether a noted due time still means a waiting batch, not one that left early."""
        lane = self._lanes.get(key)
        return lane is not None and bool(lane.items) and lane.due == due

    def _lane(self, key: str) -> _Lane[T]:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane()
            self._forget()
        else:
            self._lanes.move_to_end(key)
        return lane

    def _forget(self) -> None:
        """Drop the rates of the users seen longest ago; whoever has items waiting stays."""
        if len(self._lanes) <= self._capacity:
            return
        oldest, lane = next(iter(self._lanes.items()))
        if lane.items:
            self._lanes.move_to_end(oldest)
        else:
            del self._lanes[oldest]
