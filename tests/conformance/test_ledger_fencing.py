"""A worker that lost its claim changes nothing, by any write and after any way to lose a claim; and
the round trips of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
import uuid_utils

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Attempt, Outcome, State
from delivery.domain.policy import parse_policies
from delivery.domain.records import Claim, Digest, Result
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger
from delivery.ledger.sql.tables import events
from delivery.testing import make_entry, make_event
from tests.conformance.chain_calls import begin, end, finish, move, skip
from tests.faults.chain import executor_of
from tests.unit.tasks.fakes import FakeChannel

LEASE = 60.0
DELIVERED = Result(Outcome.DELIVERED)
Write = Callable[[SqlLedger, Claim], object]
Lose = Callable[[SqlLedger, Claim, Callable[[float], None]], object]


def join(ledger: SqlLedger, claim: Claim) -> Digest:
    return ledger.digests.join(claim, "email", by=("user_id",), window=0.0, min_interval=0.0)


WRITES: dict[str, Write] = {
    "begin": lambda ledger, claim: begin(ledger, claim, "direct", 2),
    "end": lambda ledger, claim: end(ledger, claim, "direct", 1, DELIVERED),
    "skip": lambda ledger, claim: skip(ledger, claim, "sms", "no address"),
    "move": lambda ledger, claim: move(ledger, claim, "email", claim.now),
    "finish": lambda ledger, claim: finish(ledger, claim, alerted=True),
    "join": join,
    "fire": lambda ledger, claim: ledger.alerts.fire(EventClass.CRITICAL, [claim]),
}


def taken_over(ledger: SqlLedger, claim: Claim, advance: Callable[[float], None]) -> None:
    advance(LEASE + 1.0)
    assert ledger.chain.claim([claim.id], LEASE)


def replayed(ledger: SqlLedger, claim: Claim, _: Callable[[float], None]) -> None:
    ledger.operations.replay([claim.id], policies=parse_policies({}))
    ledger.operations.hand_over([claim.id], "again")


def another_generation(ledger: SqlLedger, claim: Claim, _: object) -> None:
    """The generation is another one and the token is not: nothing but a fence of both sees it."""
    _change(ledger, claim, generation=claim.stored.generation + 1)


def another_token(ledger: SqlLedger, claim: Claim, _: object) -> None:
    _change(ledger, claim, token=claim.token + 1)


def _change(ledger: SqlLedger, claim: Claim, **values: int) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.update(events).where(events.c.id == claim.id).values(values))


LOSSES: tuple[Lose, ...] = (taken_over, replayed, another_generation, another_token)


def seen(ledger: SqlLedger, event_id: str) -> tuple[State, str | None, str | None, list[Attempt]]:
    timeline = ledger.events.get(event_id)
    assert timeline is not None
    stored = timeline.stored
    return stored.state, stored.step, stored.digest_id, list(timeline.attempts)


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("write", WRITES)
def test_a_claim_that_was_lost_changes_nothing(
    ledger: SqlLedger, advance: Callable[[float], None], write: str, lose: Lose
) -> None:
    entry = make_entry(make_event(event_class=EventClass.CRITICAL), hand_over=True)
    ledger.recording.commit([entry])
    [claim] = ledger.chain.claim([entry.event.id], LEASE)
    assert begin(ledger, claim, "direct", 1)
    lose(ledger, claim, advance)
    before = seen(ledger, claim.id)
    answer = WRITES[write](ledger, claim)
    assert seen(ledger, claim.id) == before
    assert answer is False or write in ("join", "fire")


@contextmanager
def statements() -> Iterator[list[str]]:
    """Statements sent to any database inside the block, without those of transactions."""
    said: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            said.append(" ".join(statement.split()))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield said
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


WINDOW = 60.0
CHAINS = {
    "database": ({"channel": "database"}, {"channel": "queue"}),
    "alert": ({"channel": "alert"},),
    "email": ({"channel": "email", "digest": {"window": WINDOW, "min_interval": 0.0}},),
}
CLOCKS = {"database": 1, "alert": 2, "email": 2}
"""Round trips for the time alone: the claim's, and that of the channel's breaker."""
COST = {"database": 16, "alert": 29, "email": 28}
"""All round trips of one run of the step, from the claim to the end. The hand-on to another step
counts what its user has there."""
PER_EVENT = {"database": 0, "alert": 0, "email": 2}
"""Round trips that each further event adds: a query for its digest."""


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("channel", CHAINS)
def test_a_step_costs_a_fixed_number_of_round_trips(
    ledger: SqlLedger, advance: Callable[[float], None], channel: str, count: int
) -> None:
    found = [make_event(id=str(uuid_utils.uuid7()), seq=None) for _ in range(count)]
    ids = [event.id for event in found]
    ledger.recording.commit([make_entry(event, hand_over=True) for event in found])
    ledger.contacts.put(Contact("u1", email="u@example.org"))
    policies = parse_policies({"class": {"standard": {"chain": list(CHAINS[channel])}}})
    executor = executor_of(ledger, policies, {"email": FakeChannel("email")})
    if channel == "email":
        executor.run(channel, ids)  # joins the digest
        advance(WINDOW + 1)
    with statements() as said:
        report = executor.run(channel, ids)
    assert report.outcomes["delivered"] == count
    clocks = [one for one in said if one == "select clock_timestamp()"]
    assert len(clocks) <= CLOCKS[channel]
    assert len(said) <= COST[channel] + PER_EVENT[channel] * (count - 1)
