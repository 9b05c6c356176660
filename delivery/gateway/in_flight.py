"""Events sent on one connection and their acknowledgements: ``n``, in flight, latency.

Owns: which ids are unacknowledged, and which were sent lately. Never does: read clocks (``now`` is
monotonic seconds passed in), write frames. Bounded: in flight by ``max_in_flight`` (callers check
``room`` first), the memory of sent ids by twice ``memory``.
"""

from __future__ import annotations

from collections.abc import Sequence

from delivery.domain.event import Event, EventClass
from delivery.domain.health import smooth
from delivery.errors import UnknownAck


class InFlight:
    """Unacknowledged events of one connection.

    Args:
        max_in_flight: the most unacknowledged durable events; ephemeral ones do not count.
        memory: how many of the latest sent ids are remembered at least; must cover the queue of
            pushed events, since a catch-up may send the same events before them.
        tracked: ``False`` for an event stream, on which no acknowledgement comes back.
    """

    __slots__ = (
        "_in_flight",
        "_max",
        "_memory",
        "_nacked",
        "_released",
        "_sample_at",
        "_sample_n",
        "_sent",
        "_sent_before",
        "_tracked",
        "ack_ms",
        "acked",
        "n",
    )

    def __init__(
        self, max_in_flight: int, *, memory: int | None = None, tracked: bool = True
    ) -> None:
        self._max = max_in_flight
        self._memory = max_in_flight if memory is None else memory
        self._tracked = tracked
        self._in_flight: dict[str, int] = {}  # id -> its first n, ascending
        self._nacked: set[str] = set()
        self._released: dict[str, int] = {}  # id -> its first n
        self._sent: set[str] = set()  # two sets that rotate: bounded without an eviction per event
        self._sent_before: set[str] = set()
        self._sample_n = 0
        self._sample_at: float | None = None
        self.n = 0
        self.acked = 0  # the highest n that was acknowledged
        self.ack_ms = 0.0

    @property
    def room(self) -> int:
        """How many more durable events may be in flight."""
        return self._max - len(self._in_flight)

    @property
    def ids(self) -> tuple[str, ...]:
        """Unacknowledged ids, oldest first."""
        return tuple(self._in_flight)

    def was_sent(self, event_id: str) -> bool:
        """Whether this id was sent here, as far as the memory of sent ids reaches."""
        return (
            event_id in self._sent
            or event_id in self._sent_before
            or event_id in self._in_flight
            or event_id in self._released
        )

    def is_unacknowledged(self, event_id: str) -> bool:
        """Whether this id was sent here and is still unacknowledged."""
        return event_id in self._in_flight

    def on_push(self, events: Sequence[Event], now: float, *, is_durable: bool = False) -> int:
        """Count events that are sent now, in this order. Returns ``n`` for their frame.

        Args:
            is_durable: whether none of them is ephemeral; ``False`` when that is not known.
        """
        n = self.n
        in_flight = self._in_flight
        sent = self._sent
        for event in events:
            n += 1
            event_id = event.id
            sent.add(event_id)
            if self._tracked and (is_durable or not is_ephemeral(event)):
                # The first n stays: the client may acknowledge the event by the n it had first.
                in_flight.setdefault(event_id, n)
        if self._released:
            for event in events:  # an event that is sent again is in flight again
                self._released.pop(event.id, None)
        self.n = n
        if len(sent) > self._memory:
            self._sent_before = sent
            self._sent = set()
        if self._sample_at is None and in_flight:
            self._sample_n = next(reversed(in_flight.values()))
            self._sample_at = now
        return n

    def release(self, ids: Sequence[str]) -> bool:
        """Release ids acknowledged elsewhere; a later acknowledgement here still counts.

        Returns:
            Whether there is more room now.
        """
        before = len(self._in_flight)
        for event_id in ids:
            n = self._in_flight.pop(event_id, None)
            if n is not None:
                if len(self._released) >= self._max:
                    self._released.pop(next(iter(self._released)))
                self._released[event_id] = n
        return len(self._in_flight) < before

    def on_ack(self, upto: int | None, ids: Sequence[str], now: float) -> list[str]:
        """Take the acknowledged events out of flight; their ids, oldest first.

        Raises:
            UnknownAck: ``upto`` is over ``n``, or an id was never sent here; nothing was taken.
        """
        if upto is not None and upto > self.n:
            raise UnknownAck(f"upto {upto} is over the last n, {self.n}; nothing was confirmed")
        if upto == self.n and not ids and not self._released:  # the most frequent case
            self.acked = upto
            done = list(self._in_flight)
            self._in_flight.clear()
            self._note_latency(upto, now)
            return done
        for event_id in ids:
            self._check(event_id)
        done = []
        newest = 0
        if upto is not None:
            done = self._take_upto(upto)
            if self._released:
                done += [event_id for event_id, n in self._released.items() if n <= upto]
            newest = upto
            self.acked = max(self.acked, upto)
        for event_id in ids:
            n = self._in_flight.pop(event_id, None)
            if n is not None:
                newest = max(newest, n)
                done.append(event_id)
            elif event_id in self._released and event_id not in done:
                done.append(event_id)
            elif event_id in self._nacked:  # refused at first, then acknowledged
                self._nacked.discard(event_id)
                done.append(event_id)
        for event_id in done if self._released else ():
            self._released.pop(event_id, None)
        self._note_latency(newest, now)
        return done

    def _note_latency(self, newest: int, now: float) -> None:
        if self._sample_at is not None and (newest >= self._sample_n or not self._in_flight):
            self.ack_ms = smooth(self.ack_ms, (now - self._sample_at) * 1_000.0)
            self._sample_at = None

    def on_nack(self, event_id: str) -> bool:
        """Take a refused event out of flight; ``False`` if it was not in flight any more.

        Raises:
            UnknownAck: the event was never sent here.
        """
        self._check(event_id)
        if self._in_flight.pop(event_id, None) is None:
            return False
        if len(self._nacked) < self._max:
            self._nacked.add(event_id)
        return True

    def latency_ms(self, now: float) -> float:
        """Smoothed latency of acknowledgements; one that is still due counts by its age."""
        if self._sample_at is None:
            return self.ack_ms
        return max(self.ack_ms, (now - self._sample_at) * 1_000.0)

    def _take_upto(self, upto: int) -> list[str]:
        in_flight = self._in_flight
        if upto == self.n:
            done = list(in_flight)
            in_flight.clear()
            return done
        done = []
        for event_id, n in in_flight.items():
            if n > upto:
                break
            done.append(event_id)
        for event_id in done:
            del in_flight[event_id]
        return done

    def _check(self, event_id: str) -> None:
        if not self.was_sent(event_id):
            raise UnknownAck(
                f"id {event_id[:64]!r} was not sent on this connection; nothing was confirmed"
            )


def is_ephemeral(event: Event) -> bool:
    """Whether the event is ephemeral: never stored, never in flight."""
    return event.event_class is EventClass.EPHEMERAL
