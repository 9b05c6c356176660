"""The promises of the webhook store: each outcome is told once, and none is missed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.event import Event, EventClass
from delivery.domain.lifecycle import Confirmation, Outcome, State
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import Suppress
from delivery.domain.webhooks.endpoints import Endpoint, WebhookKind
from delivery.domain.webhooks.messages import FIRST_SPAN, EndpointLease, WebhookAnswer, WebhookRow
from delivery.ledger import SqlLedger
from delivery.ledger.sql.webhook_tables import outcomes, webhook_attempts, webhook_messages
from delivery.ledger.stores.confirmations import store_confirmations
from delivery.testing import make_entry, make_event
from tests.conformance.chain_calls import finish

TAKEN = WebhookAnswer(Outcome.DELIVERED, 200)
REFUSED = WebhookAnswer(Outcome.FAILED, 500, "500")
LEASE = 60.0


def endpoint(name: str = "app", **changes: Any) -> Endpoint:
    return Endpoint(name, "https://app.example.org", b"k" * 32, **changes)


APP = endpoint()


def record(ledger: SqlLedger, **changes: Any) -> Event:
    """An event that waits for its user."""
    values: dict[str, Any] = {"id": str(uuid_utils.uuid7()), "seq": None, "at": datetime.now(UTC)}
    event = make_event(**(values | changes))
    ledger.recording.commit([make_entry(event)])
    return event


def confirm(ledger: SqlLedger, event: Event, by: str = "phone") -> None:
    ledger.confirmations.confirm([Confirmation(event.id, event.user_id, "websocket", by, "c1")])


def end_chain(ledger: SqlLedger, event: Event, *, alerted: bool) -> None:
    ledger.operations.hand_over([event.id], "nobody connected")
    [claim] = ledger.chain.claim([event.id], LEASE)
    assert finish(ledger, claim, alerted=alerted)


def follow(ledger: SqlLedger, told: Endpoint = APP, limit: int = 1_000) -> int:
    """Follow until nothing is new; the number of messages that were written."""
    written, span = 0, FIRST_SPAN
    for _ in range(100):
        step = ledger.webhooks.follow(told, span, limit)
        written, span = written + step.written, step.span
        if not step.is_behind:
            return written
    raise AssertionError("it never ends")


def told(ledger: SqlLedger, name: str = "app") -> list[tuple[str, str]]:
    """(kind, subject) of all messages, oldest first."""
    rows = reversed(ledger.webhooks.messages(name, limit=1_000))
    return [(row.message.kind.value, row.message.subject) for row in rows]


def leased(ledger: SqlLedger, name: str = "app") -> EndpointLease:
    found = ledger.webhooks.lease(name, LEASE)
    assert found is not None
    return found


def attempt(ledger: SqlLedger, answer: WebhookAnswer, name: str = "app") -> str | None:
    """Send the one message that is due; why the endpoint was switched off by it."""
    lease = leased(ledger, name)
    [message] = ledger.webhooks.due(lease, 1)
    assert ledger.webhooks.begin(lease, [message])
    reason = ledger.webhooks.end(lease, message, answer, 0.0)
    ledger.webhooks.release(lease)
    return reason


def latest(ledger: SqlLedger) -> WebhookRow:
    return ledger.webhooks.messages("app", limit=1)[0]


def test_each_outcome_is_told_once(ledger: SqlLedger, advance: Callable[[float], None]) -> None:
    ledger.webhooks.register(["app"])
    seen, parked, dead, over = (record(ledger, user_id=name) for name in ("a", "b", "c", "d"))
    confirm(ledger, seen)
    confirm(ledger, seen, by="tablet")
    at_once = make_event(id=str(uuid_utils.uuid7()), seq=None, at=datetime.now(UTC))
    confirmation = Confirmation(at_once.id, at_once.user_id, "websocket", "phone", "c1")
    ledger.recording.commit([make_entry(at_once, confirmations=[confirmation])])
    end_chain(ledger, parked, alerted=False)
    end_chain(ledger, dead, alerted=True)
    assert follow(ledger) == 4
    advance(4 * 86_400)
    ledger.chain.sweep()
    assert follow(ledger) == 2  # the parked one expires too
    for _ in range(3):
        advance(70)
        assert follow(ledger) == 0
    assert sorted(told(ledger)) == sorted(
        [
            ("event.confirmed", seen.id),
            ("event.confirmed", at_once.id),
            ("event.parked", parked.id),
            ("event.dead", dead.id),
            ("event.expired", over.id),
            ("event.expired", parked.id),
        ]
    )


def test_an_event_that_ends_again_after_a_replay_is_told_again(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    from delivery.testing import make_policies

    ledger.webhooks.register(["app"])
    event = record(ledger)
    end_chain(ledger, event, alerted=True)
    ledger.operations.replay([event.id], policies=make_policies())
    end_chain(ledger, event, alerted=True)
    assert follow(ledger) == 2
    rows = ledger.webhooks.messages("app")
    assert {row.message.generation for row in rows} == {1, 2}
    assert len({row.message.public_id for row in rows}) == 2


def test_many_outcomes_of_one_instant_are_told_page_by_page(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ledger.webhooks.register(["app"])
    made = [record(ledger) for _ in range(30)]
    for part in (made[:12], made[12:]):
        ledger.confirmations.confirm(
            [Confirmation(one.id, one.user_id, "websocket", "phone", "c1") for one in part]
        )
        advance(1)
    assert follow(ledger, limit=5) == 30
    assert sorted(subject for _, subject in told(ledger)) == sorted(one.id for one in made)


def test_an_endpoint_is_told_what_its_filters_choose(ledger: SqlLedger) -> None:
    chosen = endpoint(
        "chosen",
        events=frozenset({WebhookKind.CONFIRMED, WebhookKind.UNSUBSCRIBED}),
        types=("wanted",),
        classes=("critical",),
    )
    ledger.webhooks.register(["app", "chosen"])
    right = record(ledger, type="wanted", event_class=EventClass.CRITICAL)
    others = [
        record(ledger, type="wanted"),
        record(ledger, type="other", event_class=EventClass.CRITICAL),
    ]
    for one in (right, *others):
        confirm(ledger, one)
    end_chain(ledger, record(ledger, type="wanted", event_class=EventClass.CRITICAL), alerted=True)
    ledger.contacts.put(Contact("ada", email="ada@example.org"))
    ledger.contacts.opt_out("ada", "email")
    ledger.suppressions.add(
        "email",
        "ada@example.org",
        Suppress.HARD_BOUNCE,
        provider="ses",
        code="5.1.1",
        user_id="ada",
    )
    assert follow(ledger, chosen) == 2
    assert [kind for kind, _ in told(ledger, "chosen")] == [
        "event.confirmed",
        "contact.unsubscribed",
    ]
    assert told(ledger, "chosen")[0][1] == right.id
    assert follow(ledger) == 6


def test_what_is_told_has_the_documented_fields(ledger: SqlLedger) -> None:
    ledger.webhooks.register(["app"])
    event = record(ledger, thread_id="t1")
    confirm(ledger, event)
    ledger.contacts.put(Contact("ada", email="ada@example.org"))
    ledger.suppressions.add(
        "email",
        "ada@example.org",
        Suppress.SOFT_BOUNCE,
        provider="ses",
        code="4.2.2",
        user_id="ada",
    )
    ledger.contacts.opt_out("ada", "sms")
    follow(ledger)
    found = {one.kind: one for one in ledger.webhooks.due(leased(ledger), 10)}
    confirmed = dict(found[WebhookKind.CONFIRMED].data or {})
    assert confirmed.pop("confirmation") == {
        "channel": "websocket",
        "by": "phone",
        "at": confirmed_at(ledger, event),
    }
    assert confirmed.pop("at").startswith(str(event.at.date()))
    assert confirmed.pop("seq") == 1
    assert confirmed == {
        "id": event.id,
        "user_id": "u1",
        "run_id": "r1",
        "thread_id": "t1",
        "type": "note",
        "class": "standard",
        "state": "confirmed",
        "generation": 1,
    }
    bounced = dict(found[WebhookKind.BOUNCED].data or {})
    assert bounced.pop("at")
    assert bounced == {
        "user_id": "ada",
        "channel": "email",
        "address": "ada@example.org",
        "reason": "soft_bounce",
        "provider": "ses",
        "code": "4.2.2",
        "permanent": False,
    }
    refused = found[WebhookKind.UNSUBSCRIBED].data or {}
    assert (refused["user_id"], refused["channels"], refused["by"]) == ("ada", ["sms"], "link")


def confirmed_at(ledger: SqlLedger, event: Event) -> str:
    from delivery.domain.event import format_instant

    timeline = ledger.events.get(event.id)
    assert timeline is not None
    return format_instant(timeline.confirmations[0].at)


def test_a_commit_that_ends_late_is_told_too(
    open_ledger: Callable[[], SqlLedger], advance_databases: Callable[[float], None]
) -> None:
    ledger, other = open_ledger(), open_ledger()
    if ledger.database.is_sqlite:
        pytest.skip("SQLite has one writer: commits are in order of their instants")
    ledger.webhooks.register(["app"])
    slow, quick = record(ledger), record(ledger, user_id="u2")
    with other.database.write() as connection:
        store_confirmations(
            connection,
            [Confirmation(slow.id, slow.user_id, "websocket", "phone", "c1")],
            other.database.now(connection),
        )
        advance_databases(8)
        confirm(ledger, quick)
        assert follow(ledger) == 1
        advance_databases(8)
        assert follow(ledger) == 0
    assert follow(ledger) == 0
    advance_databases(60)
    assert follow(ledger) == 1
    assert sorted(subject for _, subject in told(ledger)) == sorted([slow.id, quick.id])


def test_nothing_is_recorded_while_there_is_no_endpoint(ledger: SqlLedger) -> None:
    end_chain(ledger, record(ledger), alerted=True)
    ledger.contacts.opt_out("ada", "email")
    with ledger.database.read() as connection:
        assert connection.execute(sa.select(outcomes)).all() == []


def test_an_attempt_whose_worker_was_lost_is_unknown_and_made_again(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ledger.webhooks.register(["app"])
    confirm(ledger, record(ledger))
    follow(ledger)
    lost = leased(ledger)
    [message] = ledger.webhooks.due(lost, 5)
    assert ledger.webhooks.begin(lost, [message])
    assert ledger.webhooks.lease("app", LEASE) is None
    advance(LEASE + 1)
    lease = leased(ledger)
    [again] = ledger.webhooks.due(lease, 5)
    assert (again.id, again.number, again.public_id) == (message.id, 1, message.public_id)
    assert ledger.webhooks.end(lost, message, TAKEN, 0.0) is None  # its lease is over
    assert not ledger.webhooks.begin(lost, [message])
    assert ledger.webhooks.begin(lease, [again])
    ledger.webhooks.end(lease, again, TAKEN, 0.0)
    row = latest(ledger)
    assert row.state == "delivered"
    assert [one.outcome for one in row.attempts] == ["unknown", "delivered"]


def test_a_failed_message_is_due_again_by_the_schedule_and_fails_in_the_end(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ledger.webhooks.register(["app"])
    confirm(ledger, record(ledger))
    follow(ledger)
    for wait in (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0):
        assert attempt(ledger, REFUSED) is None
        assert ledger.webhooks.lease("app", LEASE) is None
        advance(wait - 2.0)
        assert ledger.webhooks.lease("app", LEASE) is None
        advance(3.0)
    assert attempt(ledger, REFUSED) is None
    row = latest(ledger)
    assert (row.state, row.due_at, len(row.attempts)) == ("failed", None, 7)
    assert {one.status for one in row.attempts} == {500}


def test_an_endpoint_that_asks_for_a_pause_gets_it(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ledger.webhooks.register(["app"])
    confirm(ledger, record(ledger))
    follow(ledger)
    attempt(ledger, WebhookAnswer(Outcome.FAILED, 429, "429", retry_after=100.0))
    confirm(ledger, record(ledger))
    assert follow(ledger) == 1
    advance(95)
    assert ledger.webhooks.lease("app", LEASE) is None
    advance(10)
    assert len(ledger.webhooks.due(leased(ledger), 5)) == 2


def test_an_endpoint_that_fails_for_a_day_is_off_until_it_is_switched_on(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ledger.webhooks.register(["app", "other"])
    event = record(ledger)
    confirm(ledger, event)
    follow(ledger)
    attempt(ledger, REFUSED)
    advance(23 * 3_600)
    ledger.webhooks.register(["app", "other"])
    assert ledger.webhooks.off() == []
    advance(2 * 3_600)
    ledger.webhooks.register(["app", "other"])
    assert ledger.webhooks.off() == ["app"]
    missed = record(ledger)
    confirm(ledger, missed)
    assert follow(ledger) == 0
    assert ledger.webhooks.lease("app", LEASE) is None
    before = ledger.webhooks.enable("app")
    assert before is not None
    assert "no success" in (before.reason or "")
    assert ledger.webhooks.off() == []
    attempt(ledger, TAKEN)  # what waited
    assert ledger.webhooks.replay(APP, before.changed_at) == 1
    assert told(ledger)[-1] == ("event.confirmed", missed.id)
    assert ledger.webhooks.enable("nobody") is None


def test_an_endpoint_that_is_gone_is_off_at_once(ledger: SqlLedger) -> None:
    ledger.webhooks.register(["app"])
    confirm(ledger, record(ledger))
    follow(ledger)
    reason = attempt(ledger, WebhookAnswer(Outcome.FAILED, 410, "410"))
    assert reason is not None
    assert "410" in reason
    [state] = ledger.webhooks.states()
    assert (state.is_on, state.reason, state.waiting) == (False, reason, 1)


def test_a_replay_sends_again_what_was_sent(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ledger.webhooks.register(["app"])
    first = record(ledger)
    confirm(ledger, first)
    advance(3_600)
    since = ledger.now()
    second = record(ledger)
    confirm(ledger, second)
    follow(ledger)
    for _ in range(2):
        attempt(ledger, TAKEN)
    advance(20 * 86_400)
    assert ledger.webhooks.replay(APP, since) == 1
    lease = leased(ledger)
    [message] = ledger.webhooks.due(lease, 5)
    assert (message.subject, message.number, message.tries) == (second.id, 1, 0)


def test_what_goes_with_its_event_its_user_and_its_age(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    ledger.webhooks.register(["app"])
    erased, purged, kept = (record(ledger, user_id=name) for name in ("ada", "bob", "eve"))
    for one in (erased, purged, kept):
        confirm(ledger, one)
    ledger.contacts.opt_out("ada", "email")
    end_chain(ledger, record(ledger, user_id="ada"), alerted=True)
    follow(ledger)
    lease = leased(ledger)
    ledger.webhooks.begin(lease, ledger.webhooks.due(lease, 10))
    assert ledger.erasure.erase_events("ada") == 2
    ledger.erasure.erase_rest("ada", events=2)
    assert sorted(told(ledger)) == sorted(("event.confirmed", one.id) for one in (purged, kept))
    with ledger.database.read() as connection:
        assert connection.execute(sa.select(outcomes)).all() == []
        assert len(connection.execute(sa.select(webhook_attempts)).all()) == 2
    advance(31 * 86_400)
    ledger.retention.purge({State.CONFIRMED: ledger.now()}, limit=1_000)
    assert told(ledger) == []
    end_chain(ledger, record(ledger), alerted=True)
    ledger.webhooks.register(["app"])
    follow(ledger)
    advance(31 * 86_400)
    assert ledger.webhooks.trim() > 0
    with ledger.database.read() as connection:
        for table in (outcomes, webhook_messages, webhook_attempts):
            assert connection.execute(sa.select(table)).all() == []
    assert ledger.webhooks.states() == []
