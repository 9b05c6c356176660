"""A ledger full of finished events, and the time of one sweep and one feed page in it.

Owns: the finished events, and the timing. All goes through the ledger's own methods. Never does:
leave an event due.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from delivery.bench.processes import BenchFailed
from delivery.domain.channels import Channel
from delivery.domain.event import AGENT_TYPES, Event, EventClass
from delivery.domain.lifecycle import Confirmation
from delivery.domain.policy import ClassPolicy
from delivery.domain.records import Entry
from delivery.emitter.validate import new_event_id
from delivery.ledger import SqlLedger

READER = "reader"
"""The user whose feed is read: has finished events like the others, and gets no load."""
DEVICE = "phone"
BATCH = 5_000
PER_RUN = 100
"""Events of each finished run."""
DUE = 100
PAGE = 100
POLICY = ClassPolicy(EventClass.CRITICAL)


def fill(
    ledger: SqlLedger, *, events: int, users: int, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Record finished events, spread evenly over the users of a load and the reader.

    Args:
        tell: called with the count so far after each batch.
    """
    names = [*(f"user-{user}" for user in range(users)), READER]
    started = time.perf_counter()
    for start in range(0, events, BATCH):
        numbers = range(start, min(events, start + BATCH))
        ledger.recording.commit([_finished(number, names) for number in numbers])
        tell(numbers.stop)
    took = time.perf_counter() - started
    return {"finished": events, "fill_s": took, "filled_per_s": events / took if events else 0.0}


def _finished(number: int, names: Sequence[str]) -> Entry:
    user_id, before = names[number % len(names)], number // len(names)
    return _confirmed(_event(user_id, f"past-{before // PER_RUN}", before % PER_RUN + 1))


def probe(ledger: SqlLedger, *, samples: int) -> dict[str, Any]:
    """Milliseconds of one sweep of ``DUE`` events and of one page of a feed: medians."""
    return {"sweep_ms": _sweep_ms(ledger, samples), "feed_ms": _feed_ms(ledger, samples)}


def _sweep_ms(ledger: SqlLedger, samples: int) -> float:
    found = []
    for number in range(samples + 1):
        due = [
            _entry(_event("swept", f"due-{number}-{new_event_id()}", seq), hand_over=True)
            for seq in range(1, DUE + 1)
        ]
        ledger.recording.commit(due)
        started = time.perf_counter()
        swept = ledger.chain.sweep(DUE)
        found.append(time.perf_counter() - started)
        if len(swept.due) != DUE:
            raise BenchFailed(f"{len(swept.due)} of {DUE} due events were swept: no figures")
        ledger.confirmations.confirm([_confirmation(entry.event) for entry in due])
    return _median_ms(found)


def _feed_ms(ledger: SqlLedger, samples: int) -> float:
    """Feed of a client that comes back: half of its page is confirmed, half is open."""
    run_id = f"feed-{new_event_id()}"
    events = [_event(READER, run_id, seq) for seq in range(1, PAGE + 1)]
    handled, waiting = events[: PAGE // 2], events[PAGE // 2 :]
    ledger.recording.commit([_confirmed(event) for event in handled])
    ledger.recording.commit([_entry(event, sent=True) for event in waiting])
    found = []
    for _ in range(samples + 1):
        started = time.perf_counter()
        owed, _ = ledger.feed.page(READER, handled[-1].id, by=DEVICE, limit=PAGE)
        found.append(time.perf_counter() - started)
        if len(owed) != PAGE:
            raise BenchFailed(f"a page held {len(owed)} of {PAGE} events: no figures")
    ledger.confirmations.confirm([_confirmation(event) for event in waiting])
    return _median_ms(found)


def _median_ms(seconds: Sequence[float]) -> float:
    """Median without the first, which opens connections and fills caches."""
    return statistics.median(seconds[1:]) * 1_000.0


def _event(user_id: str, run_id: str, seq: int) -> Event:
    return Event.of(
        id=new_event_id(),
        type=AGENT_TYPES[seq % len(AGENT_TYPES)],
        user_id=user_id,
        run_id=run_id,
        seq=seq,
        at=datetime.now(UTC),
        event_class=EventClass.CRITICAL,
        data={"text": "x" * 100},
    )


def _entry(event: Event, *, hand_over: bool = False, sent: bool = False) -> Entry:
    return Entry(event, POLICY.ack_timeout, POLICY.ttl, sent=sent, hand_over=hand_over)


def _confirmed(event: Event) -> Entry:
    return Entry(
        event, POLICY.ack_timeout, POLICY.ttl, sent=True, confirmations=[_confirmation(event)]
    )


def _confirmation(event: Event) -> Confirmation:
    return Confirmation(event.id, event.user_id, Channel.WEBSOCKET, DEVICE, "bench")
