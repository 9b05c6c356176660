"""Sign-in events: ledger, queue copy and fast path at once, each on the record; then the chain.

To a confirmation or to the operators, past quiet hours, under faults and in a flood.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from delivery import resources
from delivery.config.sources import read_toml
from delivery.domain.event import AUTH_TYPES, EventClass
from delivery.domain.policy import parse_policies
from tests import servers
from tests.acceptance.conftest import Service, Start
from tests.processes import AUDIT_SECRET, run_command
from tests.wire import eventually, listening

pytestmark = pytest.mark.timeout(240)

LIMIT = 90.0
POLICIES = """
[class.auth]
types = ["auth_started", "auth_validating", "auth_completed", "auth_failed"]
ack_timeout = 1.0
retries = 5
backoff = { base = 0.02, max = 0.1, jitter = 0.1 }
ttl = 600
[[class.auth.chain]]
channel = "direct"
attempts = 5
[[class.auth.chain]]
channel = "email"
after = 0.2
only = ["auth_completed", "auth_failed"]
digest = { by = ["user_id", "run_id"], window = 0.3, min_interval = 60 }
confirms = "link"
[[class.auth.chain]]
channel = "alert"
after = 3.0
"""
ALL_DAY = {"from": "00:00", "to": "23:59"}


@pytest.fixture
def policies(tmp_path: Path) -> str:
    """A file with short times."""
    file = tmp_path / "sign-in.toml"
    file.write_text(POLICIES)
    return str(file)


@pytest.fixture
def redis() -> Iterator[servers.Server]:
    """A Redis that the test may stop."""
    with servers.redis_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """Of the ledger on each database."""
    if request.param == "sqlite":
        return {}
    url = request.getfixturevalue("postgres_url")
    return {"DATABASE_URL": url, "BROKER_URL": "memory://", "AUDIT_SECRET": AUDIT_SECRET}


def three_ways(service: Service, event_id: str) -> dict[str, str]:
    """How the attempts that begin with the event ended, those of the chain left out."""
    return {
        attempt["channel"]: attempt["outcome"].replace("confirmed", "delivered")
        for attempt in service.event(event_id)["attempts"]
        if attempt["channel"] in ("database", "queue", "websocket")
    }


async def recorded(service: Service, event_id: str, **wanted: str) -> None:
    """Wait until the three ways are on the record, as they must have ended."""
    await eventually(lambda: three_ways(service, event_id), lambda seen: seen == wanted, LIMIT)


def sign_in(service: Service, user: str, run: str = "login", type: str = AUTH_TYPES[2]) -> str:
    return service.emit(user, run, (type,))[0]


async def test_a_sign_in_reaches_its_user_by_any_way_or_the_operators(
    start: Start, policies: str, settings: dict[str, str]
) -> None:
    service = start(POLICIES=policies, **settings)
    async with listening(service.url, service.token("ada")) as ada:
        event_id = await asyncio.to_thread(sign_in, service, "ada")
        await ada.until(lambda: event_id in ada.ids)
        await recorded(
            service, event_id, database="delivered", queue="delivered", websocket="delivered"
        )
        await eventually(lambda: service.states([event_id]), lambda s: s == ["confirmed"])
    # Away, in quiet hours: five tries on the sockets, one mail, whose link confirms.
    service.contact("bob", email="bob@example.org", quiet_hours=ALL_DAY, time_zone="UTC")
    away = await asyncio.to_thread(sign_in, service, "bob")
    await recorded(service, away, database="delivered", queue="delivered", websocket="failed")
    mails = await eventually(lambda: service.inbox("email", "bob@example.org"), bool, LIMIT)
    link = re.search(r"http://\S+/confirm/[\w.~=-]+", mails[0]["text"])
    assert link, mails[0]["text"]
    assert (await asyncio.to_thread(httpx.post, link[0])).status_code == 200
    await eventually(lambda: service.states([away]), lambda states: states == ["confirmed"])
    assert service.outcomes(away).count(("direct", "failed")) == 5
    # No confirmation at all: the deadline ends with the operators.
    unheard = await asyncio.to_thread(sign_in, service, "eve")
    await eventually(lambda: service.states([unheard]), lambda states: states == ["dead"], LIMIT)
    assert service.outcomes(unheard)[-1] == ("alert", "skipped")  # no receiver
    assert service.process.stop() == 0
    verify = await asyncio.to_thread(
        run_command,
        *("audit", "verify"),
        cwd=service.data_dir.parent,
        settings={"DATA_DIR": str(service.data_dir), **settings},
    )
    assert verify.returncode == 0, verify.stdout + verify.stderr
    assert "the chain is whole" in verify.stdout


async def test_with_redis_away_the_copy_fails_on_the_record_and_nothing_waits(
    start: Start, policies: str, redis: servers.Server
) -> None:
    service = start(POLICIES=policies, REDIS_URL=redis.url, BROKER_URL="memory://")
    async with listening(service.url, service.token("ada")) as ada:
        redis.kill()
        event_id = await asyncio.to_thread(sign_in, service, "ada")
        await ada.until(lambda: event_id in ada.ids)
        await recorded(
            service, event_id, database="delivered", queue="failed", websocket="delivered"
        )
    queue = next(a for a in service.event(event_id)["attempts"] if a["channel"] == "queue")
    assert "Redis" in queue["error"]


async def test_with_the_ledger_away_copy_and_push_go_on_and_are_recorded_when_it_is_back(
    start: Start, policies: str, redis: servers.Server
) -> None:
    service = start(POLICIES=policies, REDIS_URL=redis.url, BROKER_URL="memory://")
    file = f"file:{service.data_dir / 'delivery.sqlite3'}?mode=rw"
    service.http.timeout = httpx.Timeout(30.0)
    async with listening(service.url, service.token("ada")) as ada:
        with contextlib.closing(sqlite3.connect(file, uri=True)) as intruder:
            intruder.isolation_level = None
            intruder.execute("BEGIN EXCLUSIVE")
            event_id = await asyncio.to_thread(sign_in, service, "ada")
            await ada.until(lambda: event_id in ada.ids)
            intruder.execute("ROLLBACK")
        await eventually(lambda: _is_there(service, event_id), bool, LIMIT)
        await recorded(
            service, event_id, database="delivered", queue="delivered", websocket="delivered"
        )
        await eventually(lambda: service.states([event_id]), lambda s: s == ["confirmed"], LIMIT)


def _is_there(service: Service, event_id: str) -> bool:
    return service.http.get(f"/v1/events/{event_id}").status_code == 200


async def test_a_flood_of_one_users_sign_ins_is_bounded_and_holds_no_other_up(
    start: Start, policies: str, settings: dict[str, str]
) -> None:
    service = start(POLICIES=policies, **settings)
    for user in ("flood", "ben"):
        service.contact(user, email=f"{user}@example.org")
    # Each failed sign-in as a run of its own, as a login page makes them.
    flood: list[dict[str, Any]] = [
        {"type": "auth_failed", "user_id": "flood", "run_id": f"try-{number}", "data": {}}
        for number in range(200)
    ]
    answer = await asyncio.to_thread(service.http.post, "/v1/events", json={"events": flood})
    assert answer.status_code == 202
    async with listening(service.url, service.token("ada")) as ada:
        event_id = await asyncio.to_thread(sign_in, service, "ada")
        await ada.until(lambda: event_id in ada.ids)
        await recorded(
            service, event_id, database="delivered", queue="delivered", websocket="delivered"
        )
    ben = await asyncio.to_thread(sign_in, service, "ben")
    sent = ("email", "delivered")
    await eventually(lambda: service.outcomes(ben), lambda seen: sent in seen, LIMIT)
    mails = await eventually(lambda: service.inbox("email", "flood@example.org"), bool, LIMIT)
    assert len(mails) == 1, "one a minute, and not two hundred"


def test_the_shipped_chain_of_sign_ins_ignores_quiet_hours_and_ends_with_the_operators() -> None:
    file = resources.file("config", "policies.toml")
    policy = parse_policies(read_toml(file), source=str(file)).of(EventClass.AUTH)
    assert set(policy.types) == set(AUTH_TYPES)
    assert policy.retries == 5
    assert not any("quiet_hours" in step.respects for step in policy.chain)
    assert [step.channel for step in policy.chain][-1] == "alert"
    assert policy.ttl <= 3_600
    assert "accepted" not in {step.confirms for step in policy.chain}, "its user confirms"
