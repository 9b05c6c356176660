"""The clock of the database server jumps: nothing goes out twice, and nothing stays for ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from delivery.domain.health import RECOVERY, THRESHOLD, BreakerState
from delivery.domain.lifecycle import State
from delivery.ledger import SqlLedger
from tests.faults.chain import LIMITS, Advance, Chain, email_channel, policies_of
from tests.smtp_servers import Behaviour, smtp_server

HOUR = 3_600.0
EMAIL = {"channel": "email", "attempts": 3, "on_unknown": "retry"}


@pytest.fixture
def mails() -> Behaviour:
    return Behaviour()


@pytest.fixture
def chain(ledger: SqlLedger, advance: Advance, mails: Behaviour) -> Iterator[Chain]:
    with smtp_server(mails) as server:
        channels = {"email": email_channel(server.port)}
        made = Chain(ledger, policies_of(EMAIL, ttl=10 * HOUR), advance, channels)
        made.contact(email="ada@example.org")
        yield made


@pytest.mark.parametrize("jumps", [(HOUR, -HOUR), (-HOUR, HOUR)])
def test_a_clock_that_jumps_there_and_back_sends_one_mail(
    chain: Chain, advance: Advance, mails: Behaviour, jumps: tuple[float, float]
) -> None:
    ids = chain.hand_over(count=3)
    chain.turn()
    for jump in jumps:
        advance(jump)
        for _ in range(5):
            chain.turn()
            advance(1.0)
    chain.play(ids)
    assert {tuple(chain.tries(event_id)) for event_id in ids} == {(("email", "delivered"),)}
    assert len(mails.messages) == 1


def test_a_claim_of_a_lost_worker_ends_when_a_clock_that_went_back_has_caught_up(
    ledger: SqlLedger, chain: Chain, advance: Advance, mails: Behaviour
) -> None:
    (event_id,) = chain.hand_over()
    assert ledger.chain.claim([event_id], LIMITS.lease)  # by a worker that ends now
    advance(-HOUR)
    chain.turn()
    assert chain.tries(event_id) == []
    advance(HOUR)
    chain.play([event_id], until=lambda: chain.tries(event_id))
    assert len(mails.messages) == 1


def test_a_breaker_that_opened_before_the_clock_went_back_is_probed(
    ledger: SqlLedger, advance: Advance
) -> None:
    for _ in range(THRESHOLD):
        ledger.breakers.report("email", False)
    assert ledger.breakers.get("email").state is BreakerState.OPEN
    advance(-HOUR)
    breaker, now = ledger.breakers.get("email"), ledger.now().timestamp()
    assert breaker.allows(now)
    probed = breaker.on_attempt(now)
    assert not probed.allows(now + RECOVERY / 2)
    assert probed.on_failure(now).state is BreakerState.OPEN


def test_what_is_confirmed_while_the_clock_is_wrong_stays_confirmed(
    chain: Chain, advance: Advance, mails: Behaviour
) -> None:
    (event_id,) = chain.hand_over()
    advance(-HOUR)
    chain.ack(event_id)
    advance(HOUR)
    chain.play([event_id])
    assert chain.state(event_id) is State.CONFIRMED
    assert mails.messages == []
