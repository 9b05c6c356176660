"""Revocations of tokens in the ledger, on every database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from delivery.domain.users import revocation
from delivery.domain.users.revocation import RevocationKind
from delivery.errors import Overloaded
from delivery.ledger import SqlLedger
from delivery.ledger.stores import revocations as store

JTI, USER = RevocationKind.JTI, RevocationKind.USER
HOUR = timedelta(hours=1)


def test_a_revocation_reads_back_and_is_gone_when_its_tokens_have_expired(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    one = ledger.revocations.add(JTI, "abc", lifetime=HOUR)
    assert ledger.revocations.page(None) == [one]
    assert ledger.revocations.purge() == 0
    advance(3_601.0)
    assert ledger.revocations.page(None) == []
    assert ledger.revocations.purge() == 1


def test_of_two_revocations_of_a_user_the_later_instant_counts(ledger: SqlLedger) -> None:
    now = ledger.now()
    later = ledger.revocations.add(USER, "ada", before=now, lifetime=HOUR)
    assert (later.before, later.expires_at) == (now, now + HOUR)
    earlier = ledger.revocations.add(USER, "ada", before=now - HOUR, lifetime=HOUR)
    assert earlier == later
    assert ledger.revocations.page(None) == [later]


def test_a_user_and_a_token_of_the_same_name_are_two(ledger: SqlLedger) -> None:
    ledger.revocations.add(JTI, "ada", lifetime=HOUR)
    ledger.revocations.add(USER, "ada", lifetime=HOUR)
    assert {one.kind for one in ledger.revocations.page(None)} == {JTI, USER}


def test_pages_give_every_revocation_once_and_a_refresh_only_what_is_new(
    ledger: SqlLedger, advance: Callable[[float], None]
) -> None:
    for number in range(5):
        ledger.revocations.add(USER if number % 2 else JTI, f"n{number}", lifetime=HOUR)
    found, last = [], None
    while page := ledger.revocations.page(None, last, limit=2):
        found += page
        last = page[-1]
    assert len(found) == len(set(found)) == 5
    advance(10.0)
    since = ledger.now()
    ledger.revocations.add(JTI, "n0", lifetime=HOUR)  # again: nodes that missed it get it
    new = ledger.revocations.add(JTI, "fresh", lifetime=HOUR)
    assert [one.subject for one in ledger.revocations.page(since)] == [new.subject, "n0"]


def test_the_number_of_revocations_is_bounded(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.MAX_REVOCATIONS == revocation.MAX_REVOCATIONS
    monkeypatch.setattr(store, "MAX_REVOCATIONS", 2)
    for name in "ab":
        ledger.revocations.add(JTI, name, lifetime=HOUR)
    with pytest.raises(Overloaded):
        ledger.revocations.add(JTI, "c", lifetime=HOUR)
    ledger.revocations.add(JTI, "a", lifetime=HOUR)
    assert len(ledger.revocations.page(None)) == 2
