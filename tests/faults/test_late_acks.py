"""Acknowledgements that come late, twice, at the wrong moment, or get lost on the way.

On PostgreSQL, with the real chain; the clock is moved, nothing is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from delivery.domain.lifecycle import Confirmation, State
from delivery.ledger import SqlLedger
from delivery.testing import make_entry
from tests.faults.chain import Advance, Chain, email_channel, policies_of, sms_channel
from tests.smtp_servers import Behaviour, smtp_server
from tests.unit.tasks.fakes import make_event
from tests.web_server import WebServer, web_server

pytestmark = pytest.mark.parametrize("open_ledger", ["postgresql"], indirect=True)

LADDER = (
    {"channel": "email", "on_unknown": "retry"},
    {"channel": "sms", "after": 60.0, "on_unknown": "skip"},
    {"channel": "alert", "after": 60.0},
)


@pytest.fixture
def mails() -> Behaviour:
    return Behaviour()


@pytest.fixture
def texts() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def chain(
    ledger: SqlLedger, advance: Advance, mails: Behaviour, texts: WebServer
) -> Iterator[Chain]:
    with smtp_server(mails) as server:
        channels = {"email": email_channel(server.port), "sms": sms_channel(texts.url)}
        made = Chain(ledger, policies_of(*LADDER), advance, channels)
        made.contact(email="ada@example.org", phone="+49301234567")
        yield made


def test_an_ack_after_the_mail_went_out_ends_the_chain_before_the_text(
    chain: Chain, mails: Behaviour, texts: WebServer, advance: Advance
) -> None:
    (event_id,) = chain.hand_over()
    chain.play([event_id], until=lambda: ("email", "delivered") in chain.tries(event_id))
    chain.ack(event_id)
    for _ in range(5):
        advance(60.0)
        chain.turn()
    assert chain.state(event_id) is State.CONFIRMED
    assert chain.tries(event_id) == [("email", "delivered")]
    assert (len(mails.messages), len(texts.requests)) == (1, 0)
    assert chain.alerts.fired == []


def test_an_ack_after_the_alert_resolves_it(chain: Chain) -> None:
    ids = chain.hand_over(count=2)
    chain.play(ids)
    assert [chain.state(event_id) for event_id in ids] == [State.DEAD] * 2
    chain.look_at_alerts()
    assert chain.alerts.resolved == []
    chain.ack(ids[0])
    chain.look_at_alerts()
    assert chain.alerts.resolved == [], "one is still dead"
    chain.ack(ids[1])
    chain.look_at_alerts()
    assert [group.count for group in chain.alerts.resolved] == [0]
    assert [chain.state(event_id) for event_id in ids] == [State.CONFIRMED] * 2


def test_acks_that_race_their_timeouts_leave_every_event_confirmed_and_nothing_due(
    chain: Chain, ledger: SqlLedger, advance: Advance
) -> None:
    events = [make_event("ada", f"run-{n}") for n in range(60)]
    ledger.recording.commit([make_entry(e, sent=True, ack_timeout=1.0) for e in events])
    advance(2.0)
    ready = threading.Barrier(3)
    failures: list[Exception] = []

    def acknowledge() -> None:
        ready.wait(10)
        for event in events:
            confirmation = Confirmation(event.id, "ada", "websocket", "phone", "c")
            ledger.confirmations.confirm([confirmation])

    def serve() -> None:
        ready.wait(10)
        for _ in range(20):
            ledger.chain.sweep(limit=7)

    def run(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except Exception as error:  # handed to the test, which fails
            failures.append(error)

    threads = [threading.Thread(target=run, args=(w,)) for w in (acknowledge, serve, serve)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    for stored in ledger.events.read([event.id for event in events]):
        assert (stored.state, stored.due_at) == (State.CONFIRMED, None)
    advance(120.0)
    assert chain.turn() == 0, "nothing is sent"


def test_an_ack_for_an_expired_event_is_on_record_and_changes_nothing(
    chain: Chain, ledger: SqlLedger, advance: Advance
) -> None:
    (event_id,) = chain.hand_over()
    advance(3_601.0)
    chain.turn()
    assert chain.state(event_id) is State.EXPIRED
    chain.ack(event_id)
    found = ledger.events.get(event_id)
    assert found is not None
    assert (found.stored.state, found.stored.due_at) == (State.EXPIRED, None)
    assert [row.by for row in found.confirmations] == ["phone"]
    assert chain.turn() == 0


def test_an_ack_while_the_mail_is_being_sent_is_kept_and_ends_the_chain(
    ledger: SqlLedger, advance: Advance, texts: WebServer
) -> None:
    class Slow(Behaviour):
        async def handle_DATA(self, *args: object) -> str:
            made.ack(event_id)
            return await super().handle_DATA(*args)  # type: ignore[arg-type]

    slow = Slow()
    with smtp_server(slow) as server:
        channels = {"email": email_channel(server.port), "sms": sms_channel(texts.url)}
        made = Chain(ledger, policies_of(*LADDER), advance, channels)
        made.contact(email="ada@example.org", phone="+49301234567")
        (event_id,) = made.hand_over()
        made.play([event_id])
        advance(300.0)
        made.turn()
    assert made.state(event_id) is State.CONFIRMED
    assert made.tries(event_id) == [("email", "delivered")], "its outcome is not lost"
    assert texts.requests == []
