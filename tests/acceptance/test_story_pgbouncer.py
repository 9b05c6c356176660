"""Story: PostgreSQL stands behind a PgBouncer in transaction mode, with two sessions for all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import Start
from tests.pgbouncer import pgbouncer, through
from tests.servers import Server
from tests.wire import eventually, listening

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def bouncer(postgres_admin: str) -> Iterator[Server]:
    with pgbouncer(postgres_admin, pool_size=2) as running:
        yield running


@pytest.mark.parametrize("migrations", ["pooled", "direct"])
async def test_events_are_emitted_confirmed_and_fall_back_without_an_error(
    start: Start, bouncer: Server, postgres_url: str, migrations: str
) -> None:
    direct = {"MIGRATE_DATABASE_URL": postgres_url} if migrations == "direct" else {}
    service = start(alert_after=0.3, DATABASE_URL=through(bouncer, postgres_url), **direct)
    async with listening(service.url, service.token("ada")) as listener:
        mine: list[str] = []
        for run in range(10):
            mine += await asyncio.to_thread(service.emit, "ada", f"run-{run}")
        await listener.receive(len(mine), timeout=60)
        await eventually(
            lambda: set(service.states(mine)), lambda states: states == {"confirmed"}, timeout=60
        )
    service.contact("bob", email="bob@example.org")
    theirs = await asyncio.to_thread(service.emit, "bob", "run")
    await eventually(lambda: set(service.states(theirs)), lambda s: s == {"dead"}, timeout=90)
    assert service.inbox("email", "bob@example.org")
    replayed = service.http.post("/v1/replay", json={"state": "dead"})
    assert replayed.json()["replayed"] == 5
    assert service.http.get("/readyz").json()["reasons"] == []
    assert service.process.stop() == 0
    log = service.process.tail(200_000)
    for words in ("Traceback", "prepared statement", "go to the spool", "unsupported startup"):
        assert words not in log, log
