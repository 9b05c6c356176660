"""What waits for one connection and what may leave next. Pure.

A connection is *catching up* or *live*. While it catches up, pages from the ledger leave in order
and pushes wait in the queue; when the ledger's end is met and the queue lost nothing, it is live
and the queue leaves. A queue that overflows is thrown away and the ledger is read again: what it
held stands there. So is it when a run's numbers jump: what was pushed past us must leave first.
What already left on this connection is not sent again by a catch-up; a resend, or a push once
live, means that somebody wants it sent again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from delivery.domain.event import Event, EventClass
from delivery.gateway.in_flight import Flight, is_ephemeral
from delivery.protocol import encode_event

PIECES = ("delta", "text")


def merge_ephemeral(first: Event, second: Event) -> Event | None:
    """The event that says what both say, under the second's id; ``None`` if they must stay two."""
    if (
        first.event_class is not EventClass.EPHEMERAL
        or second.event_class is not EventClass.EPHEMERAL
        or first.type != second.type
        or first.run_id != second.run_id
        or first.thread_id != second.thread_id
        or first.meta != second.meta
    ):
        return None
    said, more = first.data, second.data
    if len(said) != 1 or len(more) != 1:
        return None
    for name in PIECES:
        before, after = said.get(name), more.get(name)
        if isinstance(before, str) and isinstance(after, str):
            return second.evolve(data={name: before + after})
    return None


MAX_BATCH = 500
MAX_BATCH_BYTES = 256 * 1024
"""A frame is closed after this; with one more event it stays far under ``MAX_FRAME_BYTES``."""
MAX_QUEUE_BYTES = 4 * 1024 * 1024
RUNS = 4_096
"""Runs whose last number is remembered; a run that was forgotten costs one look at the ledger."""

Item = tuple[Event, bytes]
"""An event with its encoding, made once for all of its connections."""
Batch = tuple[list[Event], list[bytes], bool]
"""One frame's events, their encodings, and whether it is known that none of them is ephemeral."""


class Read(enum.Enum):
    """What to read from the ledger: the page after the last one, or everything anew."""

    MORE = "more"
    AGAIN = "again"


class Lanes:
    """One connection's outbound events: resends first, then the ledger's page, then the queue.

    Args:
        flight: the account of what left; asked for room, never written.
        max_queue: the most pushed events that wait.
    """

    __slots__ = (
        "_ephemeral",
        "_flight",
        "_is_held",
        "_max_queue",
        "_met_end",
        "_missed",
        "_page",
        "_queue",
        "_queue_bytes",
        "_resends",
        "_seqs",
        "is_live",
    )

    def __init__(self, flight: Flight, max_queue: int) -> None:
        self._flight = flight
        self._max_queue = max_queue
        # Lists, not deques: an empty deque takes more memory than all else here.
        self._queue: list[Item] = []
        self._queue_bytes = 0
        self._ephemeral = 0  # of those in the queue
        self._page: list[Item] = []
        self._resends: list[Item] = []
        self._seqs: dict[str, int] = {}  # run -> the highest number seen, oldest run first
        self._met_end = False
        self._missed = False
        self._is_held = False
        self.is_live = False

    @property
    def fill(self) -> float:
        """How full the queue is, 0 to 1; one that overflowed is full until the ledger is read."""
        return 1.0 if self._missed else len(self._queue) / self._max_queue

    @property
    def known_runs(self) -> int:
        """How many runs' numbers are remembered."""
        return len(self._seqs)

    @property
    def is_waiting(self) -> bool:
        """Whether room in flight would let something leave."""
        return bool(self._queue) or not self.is_live

    @property
    def is_idle(self) -> bool:
        """Whether everything left and nothing is to be read."""
        return self.is_live and not self._queue and not self._resends and not self._page

    def push(self, item: Item) -> bool:
        """Queue one pushed event; ``False`` when the queue overflowed and the ledger must be read.

        An ephemeral event that finds the queue full is dropped.
        """
        event = item[0]
        if event.event_class is EventClass.EPHEMERAL:
            self._push_ephemeral(item)
            return True
        queue = self._queue
        if len(queue) >= self._max_queue or self._queue_bytes > MAX_QUEUE_BYTES:
            self._drop_queue()
            self.ask_again()
            return False
        queue.append(item)
        self._queue_bytes += len(item[1])
        if self._follow(event) and self.is_live:
            self.ask_again()
        return True

    def _push_ephemeral(self, item: Item) -> None:
        queue = self._queue
        if self._is_held and queue:
            merged = merge_ephemeral(queue[-1][0], item[0])
            if merged is not None:
                item = (merged, encode_event(merged))
                self._queue_bytes -= len(queue.pop()[1])
                self._ephemeral -= 1
        if len(queue) < self._max_queue and self._queue_bytes <= MAX_QUEUE_BYTES:
            queue.append(item)
            self._queue_bytes += len(item[1])
            self._ephemeral += 1

    def resend(self, items: Iterable[Item]) -> None:
        """Let these leave first, in flight or not, if they have left before. One that never left
        here was missed, and maybe others of its run before it: the ledger brings them in order."""
        for item in items:
            if self._flight.room > 0 and not self._flight.was_sent(item[0].id):
                self.ask_again()
            else:
                self._resends.append(item)

    def end_resend(self) -> bool:
        """Whether all resends left; those that did not are dropped (the chain asks again)."""
        left = not self._resends
        self._resends.clear()
        return left

    def know(self, seqs: Mapping[str, int]) -> None:
        """Runs in whose middle this connection begins: what follows their number is no jump."""
        for run_id, seq in seqs.items():
            if seq > self._seqs.get(run_id, 0):
                self._seqs[run_id] = seq

    def take_page(self, items: Iterable[Item], *, is_last: bool) -> None:
        """The ledger answered."""
        for item in items:
            self._follow(item[0])
            self._page.append(item)
        self._met_end = is_last

    def ask_again(self) -> None:
        """Something was missed, here or elsewhere: catch up from the beginning."""
        self._missed = True
        self.is_live = False

    def forgive(self) -> None:
        """The ledger cannot be read now: go on with what is pushed."""
        self._missed = False

    def next_read(self) -> Read | None:
        """What must be read now, ``None`` while the last page has not left. Reading anew begins a
        round: an overflow from here on asks for one more."""
        if self.is_live or self._page:
            return None
        if self._missed:
            self._missed = self._met_end = False
            return Read.AGAIN
        return None if self._met_end else Read.MORE

    def next_batch(self) -> Batch | None:
        """Take the next frame's events out; ``None`` if nothing may leave now."""
        if self._resends:
            batch = self._take(self._resends, again=True)
            if batch is not None:
                return batch
        if self._page:
            batch = self._take(self._page)
            if batch is not None or self._page:
                return batch
        if not self.is_live:
            if self._missed or not self._met_end:
                return None
            self._go_live()
        batch = self._take(self._queue, again=True)
        if self._queue_bytes:
            self._queue_bytes = sum(len(raw) for _, raw in self._queue)
            self._ephemeral = sum(is_ephemeral(event) for event, _ in self._queue)
        return batch

    def settle(self) -> None:
        """Nothing more leaves in this turn; what stays in the queue may be merged."""
        self._is_held = bool(self._queue)

    def close(self) -> list[str]:
        """Empty it. Returns the ids of durable events that were pushed and never left."""
        unsent = [
            event.id
            for event, _ in self._queue
            if event.event_class.is_durable and not self._flight.was_sent(event.id)
        ]
        self._drop_queue()
        self._page.clear()
        self._resends.clear()
        return unsent

    def _follow(self, event: Event) -> bool:
        """Note the event's number; whether its run jumped over one that never came here."""
        seq = event.seq
        if seq is None:
            return False
        seqs = self._seqs
        run_id = event.run_id
        last = seqs.get(run_id)
        if last == seq - 1:  # the everyday one
            seqs[run_id] = seq
            return False
        if last is None:
            last = 0
            if len(seqs) >= RUNS:
                del seqs[next(iter(seqs))]
        if seq > last:
            seqs[run_id] = seq
        return seq > last + 1

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._queue_bytes = self._ephemeral = 0

    def _go_live(self) -> None:
        was_sent = self._flight.was_sent
        self._queue = [item for item in self._queue if not was_sent(item[0].id)]
        self._ephemeral = sum(is_ephemeral(event) for event, _ in self._queue)
        self.is_live = True

    def _take_queue(self) -> Batch | None:
        """All of it: the everyday case."""
        queue = self._queue
        if not queue:
            return None
        batch = [event for event, _ in queue], [raw for _, raw in queue], not self._ephemeral
        self._drop_queue()
        return batch

    def _take(self, lane: list[Item], *, again: bool = False) -> Batch | None:
        """What fits into one frame and into flight, in order. Not ``again``: without what left."""
        flight = self._flight
        room = flight.room
        if (
            lane is self._queue
            and len(lane) <= min(room, MAX_BATCH)
            and self._queue_bytes < MAX_BATCH_BYTES
        ):
            return self._take_queue()
        events: list[Event] = []
        encoded: list[bytes] = []
        size = gone = 0
        for event, raw in lane:
            if size >= MAX_BATCH_BYTES or len(events) >= MAX_BATCH:
                break
            if again or not flight.was_sent(event.id):
                if not is_ephemeral(event) and not flight.is_out(event.id):
                    if room <= 0:
                        break
                    room -= 1
                events.append(event)
                encoded.append(raw)
                size += len(raw)
            gone += 1
        del lane[:gone]
        return (events, encoded, False) if events else None
