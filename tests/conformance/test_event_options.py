"""What a caller chose for an event: recorded, compared, replayed, on every database."""

from __future__ import annotations

from typing import Any

import pytest

from delivery.domain.event import Event, EventClass
from delivery.domain.options import Options
from delivery.domain.records import Entry, Recorded
from delivery.ledger import SqlLedger
from delivery.testing import make_entry, make_event, make_id, make_policies

ORDERS = EventClass("orders")


def plain_event(number: int) -> Event:
    return make_event(id=make_id(number), seq=None)


def chosen(**options: Any) -> Entry:
    """An entry whose caller chose some options."""
    event_class = EventClass(options.get("event_class") or "standard")
    made = make_entry(plain_event(1).evolve(event_class=event_class))
    if options:
        made.choose(Options(**options))
    return made


def test_what_a_caller_chose_reads_back(ledger: SqlLedger) -> None:
    ledger.recording.commit(
        [chosen(event_class="orders", ttl=60.5, group="é \\ g"), make_entry(plain_event(2))]
    )
    [found, plain] = ledger.events.read([make_id(1), make_id(2)])
    assert found.event.event_class == ORDERS
    assert found.options == Options(event_class="orders", ttl=60.5, group="é \\ g")
    assert (found.expires_at - found.recorded_at).total_seconds() == 60.5
    assert plain.options is None
    [owed], _ = ledger.feed.page("u1", None, by="c1", limit=1)
    assert owed.event == found.event


SAME = [
    ({}, {}),
    ({"event_class": "orders"}, {"event_class": "orders"}),
    ({"ttl": 60.0}, {"ttl": 60.0}),
    ({"group": "g"}, {"group": "g"}),
    ({}, {"event_class": "standard"}),
]
OTHER = [
    ({}, {"event_class": "orders"}),
    ({"event_class": "orders"}, {}),
    ({"event_class": "orders"}, {"event_class": "critical"}),
    ({}, {"ttl": 60.0}),
    ({"ttl": 60.0}, {}),
    ({"ttl": 60.0}, {"ttl": 61.0}),
    ({}, {"group": "g"}),
    ({"group": "g"}, {"group": "h"}),
]


@pytest.mark.parametrize("in_one_batch", [False, True])
def test_what_a_caller_chose_is_part_of_the_content(ledger: SqlLedger, in_one_batch: bool) -> None:
    for number, (first, second) in enumerate((*SAME, *OTHER)):
        pair = [chosen(**first), chosen(**second)]
        for one in pair:
            one.event = one.event.evolve(id=make_id(number))
        if in_one_batch:
            _, answer = ledger.recording.commit(pair)
        else:
            ledger.recording.commit(pair[:1])
            [answer] = ledger.recording.commit(pair[1:])
        wanted = Recorded.DUPLICATE if number < len(SAME) else Recorded.CONFLICT
        assert answer.outcome is wanted, (first, second)


def test_a_type_that_moved_to_another_class_makes_no_conflict(ledger: SqlLedger) -> None:
    ledger.recording.commit([chosen()])
    again = chosen()
    again.event = again.event.evolve(event_class=ORDERS)
    [answer] = ledger.recording.commit([again])
    assert answer.outcome is Recorded.DUPLICATE


def test_a_replay_keeps_the_time_to_live_that_the_caller_chose(ledger: SqlLedger) -> None:
    policies = make_policies(orders={"ttl": 3_600.0})
    gone = make_event(id=make_id(3), seq=None, event_class=EventClass("gone"))
    ledger.recording.commit([chosen(event_class="orders", ttl=60.0), make_entry(gone)])
    ids = [make_id(1), make_id(3)]
    assert ledger.operations.replay(ids, policies=policies, actor="test") == ids
    lives = {
        stored.event.id: (stored.expires_at - stored.due_at).total_seconds()
        for stored in ledger.events.read(ids)
        if stored.due_at is not None
    }
    assert lives == {make_id(1): 55.0, make_id(3): policies.of(EventClass.STANDARD).ttl - 5.0}
