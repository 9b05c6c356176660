"""Deletion of ended events, and replay page by page, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from delivery.domain.lifecycle import Confirmation, Outcome, State
from delivery.domain.policy import parse_policies
from delivery.domain.records import EventFilter, Result
from delivery.ledger import SqlLedger
from delivery.ledger.sql.tables import attempts, confirmations
from delivery.testing import make_entry, make_event
from tests.conformance.chain_calls import begin, end, finish
from tests.unit.tasks.fakes import make_event as fresh_event

POLICIES = parse_policies({})
DAY = 86_400.0


def record(ledger: SqlLedger, count: int = 1) -> list[str]:
    """Events on the chain, in order."""
    events = [fresh_event() for _ in range(count)]
    ledger.recording.commit([make_entry(event, hand_over=True, ttl=1e7) for event in events])
    return [event.id for event in events]


def confirm(ledger: SqlLedger, ids: list[str]) -> None:
    ledger.confirmations.confirm([Confirmation(i, "u", "websocket", "u", "c") for i in ids])


def kill(ledger: SqlLedger, ids: list[str]) -> None:
    for claim in ledger.chain.claim(ids, 60.0):
        assert begin(ledger, claim, "email", 1)
        assert end(ledger, claim, "email", 1, Result(Outcome.FAILED))
        assert finish(ledger, claim, alerted=True)


def present(ledger: SqlLedger, ids: list[str]) -> list[bool]:
    return [ledger.events.get(event_id) is not None for event_id in ids]


def purge_all(ledger: SqlLedger, limit: int = 1_000, **days: float) -> dict[State, int]:
    now, after = ledger.now(), -1
    before = {State(name): now - timedelta(days=value) for name, value in days.items()}
    deleted: dict[State, int] = {}
    while True:
        step = ledger.retention.purge(before, after=after, limit=limit)
        for ended, count in step.deleted.items():
            deleted[ended] = deleted.get(ended, 0) + count
        if step.after is None:
            return deleted
        after = step.after


def test_each_state_is_kept_for_its_own_time(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    old = record(ledger, 3)
    confirm(ledger, old[:1])
    kill(ledger, old[1:2])
    advance(40 * DAY)
    young = record(ledger, 2)
    confirm(ledger, young[:1])
    kill(ledger, young[1:])
    assert purge_all(ledger, confirmed=30, dead=365) == {State.CONFIRMED: 1}
    assert present(ledger, old + young) == [False, True, True, True, True]
    assert purge_all(ledger, confirmed=30, dead=30) == {State.DEAD: 1}
    assert present(ledger, old + young) == [False, False, True, True, True], "open ones stay"


def test_the_rows_of_an_event_go_with_it(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ids = record(ledger, 2)
    kill(ledger, ids)
    confirm(ledger, ids)
    advance(2 * DAY)
    assert purge_all(ledger, confirmed=1) == {State.CONFIRMED: 2}
    with ledger.database.read() as connection:
        for table in (attempts, confirmations):
            left = sa.select(sa.func.count()).select_from(table)
            assert connection.execute(left).scalar_one() == 0


def test_a_walk_in_small_steps_reaches_everything_once(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ids = record(ledger, 10)
    confirm(ledger, ids[::2])
    advance(2 * DAY)
    assert purge_all(ledger, limit=3, confirmed=1) == {State.CONFIRMED: 5}
    assert present(ledger, ids) == [False, True] * 5


def test_a_walk_ends_at_a_window_of_young_events(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    record(ledger, 2)
    advance(2 * DAY)
    record(ledger, 6)
    before = {State.CONFIRMED: ledger.now() - timedelta(days=1)}
    first = ledger.retention.purge(before, limit=2)
    assert first.after is not None
    assert ledger.retention.purge(before, after=first.after, limit=2).after is None


def test_a_dry_run_counts_and_deletes_nothing(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ids = record(ledger, 2)
    confirm(ledger, ids)
    advance(2 * DAY)
    step = ledger.retention.purge({State.CONFIRMED: ledger.now()}, dry_run=True)
    assert step.deleted == {State.CONFIRMED: 2}
    assert present(ledger, ids) == [True, True]


def test_events_that_wait_for_their_user_cannot_be_purged(ledger: SqlLedger) -> None:
    with pytest.raises(ValueError, match="parked"):
        ledger.retention.purge({State.PARKED: ledger.now()})


def test_a_dead_event_that_is_being_replayed_is_left_alone(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ids = record(ledger, 2)
    kill(ledger, ids)
    advance(2 * DAY)
    ledger.operations.replay(ids[:1], policies=POLICIES)
    assert purge_all(ledger, dead=1) == {State.DEAD: 1}
    assert present(ledger, ids) == [True, False]


def test_commits_go_on_while_old_events_are_deleted(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    old = record(ledger, 3_000)
    confirm(ledger, old)
    advance(2 * DAY)
    done = threading.Event()
    slowest = [0.0]
    committed: list[str] = []

    def produce() -> None:
        while not done.is_set():
            begun = time.monotonic()
            committed.extend(record(ledger, 10))
            slowest[0] = max(slowest[0], time.monotonic() - begun)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        assert purge_all(ledger, limit=500, confirmed=1) == {State.CONFIRMED: 3_000}
    finally:
        done.set()
        producer.join(30)
    assert committed
    assert all(present(ledger, committed[:50]))
    assert slowest[0] < 4.0, "a commit waits for a step at most, and never for the whole purge"


def test_a_replay_goes_page_by_page_through_all_that_matches(ledger: SqlLedger) -> None:
    ids = record(ledger, 7)
    kill(ledger, ids)
    dead = EventFilter(state=State.DEAD)
    replay = ledger.operations.replay
    assert replay(dead, policies=POLICIES, dry_run=True, limit=3) == ids[:3]
    assert replay(dead, policies=POLICIES, limit=3) == ids[:3]
    assert replay(dead, policies=POLICIES, limit=3, after=ids[2]) == ids[3:6]
    assert replay(dead, policies=POLICIES, limit=3, after=ids[5]) == ids[6:]
    assert replay(dead, policies=POLICIES) == []
    again = EventFilter(state=State.ACCEPTED)
    assert replay(again, policies=POLICIES, limit=7, after=ids[6]) == [], "no page comes twice"


def test_a_page_after_an_event_that_is_not_there_is_refused(ledger: SqlLedger) -> None:
    for nowhere in (make_event().id, "nonsense"):
        with pytest.raises(ValueError, match="page before"):
            ledger.operations.replay(EventFilter(), policies=POLICIES, after=nowhere)
