"""A search looks through a bounded number of events at once, and finds all of them in the end."""

from datetime import UTC, datetime, timedelta

import pytest
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, Outcome, State
from delivery.domain.policy import parse_policies
from delivery.domain.records import EventFilter, Matches
from delivery.ledger import SqlLedger
from delivery.testing import make_entry, make_event

POLICIES = parse_policies({})


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "delivery.ledger.stores.operators.search"
    monkeypatch.setattr(f"{module}.WINDOW", 3)
    monkeypatch.setattr(f"{module}.MAX_WINDOWS", 2)
    monkeypatch.setattr(f"{module}.MAX_COUNT", 4)


def record(ledger: SqlLedger, number: int, user: str = "ada", **fields: object) -> str:
    """One event that could not be pushed."""
    made = make_event(
        id=str(uuid_utils.uuid7()), user_id=user, run_id=f"run {user}", seq=None, **fields
    )
    pushes = [(Outcome.FAILED, f"no {number}% room_{number}")]
    ledger.recording.commit([make_entry(made, hand_over=True, pushes=pushes)])
    return made.id


def found(ledger: SqlLedger, which: EventFilter, limit: int = 50) -> tuple[list[str], int]:
    """All matching ids, from the newest on, and in how many pages."""
    ids: list[str] = []
    pages, after = 0, None
    while pages == 0 or after is not None:
        page, after = ledger.events.find(which, after=after, limit=limit)
        ids += [one.event.id for one in page]
        pages += 1
    return ids, pages


def test_every_page_goes_on_where_the_last_one_stopped_looking(ledger: SqlLedger) -> None:
    rare = [record(ledger, 1, "rare bird"), record(ledger, 2, "rare_bird")]
    others = [record(ledger, n, "grace") for n in range(20)]
    assert found(ledger, EventFilter(user_prefix="rare"))[0] == rare[::-1]
    assert found(ledger, EventFilter(user_prefix="rare"))[1] > 2
    assert found(ledger, EventFilter(user_prefix="Rare"))[0] == []  # on both databases
    assert found(ledger, EventFilter(user_prefix="rare_"))[0] == rare[1:]
    assert found(ledger, EventFilter(run_prefix="run g"), limit=5)[0] == others[::-1]
    assert found(ledger, EventFilter(type="note"), limit=4)[0] == [*others[::-1], *rare[::-1]]
    assert found(ledger, EventFilter(id_prefix=rare[0]))[0] == rare[:1]
    # An index leads to a user's, a run's and the unconfirmed ones.
    assert found(ledger, EventFilter(user_id="rare bird")) == (rare[:1], 1)
    assert found(ledger, EventFilter(run_id="run rare_bird"))[0] == rare[1:]
    assert found(ledger, EventFilter(run_id="no such run")) == ([], 1)


def test_attempts_errors_and_confirmations_are_found(ledger: SqlLedger) -> None:
    ids = [record(ledger, n) for n in range(4)]
    ledger.confirmations.confirm([Confirmation(ids[0], "ada", "email", "ada", "link")])
    assert found(ledger, EventFilter(error="NO 2% ROOM_2"))[0] == ids[2:3]
    assert found(ledger, EventFilter(error="%"))[0] == ids[::-1]
    assert found(ledger, EventFilter(error="no_2"))[0] == []
    assert found(ledger, EventFilter(channel="email"))[0] == ids[:1]
    assert found(ledger, EventFilter(channel="email", error="no"))[0] == []
    assert found(ledger, EventFilter(channel="websocket", state=State.CONFIRMED))[0] == ids[:1]
    assert found(ledger, EventFilter(state=State.FALLING_BACK, error="room"))[0] == ids[:0:-1]
    assert found(ledger, EventFilter(event_class=EventClass("orders")))[0] == []


def test_a_time_is_found_among_many(ledger: SqlLedger) -> None:
    now = datetime.now(UTC)
    ids = [record(ledger, n, at=now - timedelta(minutes=20 - n)) for n in range(20)]
    between = EventFilter(since=now - timedelta(minutes=15), until=now - timedelta(minutes=13))
    assert found(ledger, between)[0] == [ids[6], ids[5]]
    assert found(ledger, EventFilter(since=now + timedelta(days=3))) == ([], 1)
    assert found(ledger, EventFilter(until=now - timedelta(days=3)))[0] == []


def test_a_count_says_whether_it_is_all(ledger: SqlLedger) -> None:
    assert ledger.events.count(EventFilter()) == Matches(0, is_exact=True)
    for n in range(3):
        record(ledger, n, "grace")
    assert ledger.events.count(EventFilter(user_prefix="gr")) == Matches(3, is_exact=True)
    for n in range(6):
        record(ledger, n)
    assert ledger.events.count(EventFilter()) == Matches(4, is_exact=False)
    assert ledger.events.count(EventFilter(user_prefix="gr")) == Matches(0, is_exact=False)
    assert ledger.events.count(EventFilter(user_id="grace")) == Matches(3, is_exact=True)


def test_a_replay_looks_through_all_events(ledger: SqlLedger) -> None:
    ids = [record(ledger, n, "ada" if n % 5 else "grace") for n in range(13)]
    mine = EventFilter(user_prefix="gr", since=datetime.now(UTC) - timedelta(days=400))
    dry = ledger.operations.replay(mine, policies=POLICIES, dry_run=True)
    assert dry == ids[::5]
    assert ledger.operations.replay(mine, policies=POLICIES, limit=2) == ids[:6:5]
    assert ledger.operations.replay(mine, policies=POLICIES, after=ids[5]) == ids[10::5]
    assert ledger.operations.replay([ids[1]], policies=POLICIES) == [ids[1]]
    assert ledger.operations.replay([], policies=POLICIES) == []
