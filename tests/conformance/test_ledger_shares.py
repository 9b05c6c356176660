"""Users take turns: one user's flood of unconfirmed events delays no other user's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, State
from delivery.domain.records import HandedOn
from delivery.ledger import SqlLedger
from delivery.ledger.sql.tables import events
from delivery.ledger.stores.fallback import shares
from delivery.tasks.sweep import Sweeper
from delivery.testing import make_entry, make_event, make_policies
from tests.conformance.chain_calls import move

SHARE, EXTERNAL_SHARE = 40, 10
FLOOD = 3 * SHARE
POLICIES = make_policies(
    critical={"chain": [{"channel": "database"}, {"channel": "email"}]},
    auth={"chain": [{"channel": "direct"}]},
)


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SHARE", SHARE)
    monkeypatch.setattr(shares, "EXTERNAL_SHARE", EXTERNAL_SHARE)


class Queue:
    """What was published: ids in order, by channel."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = {}

    def publish(self, channel: str, ids: Sequence[str], priority: object = None) -> None:
        self.ids.setdefault(channel, []).extend(ids)

    def take(self, channel: str) -> list[str]:
        return self.ids.pop(channel, [])


def flood(
    ledger: SqlLedger, user: str, count: int, kind: EventClass = EventClass.CRITICAL, **entry: Any
) -> list[str]:
    """Events of one user that were handed over, in order."""
    made = [
        make_event(
            id=str(uuid_utils.uuid7()),
            type="agent_completed",
            user_id=user,
            run_id=f"run-{number}",
            seq=None,
            at=datetime.now(UTC),
            event_class=kind,
        )
        for number in range(count)
    ]
    options: dict[str, Any] = {"ttl": 86_400.0, "hand_over": True} | entry
    ledger.recording.commit([make_entry(event, **options) for event in made])
    return [event.id for event in made]


def swept(ledger: SqlLedger, queue: Queue, channel: str = "database") -> list[str]:
    """What one sweep publishes."""
    Sweeper(ledger, POLICIES, queue).sweep()
    return queue.take(channel)


def test_an_event_behind_a_flood_waits_for_one_share_of_it(ledger: SqlLedger, advance: Any) -> None:
    many = flood(ledger, "loud", FLOOD)
    advance(1.0)
    [one] = flood(ledger, "quiet", 1)
    queue = Queue()
    Sweeper(ledger, POLICIES, queue, page=10).sweep()
    assert queue.take("database") == [*many[:SHARE], one]


def test_in_one_page_users_alternate(ledger: SqlLedger, advance: Any) -> None:
    flood(ledger, "loud", SHARE)
    advance(1.0)
    [one] = flood(ledger, "quiet", 1)
    assert swept(ledger, Queue()).index(one) == 1


def test_pushed_events_whose_time_is_over_take_turns_as_well(
    ledger: SqlLedger, advance: Any
) -> None:
    many = flood(ledger, "loud", SHARE + 50, hand_over=False, sent=True)
    [one] = flood(ledger, "quiet", 1, hand_over=False, sent=True)
    advance(10.0)
    published = swept(ledger, Queue())
    assert sorted(published) == sorted([*many[:SHARE], one])
    waiting = ledger.events.get(many[-1])
    assert waiting is not None
    # It is on the chain, with its failed push on record, and does not count as overdue.
    assert waiting.stored.state is State.FALLING_BACK
    assert [attempt.outcome for attempt in waiting.attempts] == ["failed"]
    assert ledger.chain.oldest_overdue() == 0.0


def test_the_next_ones_are_published_as_earlier_ones_go_on(ledger: SqlLedger) -> None:
    many, queue = flood(ledger, "loud", FLOOD), Queue()
    assert swept(ledger, queue) == many[:SHARE]
    assert swept(ledger, queue) == []
    claims = ledger.chain.claim(many[:20], 60.0)
    assert swept(ledger, queue) == []  # a worker has them
    ledger.chain.finish_all([(claim, False) for claim in claims])
    assert swept(ledger, queue) == many[SHARE : SHARE + 20]
    confirmed = [Confirmation(i, "loud", "websocket", "loud", "c") for i in many[20 : SHARE + 5]]
    ledger.confirmations.confirm(confirmed)
    assert swept(ledger, queue) == many[SHARE + 20 : 2 * SHARE + 5]


def test_a_flood_ends_in_the_order_in_which_it_came(ledger: SqlLedger) -> None:
    many, queue, served = flood(ledger, "loud", FLOOD), Queue(), list[str]()
    while published := swept(ledger, queue):
        claims = ledger.chain.claim(published, 60.0)
        ledger.chain.finish_all([(claim, False) for claim in claims])
        served += published
    assert served == many


def test_every_user_whose_events_wait_has_a_turn(ledger: SqlLedger) -> None:
    queue = Queue()
    floods = {user: flood(ledger, user, SHARE + 10) for user in ("a", "b", "c")}
    swept(ledger, queue)
    for many in floods.values():
        ledger.confirmations.confirm(
            [Confirmation(i, user, "websocket", user, "c") for user in floods for i in many[:SHARE]]
        )
    # Pages smaller than what one of them waits for: the sweeper goes on with the next one.
    sweeper, turns = Sweeper(ledger, POLICIES, queue, page=4, max_seconds=0.0), list[str]()
    for _ in range(9):
        sweeper.sweep()
        turns += queue.take("database")
    owner = {event_id: user for user, many in floods.items() for event_id in many}
    assert Counter(owner[event_id] for event_id in turns) == {"a": 10, "b": 10, "c": 10}


def test_what_is_handed_on_takes_turns_at_the_next_channel(ledger: SqlLedger) -> None:
    queue = Queue()
    many = flood(ledger, "loud", EXTERNAL_SHARE + 20)
    [one] = flood(ledger, "quiet", 1)
    claims = ledger.chain.claim([*many, one], 60.0)
    answers = ledger.chain.hand_on_all([(claim, "email") for claim in claims], 5.0)
    handed = dict(zip((claim.id for claim in claims), answers, strict=True))
    assert [handed[event_id] for event_id in many[:EXTERNAL_SHARE]] == (
        [HandedOn.PUBLISH] * EXTERNAL_SHARE
    )
    assert {handed[event_id] for event_id in many[EXTERNAL_SHARE:]} == {HandedOn.WAITS}
    assert handed[one] is HandedOn.PUBLISH
    done = ledger.chain.claim(many[:EXTERNAL_SHARE], 60.0)
    ledger.chain.finish_all([(claim, False) for claim in done])
    assert swept(ledger, queue, "email") == many[EXTERNAL_SHARE : 2 * EXTERNAL_SHARE]


def test_a_lost_claim_hands_nothing_on(ledger: SqlLedger) -> None:
    [one] = flood(ledger, "quiet", 1)
    [claim] = ledger.chain.claim([one], 60.0)
    ledger.confirmations.confirm([Confirmation(one, "quiet", "websocket", "quiet", "c")])
    assert ledger.chain.hand_on_all([(claim, "email")], 5.0) == [HandedOn.LOST]
    assert ledger.chain.hand_on_all([], 5.0) == []


def test_a_step_that_goes_no_further_holds_up_no_other_step_of_its_user(
    ledger: SqlLedger, advance: Any
) -> None:
    queue = Queue()
    many = flood(ledger, "loud", EXTERNAL_SHARE + 20)
    for claim in ledger.chain.claim(many, 60.0):  # and no worker serves mails
        move(ledger, claim, "email", ledger.now())
    advance(1.0)
    assert len(swept(ledger, queue, "email")) == EXTERNAL_SHARE
    [later] = flood(ledger, "loud", 1)
    [sign_in] = flood(ledger, "loud", 1, EventClass.AUTH)
    assert swept(ledger, queue) == [later]
    assert queue.take("direct") == [sign_in]


def test_a_lost_message_is_published_again_before_others_of_its_user(
    ledger: SqlLedger, advance: Any
) -> None:
    many, queue = flood(ledger, "loud", SHARE + 5), Queue()
    first = swept(ledger, queue)
    advance(6.0)
    assert sorted(swept(ledger, queue)) == sorted(first) == sorted(many[:SHARE])


def test_what_waits_expires_like_any_other(ledger: SqlLedger, advance: Any) -> None:
    many, queue = flood(ledger, "loud", SHARE + 5, ttl=30.0), Queue()
    swept(ledger, queue)
    advance(31.0)
    assert Sweeper(ledger, POLICIES, queue).sweep().expired == SHARE + 5
    [last] = ledger.events.read(many[-1:])
    assert last.state is State.EXPIRED


def test_a_replay_of_what_waits_starts_anew(ledger: SqlLedger, advance: Any) -> None:
    many, queue = flood(ledger, "loud", SHARE + 5), Queue()
    swept(ledger, queue)
    assert ledger.operations.replay(many[-1:], policies=POLICIES) == many[-1:]
    ledger.confirmations.confirm(
        [Confirmation(i, "loud", "websocket", "loud", "c") for i in many[:-1]]
    )
    assert swept(ledger, queue) == []
    advance(10.0)
    assert swept(ledger, queue) == many[-1:]


def test_pages_of_what_waits_are_looked_at_again_at_instants_of_their_own(
    ledger: SqlLedger,
) -> None:
    floods = [flood(ledger, user, SHARE + 1) for user in ("loud", "noisy", "shrill")]
    now = ledger.now()
    for _ in floods:
        Sweeper(ledger, POLICIES, Queue(), page=SHARE + 1).sweep()
    due = {one.due_at for many in floods for one in ledger.events.read(many[-1:])}
    assert len(due) == len(floods)
    assert all(one and shares.LOOK_AGAIN <= one - now <= 3 * shares.LOOK_AGAIN for one in due)


def test_a_process_of_an_earlier_release_serves_what_waits(ledger: SqlLedger, advance: Any) -> None:
    many, queue = flood(ledger, "loud", SHARE + 1), Queue()
    swept(ledger, queue)
    [last] = ledger.events.read(many[-1:])
    assert last.due_at is not None
    advance((last.due_at - ledger.now()).total_seconds() + 1.0)
    with ledger.database.read() as connection:
        due = connection.execute(sa.select(events.c.id).where(events.c.due_at <= ledger.now()))
        assert many[-1] in due.scalars().all()


@pytest.mark.parametrize(
    ("name", "share"), [("auth/", SHARE), ("standard/queue", SHARE), ("auth/sms", EXTERNAL_SHARE)]
)
def test_a_share_is_smaller_where_a_provider_is_called(name: str, share: int) -> None:
    assert shares.share_of(("u", name)) == share


def test_the_cost_of_a_turn_does_not_grow_with_what_waits(ledger: SqlLedger) -> None:
    """Each query of a release reads an index of what is published, or of what waits."""
    if not ledger.database.is_sqlite:
        pytest.skip("PostgreSQL plans by statistics; benchmarks measure it")
    many, queue = flood(ledger, "loud", SHARE + 5), Queue()
    swept(ledger, queue)
    ledger.confirmations.confirm([Confirmation(many[0], "loud", "websocket", "loud", "c")])
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            plan = connection.connection.driver_connection.execute(
                "EXPLAIN QUERY PLAN " + statement, values
            )
            plans.extend(str(row[-1]) for row in plan if " events" in str(row[-1]))

    sa.event.listen(ledger.database.engine, "before_cursor_execute", explain)
    try:
        assert ledger.chain.next_turns(10).due
    finally:
        sa.event.remove(ledger.database.engine, "before_cursor_execute", explain)
    assert plans
    assert all("ix_events_turn" in plan or "ix_events_published" in plan for plan in plans)
