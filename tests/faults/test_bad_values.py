"""Stored values that no decision can be made with, and errors of our own: they stay one event's.

The real executor, sweep and ledger on each database; values are made bad with SQL, as an older
version, another program or a person may have written them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from delivery.domain.lifecycle import State
from delivery.domain.transports import Message, Taken
from delivery.domain.users.contact import Contact
from delivery.ledger import SqlLedger
from tests.faults.chain import Advance, Chain, policies_of

EMAIL = {"channel": "email", "confirms": "accepted", "respects": ["quiet_hours", "opt_out"]}
CHAIN = policies_of({"channel": "database"}, EMAIL, {"channel": "alert", "after": 300.0})


class Mail:
    """Takes every mail; has an error of its own wherever it is told to."""

    name = "email"

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.breaks_for: set[str] = set()

    def unreachable(self, contact: Contact) -> str | None:
        if contact.user_id in self.breaks_for:
            raise ZeroDivisionError("a value that was not foreseen")
        return None if contact.email else "no address"

    def deliver(self, message: Message, timeout: float) -> Taken:
        self.sent.append(message.user_id)
        return Taken("id")


@pytest.fixture
def mail() -> Mail:
    return Mail()


@pytest.fixture
def chain(ledger: SqlLedger, advance: Advance, mail: Mail) -> Chain:
    made = Chain(ledger, CHAIN, advance, {"email": mail})
    for user in ("ada", "bob"):
        made.contact(user, email=f"{user}@example.org", time_zone="Europe/Berlin")
    return made


@pytest.fixture
def damage(ledger: SqlLedger) -> Callable[..., None]:
    def change(statement: str, **values: Any) -> None:
        with ledger.database.write() as connection:
            connection.execute(sa.text(statement), values)

    return change


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("quiet_from", "0\u0663:00"),
        ("quiet_to", "late"),
        ("time_zone", "Mars/\u0663"),
        ("push", "no json"),
        ("push", '{"a": 1}'),
        ("push", "[1, null]"),
        ("opt_out", "7"),
        ("locale", "\u0663" * 8),
    ],
)
def test_a_contact_with_a_bad_value_still_gets_its_mail(
    chain: Chain, mail: Mail, damage: Any, column: str, value: str
) -> None:
    chain.contact("ada", email="ada@example.org", quiet_hours=("22:00", "22:01"))
    damage(f"UPDATE contacts SET {column} = :value WHERE user_id = 'ada'", value=value)
    ids = [*chain.hand_over("ada"), *chain.hand_over("bob")]
    chain.play(ids)
    assert sorted(mail.sent) == ["ada", "bob"]
    assert chain.alerts.fired == []


def test_an_event_that_raises_twice_goes_to_the_operators_with_its_error(
    chain: Chain, mail: Mail
) -> None:
    mail.breaks_for = {"ada"}
    bad, good = chain.hand_over("ada"), chain.hand_over("bob")
    chain.play([*bad, *good])
    assert [chain.state(one) for one in (*bad, *good)] == [State.DEAD, State.CONFIRMED]
    assert chain.tries(bad[0]) == [
        ("decision", "failed"),
        ("decision", "failed"),
        ("alert", "delivered"),
    ]
    assert mail.sent == ["bob"]
    group, _ = chain.alerts.fired[-1]
    assert group.sample == tuple(bad)
    assert any("ZeroDivisionError" in fault for fault in group.faults)


def test_an_error_that_passes_costs_one_pause(chain: Chain, mail: Mail) -> None:
    mail.breaks_for = {"ada"}
    ids = chain.hand_over("ada")
    chain.turn()
    mail.breaks_for = set()
    chain.play(ids)
    assert chain.state(ids[0]) is State.CONFIRMED
    assert mail.sent == ["ada"]


def test_others_of_the_same_batch_go_on_at_once(chain: Chain, mail: Mail) -> None:
    mail.breaks_for = {"ada"}
    bad, good = chain.hand_over("ada", count=3), chain.hand_over("bob", count=3)
    chain.play(good)
    assert len(mail.sent) == 1, "one digest of the three"
    assert {chain.state(one) for one in bad} == {State.FALLING_BACK}


@pytest.mark.parametrize(
    ("column", "value"), [("class", "retired"), ("meta", "no json"), ("step", "pigeon")]
)
def test_an_event_whose_row_is_malformed_ends_and_holds_up_no_other(
    chain: Chain, mail: Mail, damage: Any, column: str, value: str
) -> None:
    bad, good = chain.hand_over("ada"), chain.hand_over("bob")
    damage(f"UPDATE events SET {column} = :value WHERE user_id = 'ada'", value=value)
    chain.play(good)
    assert chain.state(good[0]) is State.CONFIRMED
    chain.play(bad)
    assert chain.state(bad[0]) is not State.FALLING_BACK


def test_an_alert_that_cannot_be_told_holds_up_no_other(
    ledger: SqlLedger, chain: Chain, damage: Any
) -> None:
    """The upkeep of every group stopped at the first one."""
    chain.hand_over("nobody")
    ids = chain.hand_over("nobody")
    chain.play(ids)
    assert chain.state(ids[0]) is State.DEAD
    chain.alerts.faults = [ZeroDivisionError("a value that was not foreseen")]
    chain.look_at_alerts()
    chain.look_at_alerts()
    assert ledger.alerts.firing()
