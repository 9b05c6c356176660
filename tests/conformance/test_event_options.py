"""What a caller chose for an event: recorded, compared, replayed, on every database."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import State
from delivery.domain.options import Options
from delivery.domain.records import Entry, Recorded
from delivery.ledger import SqlLedger
from delivery.testing import START, make_entry, make_event, make_id, make_policies

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
    ({"not_before": START}, {"not_before": START.astimezone(timezone(timedelta(hours=2)))}),
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
    ({}, {"not_before": START}),
    ({"not_before": START}, {"not_before": START + timedelta(microseconds=1)}),
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


def held(ledger: SqlLedger, seconds: float, number: int = 1, **options: Any) -> datetime:
    """Record an event that is held back for so long; returns until when."""
    with ledger.database.read() as connection:
        now = ledger.database.now(connection)
    until = now + timedelta(seconds=seconds)
    made = make_entry(plain_event(number).evolve(at=now), hand_over=options.pop("hand_over", False))
    made.choose(Options(not_before=until, **options))
    ledger.recording.commit([made])
    return until


def fed(ledger: SqlLedger) -> list[str]:
    """Ids that a client gets that connects now, and one that comes back."""
    anew, _ = ledger.feed.page("u1", None, by="c1", limit=9)
    back, _ = ledger.feed.page("u1", timedelta(hours=1), by="c1", limit=9)
    assert anew == back
    return [owed.event.id for owed in anew]


@pytest.mark.parametrize("hand_over", [False, True])
def test_an_event_that_is_held_back_reaches_no_one_before(
    ledger: SqlLedger, advance: Any, hand_over: bool
) -> None:
    until = held(ledger, 600.0, ttl=60.0, hand_over=hand_over)
    [stored] = ledger.events.read([make_id(1)])
    assert (stored.state, stored.due_at) == (State.ACCEPTED, until)
    assert stored.expires_at == until + timedelta(seconds=60)
    advance(500)
    swept = ledger.chain.sweep()
    assert (swept.due, swept.released, swept.expired) == ((), (), 0)
    assert fed(ledger) == []
    advance(101)
    assert fed(ledger) == [make_id(1)]
    swept = ledger.chain.sweep(ack_timeout=lambda _: 7.0)
    assert (swept.due, swept.released) == ((), ("u1",))
    advance(6)
    assert ledger.chain.sweep().due == ()
    advance(2)
    assert [due.id for due in ledger.chain.sweep().due] == [make_id(1)]
    assert ledger.chain.sweep().released == ()


def test_a_replay_does_not_hurry_an_event_that_is_held_back(ledger: SqlLedger) -> None:
    until = held(ledger, 600.0, ttl=60.0)
    ledger.operations.replay([make_id(1)], policies=make_policies(), actor="test")
    [stored] = ledger.events.read([make_id(1)])
    assert (stored.due_at, stored.expires_at) == (until, until + timedelta(seconds=60))
    assert fed(ledger) == []


def test_a_message_lists_no_event_that_is_held_back(ledger: SqlLedger, advance: Any) -> None:
    opener = make_entry(plain_event(2), hand_over=True)
    ledger.recording.commit([opener])
    held(ledger, 600.0)
    [claim] = ledger.chain.claim([make_id(2)], 60.0)
    digest = ledger.digests.join(claim, "email", by=("user_id",), window=1.0, min_interval=0.0)
    advance(2)
    sending = ledger.digests.claim(digest.id, 60.0)
    assert sending is not None
    assert [member.event.id for member in sending.members] == [make_id(2)]


def test_an_event_spooled_until_its_instant_passed_is_released_at_once(
    ledger: SqlLedger, advance: Any
) -> None:
    with ledger.database.read() as connection:
        now = ledger.database.now(connection)
    made = make_entry(plain_event(1).evolve(at=now - timedelta(hours=1)), hand_over=True)
    made.choose(Options(not_before=now - timedelta(minutes=1), ttl=60.0))
    ledger.recording.commit([made], drained=True)
    assert ledger.chain.sweep().released == ("u1",)
    [stored] = ledger.events.read([make_id(1)])
    assert stored.expires_at >= now + timedelta(seconds=60)
