"""Outbound events of one connection: what waits, and what is sent next. Pure.

Owns: resends, the current page of the ledger, the queue of pushed events, and their order. Never
does: read the ledger, or write frames.

A connection is *catching up* or *live*. While it catches up, pages of the ledger are sent in order
and pushed events wait in the queue. At the end of the ledger, if the queue dropped nothing, the
connection is live and the queue is sent. When the queue overflows, it is emptied and the ledger is
read again, which holds all durable events. The ledger is also read again when the numbers of a run
have a gap: the missing events must be sent first. A catch-up skips events that were already sent on
this connection; a resend, or a push to a live connection, sends them again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from delivery.domain.event import Event, EventClass
from delivery.gateway.in_flight import InFlight, is_ephemeral
from delivery.gateway.waiting import FAIR_BYTES, WaitingBytes
from delivery.protocol import encode_event

PIECES = ("delta", "text")


def merge_ephemeral(first: Event, second: Event) -> Event | None:
    """Merge two ephemeral events under the second's id; ``None`` if they cannot be merged."""
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
"""A frame takes no further event at this size; its last event stays under ``MAX_FRAME_BYTES``."""
MAX_QUEUE_BYTES = 4 * 1024 * 1024
RUNS = 4_096
"""Runs whose last number is remembered; an event of a forgotten run causes one read."""

Item = tuple[Event, bytes]
"""An event with its encoding, which is made once for all connections."""
Batch = tuple[list[Event], list[bytes], bool]
"""Events of one frame, their encodings, and whether none of them is known to be ephemeral."""


class Read(enum.Enum):
    """The next read of the ledger: the page after the last one, or the first page again."""

    MORE = "more"
    AGAIN = "again"


class Outbound:
    """Outbound events of one connection: resends first, then the ledger's page, then the queue.

    Args:
        in_flight: the events in flight; read here, never changed.
        max_queue: the most pushed events in the queue.
        waiting: the bytes in the queues of all connections; its own alone if there is none.
    """

    __slots__ = (
        "_ephemeral",
        "_in_flight",
        "_is_held",
        "_max_queue",
        "_met_end",
        "_missed",
        "_page",
        "_queue",
        "_queue_bytes",
        "_resends",
        "_seqs",
        "_waiting",
        "is_live",
    )

    def __init__(
        self, in_flight: InFlight, max_queue: int, waiting: WaitingBytes | None = None
    ) -> None:
        self._in_flight = in_flight
        self._max_queue = max_queue
        # Lists, not deques: an empty deque takes more memory than all else here.
        self._queue: list[Item] = []
        self._queue_bytes = 0
        self._waiting = WaitingBytes() if waiting is None else waiting
        self._ephemeral = 0  # ephemeral events in the queue
        self._page: list[Item] = []
        self._resends: list[Item] = []
        self._seqs: dict[str, int] = {}  # run -> the highest number seen, oldest run first
        self._met_end = False
        self._missed = False
        self._is_held = False
        self.is_live = False

    @property
    def fill(self) -> float:
        """Fill of the queue, 0 to 1; 1 after an overflow, until the ledger is read."""
        return 1.0 if self._missed else len(self._queue) / self._max_queue

    @property
    def is_waiting(self) -> bool:
        """Whether something could be sent if there were more room in flight."""
        return bool(self._queue) or not self.is_live

    @property
    def is_idle(self) -> bool:
        """Whether everything was sent and nothing has to be read."""
        return self.is_live and not self._queue and not self._resends and not self._page

    def push(self, item: Item) -> bool:
        """Queue one pushed event; ``False`` when the queue overflowed and the ledger must be read.

        A full queue drops ephemeral events.
        """
        event, raw = item
        if event.event_class is EventClass.EPHEMERAL:
            self._push_ephemeral(item)
            return True
        queue = self._queue
        size = self._queue_bytes
        # Fewer bytes than FAIR_BYTES are never too many: the call is for long queues.
        if len(queue) >= self._max_queue or (size > FAIR_BYTES and self._is_full()):
            self._drop_queue()
            self.read_again()
            return False
        queue.append(item)
        self._queue_bytes = size + len(raw)
        self._waiting.total += len(raw)
        seq = event.seq
        if seq is not None and self._seqs.get(event.run_id) == seq - 1:  # the most frequent case
            self._seqs[event.run_id] = seq
        elif self._follow(event) and self.is_live:
            self.read_again()
        return True

    def _push_ephemeral(self, item: Item) -> None:
        queue = self._queue
        if self._is_held and queue:
            merged = merge_ephemeral(queue[-1][0], item[0])
            if merged is not None:
                item = (merged, encode_event(merged))
                self._count(-len(queue.pop()[1]))
                self._ephemeral -= 1
        if not self._is_full():
            queue.append(item)
            self._count(len(item[1]))
            self._ephemeral += 1

    def _is_full(self) -> bool:
        size = self._queue_bytes
        return (
            len(self._queue) >= self._max_queue
            or size > MAX_QUEUE_BYTES
            or self._waiting.is_too_much(size)
        )

    def _count(self, size: int) -> None:
        """Count bytes that came into the queue, or left it."""
        self._queue_bytes += size
        self._waiting.total += size

    def resend(self, items: Iterable[Item]) -> None:
        """Queue resends of events that were sent here before, in flight or not. For an event never
        sent here, the ledger is read again: earlier events of its run may be missing, too."""
        for item in items:
            if self._in_flight.room > 0 and not self._in_flight.was_sent(item[0].id):
                self.read_again()
            else:
                self._resends.append(item)

    def end_resend(self) -> bool:
        """Whether all resends were sent; the others are dropped, since the chain repeats them."""
        left = not self._resends
        self._resends.clear()
        return left

    def know(self, seqs: Mapping[str, int]) -> None:
        """Set the last numbers of runs that began before this connection did."""
        for run_id, seq in seqs.items():
            if seq > self._seqs.get(run_id, 0):
                self._seqs[run_id] = seq

    def take_page(self, items: Iterable[Item], *, is_last: bool) -> None:
        """Take a page that was read from the ledger."""
        for item in items:
            self._follow(item[0])
            self._page.append(item)
        self._met_end = is_last

    def read_again(self) -> None:
        """Catch up from the beginning of the feed: an event may have been missed."""
        self._missed = True
        self.is_live = False

    def skip_read(self) -> None:
        """Continue with pushed events while the ledger cannot be read."""
        self._missed = False

    def next_read(self) -> Read | None:
        """The read that is needed now; ``None`` while the last page is not sent. ``AGAIN`` begins a
        round: an overflow during it causes another."""
        if self.is_live or self._page:
            return None
        if self._missed:
            self._missed = self._met_end = False
            return Read.AGAIN
        return None if self._met_end else Read.MORE

    def take_all(self) -> Batch | None:
        """Take the queue of a live connection, if that is all there is, and fits into one frame and
        in flight: the everyday case, after which it is idle. Else ``None``, with nothing done."""
        queue = self._queue
        count = len(queue)
        if (
            not self.is_live
            or not 0 < count <= MAX_BATCH
            or self._queue_bytes >= MAX_BATCH_BYTES
            or self._resends
            or self._page
            or count > self._in_flight.room
        ):
            return None
        return self._take_queue()

    def next_batch(self) -> Batch | None:
        """Take the events of the next frame; ``None`` if none may be sent now."""
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
            self._count(sum(len(raw) for _, raw in self._queue) - self._queue_bytes)
            self._ephemeral = sum(is_ephemeral(event) for event, _ in self._queue)
        return batch

    def settle(self) -> None:
        """End this turn of the loop; events that stay in the queue may be merged."""
        self._is_held = bool(self._queue)

    def close(self) -> list[str]:
        """Empty the queues. Returns ids of durable events that were pushed and never sent."""
        unsent = [
            event.id
            for event, _ in self._queue
            if event.event_class.is_durable and not self._in_flight.was_sent(event.id)
        ]
        self._drop_queue()
        self._page.clear()
        self._resends.clear()
        return unsent

    def _follow(self, event: Event) -> bool:
        """Note the event's number; whether numbers of its run are missing before it."""
        seq = event.seq
        if seq is None:
            return False
        seqs = self._seqs
        run_id = event.run_id
        last = seqs.get(run_id)
        if last is None:
            last = 0
            if len(seqs) >= RUNS:
                del seqs[next(iter(seqs))]
        if seq > last:
            seqs[run_id] = seq
        return seq > last + 1

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._count(-self._queue_bytes)
        self._ephemeral = 0

    def _go_live(self) -> None:
        was_sent = self._in_flight.was_sent
        self._queue = [item for item in self._queue if not was_sent(item[0].id)]
        self._ephemeral = sum(is_ephemeral(event) for event, _ in self._queue)
        self.is_live = True

    def _take_queue(self) -> Batch | None:
        """Take the whole queue: the most frequent case."""
        queue = self._queue
        if not queue:
            return None
        is_durable = not self._ephemeral
        if len(queue) == 1:  # with many users, nearly always
            event, raw = queue[0]
            batch = [event], [raw], is_durable
        else:
            batch = [event for event, _ in queue], [raw for _, raw in queue], is_durable
        queue.clear()
        self._waiting.total -= self._queue_bytes
        self._queue_bytes = self._ephemeral = 0
        self._is_held = False
        return batch

    def _take(self, lane: list[Item], *, again: bool = False) -> Batch | None:
        """Take what fits into one frame and in flight; ``again`` takes sent events as well."""
        in_flight = self._in_flight
        room = in_flight.room
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
            if again or not in_flight.was_sent(event.id):
                if not is_ephemeral(event) and not in_flight.is_unacknowledged(event.id):
                    if room <= 0:
                        break
                    room -= 1
                events.append(event)
                encoded.append(raw)
                size += len(raw)
            gone += 1
        del lane[:gone]
        return (events, encoded, False) if events else None
