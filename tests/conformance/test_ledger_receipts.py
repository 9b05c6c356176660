"""The promises of the receipt store and of the suppression list, on every database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.fallback import Progress, Step, next_step
from delivery.domain.lifecycle import Attempt, Confirmation, Outcome, State
from delivery.domain.policy import parse_policies
from delivery.domain.records import Claim, DigestClaim, Result, Stored
from delivery.domain.users.contact import Contact
from delivery.domain.users.receipts import ProviderReceipt, ReceiptStatus, Suppress
from delivery.ledger import SqlLedger
from delivery.ledger.sql.tables import receipts
from delivery.testing import make_entry, make_event
from tests.conformance.chain_calls import begin, move
from tests.conformance.test_ledger_digests import at_once

LEASE = 60.0
ADA = Contact("ada", email="Ada@Example.org", phone="+491701234567")
BOUNCE = ProviderReceipt(
    "email",
    "ses",
    ReceiptStatus.BOUNCED,
    ("set by the test",),
    code="5.1.1",
    text="no such user",
    suppress=Suppress.HARD_BOUNCE,
)


def on_chain(ledger: SqlLedger, user: str = "ada", **changes: Any) -> str:
    """The id of an event on the chain."""
    event = make_event(
        id=str(uuid_utils.uuid7()),
        type="agent_completed",
        user_id=user,
        seq=None,
        at=datetime.now(UTC),
        event_class=EventClass.CRITICAL,
    )
    values: dict[str, Any] = {"ack_timeout": 5.0, "ttl": 36_000.0, "hand_over": True} | changes
    ledger.recording.commit([make_entry(event, **values)])
    return event.id


def claimed(ledger: SqlLedger, event_id: str) -> Claim:
    [claim] = ledger.chain.claim([event_id], LEASE)
    return claim


def sending(ledger: SqlLedger, *event_ids: str, channel: str = "email") -> DigestClaim:
    """A worker is about to send one message with these events."""
    for event_id in event_ids:
        claim = claimed(ledger, event_id)
        digest = ledger.digests.join(claim, channel, by=("user_id",), window=0.0, min_interval=0.0)
        assert move(ledger, claim, channel, ledger.now())
    found = ledger.digests.claim(digest.id, LEASE, classes=("none besides",))
    assert found is not None
    return found


def sent(ledger: SqlLedger, *event_ids: str, channel: str = "email") -> str:
    """The id of the digest of one message that the provider took."""
    claim = sending(ledger, *event_ids, channel=channel)
    result = Result(Outcome.DELIVERED, provider_id=f"<{claim.digest.id}@x.org>")
    assert ledger.digests.end(claim, result, retry_in=None)
    return claim.digest.id


def stored(ledger: SqlLedger, event_id: str) -> Stored:
    [found] = ledger.events.read([event_id])
    return found


def last(ledger: SqlLedger, event_id: str, channel: str = "email") -> Attempt:
    timeline = ledger.events.get(event_id)
    assert timeline is not None
    return [one for one in timeline.attempts if one.channel == channel][-1]


def report(ledger: SqlLedger, receipt: ProviderReceipt, *references: str) -> Any:
    [answer] = ledger.receipts.record([replace(receipt, references=references)])
    return answer


def wait_for_next_step(ledger: SqlLedger, event_id: str, seconds: float = 300.0) -> None:
    """The chain waits before its next step, as after a message that went out."""
    later = ledger.now() + timedelta(seconds=seconds)
    assert move(ledger, claimed(ledger, event_id), "sms", later)


# --- failures


def test_a_bounce_fails_every_attempt_in_the_message_and_the_next_step_is_due(
    ledger: SqlLedger,
) -> None:
    first, second = on_chain(ledger), on_chain(ledger)
    digest_id = sent(ledger, first, second)
    for event_id in (first, second):
        wait_for_next_step(ledger, event_id)
    answer = report(ledger, BOUNCE, f"<{digest_id}@x.org>")
    assert set(answer.failed) == set(answer.listed) == {first, second}
    for event_id in (first, second):
        attempt = last(ledger, event_id)
        assert (attempt.outcome, attempt.retryable) == (Outcome.FAILED, False)
        assert attempt.error == "bounced 5.1.1: no such user"
        due_at = stored(ledger, event_id).due_at
        assert due_at is not None
        assert due_at <= ledger.now()
    assert {one.id for one in ledger.chain.sweep().due} == {first, second}


def test_the_next_step_is_decided_at_once_whatever_its_after(ledger: SqlLedger) -> None:
    policies = parse_policies(
        {
            "class": {
                "critical": {
                    "types": ["agent_completed"],
                    "chain": [
                        {"channel": "email"},
                        {"channel": "emergency", "after": 600.0},
                        {"channel": "sms", "after": 900.0},
                    ],
                }
            }
        }
    )
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    wait_for_next_step(ledger, event_id)
    report(ledger, BOUNCE, digest_id)
    claim = claimed(ledger, event_id)
    progress = Progress(
        type="agent_completed",
        entered_at=claim.stored.handed_over_at or claim.now,
        attempts=claim.attempts,
    )
    policy = policies.of(EventClass.CRITICAL)
    decision = next_step(progress, policy, claim.now, 0.0)
    assert isinstance(decision, Step)
    assert decision.step == "emergency"
    skipped = Attempt(
        event_id, 1, "emergency", 1, Outcome.SKIPPED, claim.now, claim.now, error="no address"
    )
    decision = next_step(
        replace(progress, attempts=(*claim.attempts, skipped)), policy, claim.now, 0.0
    )
    assert isinstance(decision, Step)
    assert decision.step == "sms"


@pytest.mark.parametrize("spelling", ["{id}", "<{id}@x.org>", "{id}@x.org", "{upper}@X.ORG"])
def test_a_message_is_found_by_each_spelling_of_its_name(ledger: SqlLedger, spelling: str) -> None:
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    name = spelling.format(id=digest_id, upper=digest_id.upper())
    assert report(ledger, BOUNCE, "unknown", "a\0b", "\ud800", "", name).failed == (event_id,)


@pytest.mark.parametrize("name", ["", "unknown", "a\0b", "\ud800", "x" * 5_000, "<>@<>"])
def test_an_unknown_message_is_none(ledger: SqlLedger, name: str) -> None:
    sent(ledger, on_chain(ledger))
    assert report(ledger, BOUNCE, name) is None


def test_a_message_of_another_channel_is_not_found(ledger: SqlLedger) -> None:
    digest_id = sent(ledger, on_chain(ledger), channel="sms")
    assert report(ledger, BOUNCE, digest_id) is None


def test_repeats_change_nothing(ledger: SqlLedger, advance: Any) -> None:
    ledger.contacts.put(ADA)
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    soft = replace(BOUNCE, suppress=Suppress.SOFT_BOUNCE, code="4.2.2")
    report(ledger, soft, digest_id)
    wait_for_next_step(ledger, event_id)
    before = (stored(ledger, event_id), ledger.suppressions.page())
    advance(10)
    assert report(ledger, soft, digest_id).failed == ()
    assert (stored(ledger, event_id), ledger.suppressions.page()) == before


def test_a_late_bounce_does_not_take_a_confirmation_back(ledger: SqlLedger) -> None:
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    ledger.confirmations.confirm([Confirmation(event_id, "ada", "email", "ada", "link")])
    report(ledger, BOUNCE, digest_id)
    assert stored(ledger, event_id).state is State.CONFIRMED
    assert stored(ledger, event_id).due_at is None
    assert last(ledger, event_id).outcome is Outcome.FAILED


def test_an_old_generation_moves_nothing(ledger: SqlLedger) -> None:
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    ledger.operations.replay([event_id], policies=parse_policies({}))
    before = stored(ledger, event_id)
    assert report(ledger, BOUNCE, digest_id).failed == (event_id,)
    assert stored(ledger, event_id) == before


def test_a_bounce_that_beats_the_workers_record_stands(ledger: SqlLedger) -> None:
    event_id = on_chain(ledger)
    claim = sending(ledger, event_id)
    worker = claimed(ledger, event_id)
    report(ledger, BOUNCE, claim.digest.id)
    ended = Result(Outcome.DELIVERED, provider_id="m-1")
    assert ledger.digests.end(claim, ended, retry_in=None)
    assert last(ledger, event_id).outcome is Outcome.FAILED
    assert not move(ledger, worker, "sms", ledger.now() + timedelta(seconds=300))
    assert [one.id for one in ledger.chain.sweep().due] == [event_id]


def test_a_worker_on_another_channel_is_left_alone(ledger: SqlLedger) -> None:
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    worker = claimed(ledger, event_id)
    assert begin(ledger, worker, "direct", 1)
    report(ledger, BOUNCE, digest_id)
    assert last(ledger, event_id).outcome is Outcome.FAILED
    assert move(ledger, worker, "direct", ledger.now())


def test_a_worker_that_only_decides_decides_again(ledger: SqlLedger) -> None:
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    worker = claimed(ledger, event_id)
    report(ledger, BOUNCE, digest_id)
    assert not move(ledger, worker, "sms", ledger.now() + timedelta(seconds=300))
    assert claimed(ledger, event_id).attempts[-1].receipt == "bounced"


def test_a_bounced_message_starts_no_interval_until_the_next_one(ledger: SqlLedger) -> None:
    first = sent(ledger, on_chain(ledger))
    report(ledger, BOUNCE, first)
    claim = claimed(ledger, on_chain(ledger))
    again = ledger.digests.join(claim, "email", by=("user_id",), window=1.0, min_interval=600.0)
    assert again.due_at is not None
    assert again.due_at < ledger.now() + timedelta(seconds=60)


def test_receipts_go_with_the_last_event_of_their_message(ledger: SqlLedger) -> None:
    first, second = on_chain(ledger), on_chain(ledger)
    digest_id = sent(ledger, first, second)
    status(ledger, digest_id, "email", "opened")
    for event_id, is_kept in ((first, True), (second, False)):
        ledger.confirmations.confirm([Confirmation(event_id, "ada", "email", "ada", "link")])
        ledger.retention.purge({State.CONFIRMED: ledger.now() + timedelta(days=1)})
        with ledger.database.read() as connection:
            kept = connection.execute(sa.select(receipts.c.digest_id)).scalars().all()
        assert kept == ([digest_id] if is_kept else [])


# --- order of statuses


def status(ledger: SqlLedger, digest_id: str, channel: str, name: str) -> Any:
    receipt = ProviderReceipt(channel, "p", ReceiptStatus(name), (digest_id,))
    return report(ledger, receipt, digest_id)


def test_a_text_that_was_delivered_cannot_fail_afterwards(ledger: SqlLedger) -> None:
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id, channel="sms")
    assert status(ledger, digest_id, "sms", "delivered").is_delivery
    assert status(ledger, digest_id, "sms", "undelivered").failed == ()
    assert last(ledger, event_id, "sms").outcome is Outcome.DELIVERED
    assert status(ledger, digest_id, "sms", "delivered").is_delivery


def test_a_mail_that_bounced_was_not_delivered(ledger: SqlLedger) -> None:
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    assert status(ledger, digest_id, "email", "delivered").is_delivery
    assert status(ledger, digest_id, "email", "bounced").failed == (event_id,)
    assert not status(ledger, digest_id, "email", "delivered").is_delivery


def test_a_delivery_settles_an_attempt_whose_answer_was_lost(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = on_chain(ledger)
    claim = sending(ledger, event_id)
    lost = Result(Outcome.UNKNOWN, error="the answer was lost")
    assert ledger.digests.end(claim, lost, retry_in=30.0)
    assert status(ledger, claim.digest.id, "email", "delivered").is_delivery
    assert last(ledger, event_id).outcome is Outcome.DELIVERED
    advance(31)
    assert ledger.digests.claim(claim.digest.id, LEASE) is None


def test_engagement_stands_on_the_timeline_once_and_changes_nothing(
    ledger: SqlLedger, advance: Any
) -> None:
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    before = stored(ledger, event_id)
    for name in ("opened", "clicked", "opened"):
        advance(1)
        answer = status(ledger, digest_id, "email", name)
        assert (answer.failed, answer.is_delivery) == ((), False)
    timeline = ledger.events.get(event_id)
    assert timeline is not None
    assert [(one.status, one.digest_id) for one in timeline.receipts] == [
        ("opened", digest_id),
        ("clicked", digest_id),
    ]
    assert stored(ledger, event_id) == before


# --- suppressions


@pytest.mark.parametrize("reported", [None, "ada@example.org", "Ada <Ada@EXAMPLE.org>"])
def test_a_bounce_suppresses_the_contacts_address(ledger: SqlLedger, reported: str | None) -> None:
    ledger.contacts.put(ADA)
    event_id = on_chain(ledger)
    digest_id = sent(ledger, event_id)
    report(ledger, replace(BOUNCE, address=reported), digest_id)
    [one], _ = ledger.suppressions.page()
    assert (one.channel, one.address, one.reason) == (
        "email",
        "Ada@example.org",
        Suppress.HARD_BOUNCE,
    )
    assert claimed(ledger, event_id).suppressed == {"email": "suppressed: hard_bounce 5.1.1"}
    assert set(ledger.suppressions.of(ADA)) == {"email"}


def test_a_second_failure_suppresses_though_the_attempts_have_failed(ledger: SqlLedger) -> None:
    ledger.contacts.put(ADA)
    digest_id = sent(ledger, on_chain(ledger))
    report(ledger, replace(BOUNCE, suppress=None, code="5.7.1"), digest_id)
    spam = replace(BOUNCE, status=ReceiptStatus.COMPLAINED, suppress=Suppress.COMPLAINT)
    assert report(ledger, spam, digest_id).failed == ()
    [one], _ = ledger.suppressions.page()
    assert one.reason is Suppress.COMPLAINT


def test_an_address_that_was_changed_since_is_not_suppressed(
    ledger: SqlLedger, advance: Any
) -> None:
    ledger.contacts.put(ADA)
    digest_id = sent(ledger, on_chain(ledger))
    advance(5)
    ledger.contacts.put(Contact("ada", email="new@example.org"))
    report(ledger, BOUNCE, digest_id)
    assert ledger.suppressions.page() == ([], None)


def test_a_report_of_a_stranger_suppresses_no_address_but_the_users_own(ledger: SqlLedger) -> None:
    ledger.contacts.put(ADA)
    digest_id = sent(ledger, on_chain(ledger))
    forged = replace(BOUNCE, address="victim@example.org", is_authentic=False)
    report(ledger, forged, digest_id)
    assert ledger.suppressions.page() == ([], None)


def test_a_digest_claim_knows_that_its_address_was_suppressed(ledger: SqlLedger) -> None:
    ledger.contacts.put(ADA)
    ledger.suppressions.add("email", "Ada@EXAMPLE.ORG", Suppress.COMPLAINT, provider="x", code=None)
    assert sending(ledger, on_chain(ledger)).suppressed == "suppressed: complaint"
    assert sending(ledger, on_chain(ledger, "eve")).suppressed is None


def test_soft_bounces_expire_and_last_longer_each_time(ledger: SqlLedger, advance: Any) -> None:
    def soft() -> timedelta:
        ledger.suppressions.add(
            "email", "a@x.org", Suppress.SOFT_BOUNCE, provider="x", code="4.2.2"
        )
        [one], _ = ledger.suppressions.page()
        assert one.expires_at is not None
        return one.expires_at - ledger.now()

    first = soft()
    advance(first.total_seconds() + 1)
    assert ledger.suppressions.page() == ([], None)
    second = soft()
    assert second > 1.9 * first
    ledger.suppressions.add("email", "a@x.org", Suppress.HARD_BOUNCE, provider="x", code="5.1.1")
    ledger.suppressions.add("email", "a@x.org", Suppress.SOFT_BOUNCE, provider="x", code="4.2.2")
    [one], _ = ledger.suppressions.page()
    assert (one.reason, one.expires_at) == (Suppress.HARD_BOUNCE, None)


def test_the_list_has_pages_and_addresses_can_be_taken_off(ledger: SqlLedger) -> None:
    for number in range(5):
        address = f"{number}'{{}},@x.org"
        ledger.suppressions.add("email", address, Suppress.HARD_BOUNCE, provider="x", code=None)
    ledger.suppressions.add(
        "sms", "+49 170 1234567", Suppress.INVALID_NUMBER, provider="x", code="30006"
    )
    found, after = ledger.suppressions.page(limit=4)
    rest, end = ledger.suppressions.page(after=after, limit=4)
    assert (len(found), len(rest), end) == (4, 2, None)
    assert found[0].address == "+491701234567"
    assert ledger.suppressions.remove("0049 170-1234567")
    assert not ledger.suppressions.remove("+491701234567")
    assert not ledger.suppressions.remove("no address \0")
    with pytest.raises(ValueError, match="next"):
        ledger.suppressions.page(after="x")


def test_a_token_serves_one_body(ledger: SqlLedger) -> None:
    assert ledger.receipts.use_token("a" * 64, "1" * 64)
    assert ledger.receipts.use_token("a" * 64, "1" * 64)
    assert not ledger.receipts.use_token("a" * 64, "2" * 64)


def test_a_push_target_is_gone_after_a_week_of_nothing_else(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    gone, back, other = (f"ntfys://push.example.org/{name}" for name in ("gone", "back", "other"))
    day = 86_400.0
    targets = ledger.push_targets
    for _ in range(7):
        targets.report({gone: "410", back: "404"}, [other])
        advance(day)
    assert targets.gone([gone, back, other]) == frozenset()
    targets.report({gone: "410"}, [back])
    assert targets.gone([gone, back, other]) == {gone}
    targets.report({back: "404"}, [])
    advance(8 * day)  # not asked for more than a week: that says nothing
    targets.report({back: "404"}, [])
    assert targets.gone([gone, back]) == {gone}
    standing = ledger.suppressions.of(Contact("ada", push=(gone, back)))
    assert standing == {}, "one target is left"
    only = ledger.suppressions.of(Contact("ada", push=(gone,)))
    assert only["emergency"].code == "410"


def test_reports_and_the_workers_record_may_come_at_once(ledger: SqlLedger) -> None:
    ledger.contacts.put(ADA)
    event_ids = [on_chain(ledger) for _ in range(3)]
    claim = sending(ledger, *event_ids)
    digest_id = claim.digest.id
    ended = Result(Outcome.DELIVERED, provider_id="m-1")
    calls: list[Any] = [
        partial(ledger.digests.end, claim, ended, retry_in=None),
        partial(report, ledger, BOUNCE, digest_id),
        partial(report, ledger, BOUNCE, f"<{digest_id}@x.org>"),
        partial(status, ledger, digest_id, "email", "opened"),
        partial(status, ledger, digest_id, "email", "complained"),
        partial(ledger.chain.claim, event_ids, LEASE),
        partial(ledger.chain.sweep),
    ]
    answers = at_once(*calls)
    assert not [one for one in answers if isinstance(one, BaseException)]
    for event_id in event_ids:
        assert last(ledger, event_id).outcome is Outcome.FAILED
    assert len(ledger.suppressions.page()[0]) == 1
