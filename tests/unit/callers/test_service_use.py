"""The use of services' tokens: few rows, whatever a backend does with its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from delivery.callers.auth import Authenticator
from delivery.callers.principal import Principal
from delivery.callers.service_use import PER_HOUR, PER_SERVICE, ServiceUse
from delivery.errors import LedgerUnavailable
from delivery.tokens import make_token

SECRET = "s" * 32


class Log:
    """Rows that were recorded."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.is_away = False
        self.now = 7_200.0
        self.use = ServiceUse(self.record, "node-1", clock=lambda: self.now)

    async def record(self, kind: str, user_id: str, facts: Mapping[str, Any]) -> None:
        assert (kind, user_id) == ("service_token_used", "")
        if self.is_away:
            raise LedgerUnavailable("away")
        self.rows.append(facts)

    async def seen(self, service: str, jti: str) -> None:
        until = datetime(2030, 1, 1, tzinfo=UTC)
        principal = Principal(service, frozenset({"emit"}), False, until, token_ids=(jti,))
        self.use(principal, "0123")
        await self.use.close()


async def test_the_first_use_of_a_token_in_an_hour_is_recorded() -> None:
    log = Log()
    for _ in range(3):
        await log.seen("backend", "a")
    await log.seen("backend", "b")
    assert [row["token"] for row in log.rows] == ["a", "b"]
    assert log.rows[0] == {
        "service": "backend",
        "scopes": ["emit"],
        "token": "a",
        "node": "node-1",
    }
    log.now += 3_600
    await log.seen("backend", "a")
    assert len(log.rows) == 3


async def test_a_token_for_every_request_fills_no_log() -> None:
    log = Log()
    for number in range(3 * PER_SERVICE):
        await log.seen("backend", str(number))
    assert len(log.rows) == PER_SERVICE
    assert [row.get("more") for row in log.rows[-2:]] == [None, True]
    for number in range(2 * PER_HOUR):
        await log.seen(f"service {number}", "a")
    assert len(log.rows) == PER_HOUR


async def test_names_of_services_without_a_row_are_not_remembered() -> None:
    log = Log()
    for number in range(2 * PER_HOUR):
        await log.seen(f"service {number}", "a")
    assert len(log.use) == PER_HOUR
    log.now += 3_600
    log.is_away = True
    for number in range(2 * PER_HOUR):
        await log.seen(f"service {number}", "a")
    assert len(log.use) == 0
    log.is_away = False  # and what could not be recorded has used up nothing
    await log.seen("backend", "a")
    assert log.rows[-1]["service"] == "backend"


async def test_a_use_that_could_not_be_recorded_is_recorded_with_the_next() -> None:
    log = Log()
    log.is_away = True
    await log.seen("backend", "a")
    log.is_away = False
    await log.seen("backend", "a")
    assert len(log.rows) == 1


async def test_a_door_notes_services_and_no_users() -> None:
    auth = Authenticator(SECRET)
    noted: list[tuple[str, str]] = []
    auth.on_service = lambda principal, mark: noted.append((principal.subject, mark))
    await auth.verify(make_token(SECRET, "ada"))
    token = make_token(SECRET, "backend", "emit read")
    for _ in range(3):
        await auth.verify(token)
    ((name, mark),) = noted
    assert name == "backend"
    assert len(mark) == 16
    await auth.close()
