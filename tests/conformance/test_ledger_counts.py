"""What metrics count: each event once, where the ledger records it, on every database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Confirmation, Outcome
from delivery.ledger import SqlLedger
from delivery.testing import make_entry, make_event
from tests.metrics import Counts

ABSENT = (Outcome.FAILED, "nobody connected")


def entry(**changes: Any) -> Any:
    event = make_event(
        id=str(uuid_utils.uuid7()),
        type="agent_completed",
        user_id="ada",
        run_id=f"run-{uuid_utils.uuid7()}",
        seq=None,
        at=datetime.now(UTC),
        event_class=EventClass.CRITICAL,
    )
    return make_entry(event, **({"ack_timeout": 5.0, "ttl": 3600.0} | changes))


def ack(event_id: str, device: str = "laptop", channel: str = "websocket") -> Confirmation:
    return Confirmation(event_id, "ada", channel, device, "connection-1")


@pytest.fixture
def counts() -> Counts:
    return Counts()


def test_an_event_counts_once_however_many_devices_confirm_it(
    ledger: SqlLedger, counts: Counts
) -> None:
    one = entry()
    ledger.recording.commit([one])
    ledger.confirmations.confirm([ack(one.event.id), ack(one.event.id, "phone")])
    ledger.confirmations.confirm([ack(one.event.id, "tablet")])
    ledger.recording.commit([], [ack(one.event.id, "watch")])
    assert counts.rise("delivery_events_delivered_total", path="live") == 1
    assert counts.rise("delivery_events_confirmed_total", channel="websocket") == 1
    assert counts.rise("delivery_events_ended_total", state="confirmed") == 1
    name = "delivery_time_to_confirmation_seconds_count"
    assert counts.rise(name, channel="websocket") == 1


def test_a_confirmation_in_the_insert_and_one_beside_it_count(
    ledger: SqlLedger, counts: Counts
) -> None:
    earlier = entry()
    ledger.recording.commit([earlier])
    one = entry(sent=True)
    one.confirmations = [ack(one.event.id, channel="sse")]
    ledger.recording.commit([one], [ack(earlier.event.id), ack(str(uuid_utils.uuid7()))])
    ledger.recording.commit([one])  # a repetition counts nothing
    assert counts.rise("delivery_events_confirmed_total", channel="sse") == 1
    assert counts.rise("delivery_events_confirmed_total", channel="websocket") == 1
    assert counts.rise("delivery_events_delivered_total", path="live") == 2


def test_hand_overs_count_by_a_bounded_reason(ledger: SqlLedger, counts: Counts) -> None:
    absent = entry(hand_over=True, pushes=[ABSENT])
    refused, late = entry(), entry(ack_timeout=0.0)
    ledger.recording.commit([absent, refused, late])
    ledger.operations.hand_over([refused.event.id, absent.event.id], "nack: my own words")
    ledger.operations.hand_over([refused.event.id], "nack: again")
    ledger.chain.sweep()
    for reason in ("not_connected", "refused", "no_ack"):
        assert counts.rise("delivery_events_handed_over_total", reason=reason) == 1, reason
    ledger.confirmations.confirm([ack(refused.event.id)])
    assert counts.rise("delivery_events_delivered_total", path="chain") == 1
    assert counts.rise("delivery_events_delivered_total", path="live") == 0


def test_ends_without_a_confirmation_count(ledger: SqlLedger, counts: Counts) -> None:
    first, second = entry(hand_over=True), entry(hand_over=True)
    expired, over = entry(ttl=0.0), entry(ttl=0.0, hand_over=True)
    ledger.recording.commit([first, second, expired, over])
    claims = ledger.chain.claim([first.event.id, second.event.id, over.event.id], 60.0)
    assert len(claims) == 2
    ledger.chain.finish_all([(claims[0], True), (claims[1], False)])
    ledger.chain.finish_all([(claims[0], True), (claims[1], False)])
    ledger.chain.sweep()
    assert counts.rise("delivery_events_ended_total", state="dead") == 1
    assert counts.rise("delivery_events_parked_total") == 1
    assert counts.rise("delivery_events_ended_total", state="expired") == 2
    ledger.confirmations.confirm([ack(expired.event.id)])
    assert counts.rise("delivery_events_ended_total", state="confirmed") == 0
