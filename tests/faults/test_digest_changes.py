"""What changes between the opening of a digest's window and its sending: the day, the contact, the
opt-out, the quiet hours, the policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from delivery.domain.lifecycle import State
from delivery.domain.policy import Policies
from delivery.ledger import SqlLedger
from tests.faults.chain import Advance, Chain, email_channel, policies_of
from tests.smtp_servers import Behaviour, smtp_server

WINDOW = 600.0
EMAIL: Mapping[str, Any] = {
    "channel": "email",
    "digest": {"by": ["user_id"], "window": WINDOW, "min_interval": 0.0},
    "respects": ["quiet_hours", "opt_out"],
}


@pytest.fixture
def mails() -> Behaviour:
    return Behaviour()


class World:
    def __init__(self, ledger: SqlLedger, advance: Advance, port: int) -> None:
        self.ledger = ledger
        self.advance = advance
        self.port = port

    def chain(self, policies: Policies | None = None) -> Chain:
        return Chain(
            self.ledger,
            policies or policies_of(EMAIL, ttl=90_000.0),
            self.advance,
            {"email": email_channel(self.port)},
        )

    def opened(self, chain: Chain, count: int = 2) -> list[str]:
        """Events whose digest gathers now."""
        ids = chain.hand_over(count=count)
        for _ in range(4):
            chain.turn()
        assert all(self.ledger.events.read([id_])[0].digest_id for id_ in ids)
        return ids

    def elapse(self, chain: Chain, seconds: float) -> None:
        self.advance(seconds)
        for _ in range(6):
            chain.turn()
            self.advance(1.0)


@pytest.fixture
def world(ledger: SqlLedger, advance: Advance, mails: Behaviour) -> Iterator[World]:
    with smtp_server(mails) as server:
        yield World(ledger, advance, server.port)


def recipients(mails: Behaviour) -> list[str]:
    return [envelope.rcpt_tos[0] for envelope in mails.messages]


def test_a_window_over_midnight_is_one_mail(world: World, mails: Behaviour) -> None:
    chain = world.chain()
    chain.contact(email="ada@example.org", time_zone="Europe/Berlin")
    now = world.ledger.now()
    midnight = (now + timedelta(days=1)).replace(hour=22, minute=55, second=0, microsecond=0)
    world.advance((midnight - now).total_seconds())  # 23:55 in Berlin, or 0:55
    first = world.opened(chain)
    world.elapse(chain, WINDOW / 2)
    second = chain.hand_over()
    world.elapse(chain, 1.0)
    world.elapse(chain, WINDOW / 2)
    assert recipients(mails) == ["ada@example.org"]
    assert {chain.tries(id_)[-1] for id_ in [*first, *second]} == {("email", "delivered")}


def test_the_address_at_the_time_of_sending_gets_the_mail(world: World, mails: Behaviour) -> None:
    chain = world.chain()
    chain.contact(email="old@example.org")
    world.opened(chain)
    chain.contact(email="new@example.org", locale="de")
    world.elapse(chain, WINDOW)
    assert recipients(mails) == ["new@example.org"]


@pytest.mark.parametrize("change", [{"opt_out": ("email",)}, {"email": None}])
def test_who_leaves_the_channel_meanwhile_gets_no_mail_and_nothing_stays_open(
    world: World, mails: Behaviour, change: dict[str, Any]
) -> None:
    chain = world.chain()
    chain.contact(email="ada@example.org")
    ids = world.opened(chain)
    chain.contact(**{"email": "ada@example.org", **change})
    world.elapse(chain, WINDOW)
    assert mails.messages == []
    assert {chain.tries(id_)[-1] for id_ in ids} == {("email", "skipped")}
    assert {chain.state(id_) for id_ in ids} == {State.PARKED}
    # Back again: a new event has a window of its own, and the mail lists what the user agreed to.
    chain.contact(email="ada@example.org")
    later = world.opened(chain, count=1)
    assert mails.messages == [], "not at once: the window has just begun"
    world.elapse(chain, WINDOW)
    assert recipients(mails) == ["ada@example.org"]
    assert chain.tries(later[0])[-1] == ("email", "delivered")


def test_quiet_hours_that_begin_meanwhile_move_the_mail_to_their_end(
    world: World, mails: Behaviour
) -> None:
    chain = world.chain()
    chain.contact(email="ada@example.org")
    world.opened(chain)
    now = world.ledger.now()
    begins, ends = now + timedelta(minutes=-1), now + timedelta(hours=2)
    hours = (begins.strftime("%H:%M"), ends.strftime("%H:%M"))
    chain.contact(email="ada@example.org", quiet_hours=hours, time_zone="UTC")
    world.elapse(chain, WINDOW)
    assert mails.messages == []
    world.elapse(chain, 2 * 3_600.0)
    assert recipients(mails) == ["ada@example.org"]


POLICIES = {
    "without the step": [{"channel": "alert"}],
    "without a digest": [{"channel": "email"}],
    "other keys": [{**EMAIL, "digest": {"by": ["user_id", "run_id"], "window": 5.0}}],
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_that_changes_meanwhile_loses_no_event_and_sends_none_twice(
    world: World, mails: Behaviour, name: str
) -> None:
    before = world.chain()
    before.contact(email="ada@example.org")
    ids = world.opened(before)
    after = world.chain(policies_of(*POLICIES[name], ttl=90_000.0))
    world.elapse(after, WINDOW)
    world.elapse(after, WINDOW)
    if name == "without the step":
        assert {after.state(id_) for id_ in ids} == {State.DEAD}
        assert mails.messages == []
    else:
        assert {tuple(after.tries(id_)) for id_ in ids} == {(("email", "delivered"),)}
        assert len(mails.messages) == 1
