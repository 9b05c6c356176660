"""Revoked tokens: which are covered, what a node that was cut off learns, what is forgotten."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from delivery.callers.auth import Authenticator
from delivery.callers.revocations import (
    RevocationReader,
    Revocations,
    message_of,
    of_message,
)
from delivery.domain.node_messages import Revoked
from delivery.domain.users.revocation import Revocation, RevocationKind
from delivery.errors import Unauthenticated
from delivery.ledger.access import LedgerAccess
from delivery.testing import FakeClock, MemoryLedger
from delivery.tokens import make_token
from tests.waiting import until

SECRET = "s" * 32
JTI, USER = RevocationKind.JTI, RevocationKind.USER
YEAR = timedelta(days=366)


def revoked(kind: RevocationKind, subject: str, *, before: float | None = None) -> Revocation:
    at = None if before is None else datetime.fromtimestamp(before, UTC)
    return Revocation(kind, subject, at, datetime.now(UTC) + YEAR)


def sign(**claims: object) -> str:
    return jwt.encode({"sub": "ada", "exp": time.time() + 60} | claims, SECRET, "HS256")


async def is_refused(auth: Authenticator, token: str) -> bool:
    try:
        await auth.verify(token)
    except Unauthenticated as error:
        return (error.close_code, str(error)) == (3500, "the token was revoked")
    return False


async def test_a_token_is_refused_by_its_id_although_it_was_verified_before() -> None:
    auth = Authenticator(SECRET)
    token, other = sign(jti="a"), sign(jti="b")
    principal = await auth.verify(token)
    auth.revocations.add([revoked(JTI, "a")])
    assert await is_refused(auth, token)
    assert not await is_refused(auth, other)
    with pytest.raises(Unauthenticated):
        auth.check(principal)


@pytest.mark.parametrize(
    ("claims", "is_old"),
    [
        ({"iat": 1_000}, True),
        ({"iat": 999.5}, True),
        ({"iat": 1_000.5}, False),
        ({"iat": 1_001}, False),
        ({}, True),
        ({"iat": 999, "scope": "emit"}, False),  # a service of that name is no user
        ({"iat": 999, "scope": "openid"}, True),
        ({"iat": 999, "sub": "eve"}, False),
    ],
)
async def test_a_users_tokens_are_refused_when_they_were_issued_before(
    claims: dict[str, object], is_old: bool
) -> None:
    auth = Authenticator(SECRET)
    auth.revocations.add([revoked(USER, "ada", before=1_000.5)])
    assert await is_refused(auth, sign(**claims)) is is_old


async def test_a_token_made_right_after_the_revocation_is_good() -> None:
    auth = Authenticator(SECRET)
    old = make_token(SECRET, "ada")
    before = time.time() + 0.001
    auth.revocations.add([revoked(USER, "ada", before=before)])
    assert await is_refused(auth, old)
    await until(lambda: time.time() > before + 0.001)
    assert not await is_refused(auth, make_token(SECRET, "ada"))


async def test_what_is_earlier_or_known_calls_no_watcher() -> None:
    revocations, told = Revocations(), []
    revocations.watch(lambda: told.append(len(revocations)))
    revocations.add([revoked(JTI, "a"), revoked(USER, "ada", before=50.0)])
    revocations.add([revoked(JTI, "a"), revoked(USER, "ada", before=40.0)])
    assert told == [2]


async def test_revocations_are_forgotten_when_the_tokens_have_expired() -> None:
    now = time.time()
    revocations = Revocations(clock=lambda: now)
    revocations.add([revoked(JTI, "a"), revoked(USER, "ada", before=50.0)])
    revocations.prune()
    assert len(revocations) == 2
    now += YEAR.total_seconds() + 1.0
    revocations.prune()
    assert len(revocations) == 0


@pytest.mark.parametrize("one", [revoked(JTI, "a"), revoked(USER, "ada", before=50.25)])
def test_a_message_tells_the_whole_revocation(one: Revocation) -> None:
    message = message_of("n1", one)
    assert isinstance(message, Revoked)
    assert of_message(message) == one


async def test_a_node_that_was_cut_off_learns_what_was_revoked_meanwhile() -> None:
    ledger = MemoryLedger(FakeClock(datetime.now(UTC)))
    ledger.revocations.add(JTI, "before", lifetime=YEAR)
    access, found = LedgerAccess(ledger), Revocations()
    reader = RevocationReader(found, access, access, period=0.01)
    try:
        await reader.start()
        assert len(found) == 1
        ledger.go_away()
        ledger.come_back()
        ledger.revocations.add(JTI, "meanwhile", lifetime=YEAR)
        await until(lambda: len(found) == 2)
    finally:
        await reader.stop()
        access.close()
        ledger.close()


async def test_a_start_without_the_ledger_reads_all_when_it_is_back() -> None:
    ledger = MemoryLedger(FakeClock(datetime.now(UTC)))
    ledger.revocations.add(JTI, "before", lifetime=YEAR)
    ledger.advance(3_600.0)
    ledger.go_away()
    access, found = LedgerAccess(ledger), Revocations()
    reader = RevocationReader(found, access, access, period=0.01)
    try:
        await reader.start()
        assert len(found) == 0
        ledger.come_back()
        await until(lambda: len(found) == 1)
    finally:
        await reader.stop()
        access.close()
        ledger.close()


async def test_a_token_that_is_valid_for_too_long_is_refused() -> None:
    auth = Authenticator(SECRET, max_secret_ttl=100.0, leeway=5.0)
    now = time.time()
    assert (await auth.verify(sign(exp=now + 100))).subject == "ada"
    for claims in ({"exp": now + 110}, {"exp": now + 60, "iat": now - 60}, {"exp": 9**15}):
        with pytest.raises(Unauthenticated, match="DELIVERY_JWT_MAX_TTL") as refusal:
            await auth.verify(sign(**claims))
        assert refusal.value.close_code == 3500
