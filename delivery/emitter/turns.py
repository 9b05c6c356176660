"""Turns of producers: a flood by one of them does not hold up the others.

Owns: which producer's events go next, and how many are under way at the same time. Never does: the
work itself, or a wait; everything runs on the loop's thread.

While one producer is alone it may have ``ALONE`` events under way. As soon as another one posts as
well, all of them together share a small amount, in turns (round robin): what a new request finds
before it, on the loop and in the journal's transaction, stays short. A producer that has little
under way needs no turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Protocol

from delivery.errors import Overloaded

ALONE = 4_000
"""Events of a producer that is alone which may be under way."""
SHARED_RATE = 8_000.0
"""Work per second for producers that share, about half of what a gateway can do: times the shortest
commit of late it is the amount under way, because work stays under way for one commit."""
MIN_SHARED, MAX_SHARED = 32, 1_024
"""At least so much that the events of a commit cost about as much as the commit itself."""
FREE = 32
"""Work that each producer may always have under way: seven requests of one event."""
QUANTUM = 24
"""Work of one turn."""
REQUEST = 8
"""Work of a request, in events, beside the work of its events."""
ALONE_AFTER = 10.0
"""Seconds without a request of another producer after which a producer is alone."""
MAX_WAIT = 2.0
"""Seconds that a request may wait for its first turn; then it is refused."""
MAX_WAITING = 20_000
"""Events of one producer that may wait for their turns."""
MIN_COMMIT = 0.000_5
"""Seconds; what is answered sooner, as an invalid event, was not committed."""


class Work(Protocol):
    """The events of a request."""

    def feed(self, count: int) -> None:
        """Submit the next events; you must call ``Turns.done`` once for each."""

    def refuse(self, error: Overloaded) -> None:
        """Answer all events with an error; none was fed."""


class Request:
    """One request of a producer, and how far it is.

    Attributes:
        left: events not fed yet.
    """

    __slots__ = ("fed_at", "is_begun", "lane", "left", "since", "under_way", "work")

    def __init__(self, lane: Lane, work: Work, size: int, since: float) -> None:
        self.lane = lane
        self.work = work
        self.left = size
        self.since = since
        self.fed_at = since
        self.under_way = 0
        self.is_begun = False


class Lane:
    """Requests of one producer in their order, and its work: waiting and under way."""

    __slots__ = ("is_queued", "producer", "requests", "under_way", "waiting")

    def __init__(self, producer: str) -> None:
        self.producer = producer
        self.requests: deque[Request] = deque()
        self.under_way = 0
        self.waiting = 0
        self.is_queued = False


class Turns:
    """Feeds the requests of all producers in turns.

    Args:
        clock: monotonic seconds.
        call_soon: calls a function at the end of this turn of the loop.
    """

    def __init__(
        self, clock: Callable[[], float], call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self._clock = clock
        self._call_soon = call_soon
        self._lanes: dict[str, Lane] = {}
        self._queue: deque[Lane] = deque()
        self._under_way = 0
        self._is_scheduled = False
        self._latest: str | None = None
        self._crossed_at = -inf
        self._commit = ShortestLately()

    @property
    def producers(self) -> int:
        """Producers with work that waits or is under way."""
        return len(self._lanes)

    def check_room(self, producer: str) -> None:
        """Refuse a request before it is read, when too many events of its producer wait.

        Raises:
            Overloaded: with the seconds after which to try again.
        """
        lane = self._lanes.get(producer)
        if lane is not None and lane.waiting >= MAX_WAITING:
            raise Overloaded(
                f"{lane.waiting} events of this producer wait for their turns; slow down",
                retry_after=1.0 + lane.waiting / SHARED_RATE,
            )

    def request(self, producer: str, work: Work, size: int) -> Request:
        """Make a request of ``size`` events, for ``add``."""
        lane = self._lanes.get(producer)
        if lane is None:
            lane = self._lanes[producer] = Lane(producer)
        return Request(lane, work, size, self._clock())

    def add(self, request: Request) -> None:
        """Feed a request, now or when it is its turn."""
        lane = request.lane
        if lane.producer != self._latest:
            if self._latest is not None:
                self._crossed_at = request.since
            self._latest = lane.producer
        lane.requests.append(request)
        lane.waiting += request.left
        if not lane.is_queued:
            lane.is_queued = True
            self._queue.append(lane)
        self._advance()

    def done(self, request: Request) -> None:
        """Report that an event that was fed has its answer."""
        request.under_way -= 1
        freed = 1
        if not request.under_way:
            took = self._clock() - request.fed_at
            if took >= MIN_COMMIT:
                self._commit.note(took, request.fed_at)
            if not request.left:
                freed += REQUEST
        lane = request.lane
        lane.under_way -= freed
        self._under_way -= freed
        if not lane.under_way:
            self._forget(lane)
        if self._queue and not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._is_scheduled = False
        self._advance()

    def _forget(self, lane: Lane) -> None:
        if not lane.requests and self._lanes.get(lane.producer) is lane:
            del self._lanes[lane.producer]

    def _limit(self, now: float) -> int:
        if now - self._crossed_at >= ALONE_AFTER:
            return ALONE
        return max(MIN_SHARED, min(MAX_SHARED, int(SHARED_RATE * self._commit.seconds)))

    def _advance(self) -> None:
        """Go round the producers until none of them may be fed."""
        now = self._clock()
        limit = self._limit(now)
        passed = 0
        while self._queue and passed < len(self._queue):
            lane = self._queue.popleft()
            passed = 0 if self._take_turn(lane, limit, now) else passed + 1
            if lane.requests:
                self._queue.append(lane)
            else:
                lane.is_queued = False
                if not lane.under_way:
                    self._forget(lane)

    def _take_turn(self, lane: Lane, limit: int, now: float) -> bool:
        """Feed a producer's requests for one turn; ``False``: there is no room."""
        room = max(limit - self._under_way, FREE - lane.under_way)
        if self._queue:  # others wait: a turn has a size
            room = min(room, QUANTUM)
        before = room
        while lane.requests:
            request = lane.requests[0]
            if not request.is_begun and now - request.since > MAX_WAIT:
                self._refuse(request, now - request.since)
                continue
            cost = 0 if request.is_begun else REQUEST
            size = min(room - cost, request.left)
            if size <= 0:
                break
            room -= size + cost
            self._feed(request, size, cost, now)
        return room < before

    def _refuse(self, request: Request, waited: float) -> None:
        lane = request.lane
        lane.requests.popleft()
        lane.waiting -= request.left
        request.work.refuse(
            Overloaded(f"no turn within {waited:.1f} s: this producer sends more than its share")
        )

    def _feed(self, request: Request, size: int, cost: int, now: float) -> None:
        lane = request.lane
        request.is_begun = True
        request.left -= size
        request.under_way += size
        request.fed_at = now
        lane.under_way += size + cost
        lane.waiting -= size
        self._under_way += size + cost
        if not request.left:
            lane.requests.popleft()
        request.work.feed(size)


class ShortestLately:
    """The shortest of some durations, of the last one to two periods of ``every`` seconds."""

    __slots__ = ("_at", "_before", "_every", "_now")

    def __init__(self, every: float = 10.0) -> None:
        self._every = every
        self._at = -inf
        self._before = inf
        self._now = inf

    @property
    def seconds(self) -> float:
        """The shortest duration; 0 before the first."""
        shortest = min(self._before, self._now)
        return 0.0 if shortest == inf else shortest

    def note(self, seconds: float, at: float) -> None:
        """Take a duration into account; ``at`` in monotonic seconds."""
        if at - self._at >= self._every:
            self._before = self._now if at - self._at < 2 * self._every else inf
            self._at, self._now = at, inf
        if seconds < self._now:
            self._now = seconds
