"""The drill of docs/operations.md: dump, lose an hour, restore; and what everybody sees then."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import uuid_utils

import delivery
from delivery.bench.faults.servers import postgres_folder
from delivery.client.store import MemoryStore
from tests import databases
from tests.acceptance.conftest import Service, Start
from tests.processes import run_command
from tests.wire import eventually, listening

pytestmark = pytest.mark.timeout(120)


def plain(url: str) -> str:
    """As PostgreSQL's own tools take it."""
    return url.replace("+psycopg", "")


def tool(*args: str) -> None:
    """Run one of PostgreSQL's own programs."""
    name, *rest = args
    program = postgres_folder() / name
    done = subprocess.run([str(program), *rest], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def restored_url(postgres_admin: str) -> Iterator[str]:
    """The database of the second life, empty."""
    with databases.created(postgres_admin) as url:
        yield databases.text(url)


def emit(service: Service, event_id: str, number: int) -> bool:
    """Emit under an id of the producer's own; whether it was a duplicate."""
    event = {
        "id": event_id,
        "type": "note",
        "user_id": "ada",
        "run_id": "r",
        "data": {"number": number},
    }
    answer = service.http.post("/v1/events", json={"events": [event]})
    assert answer.status_code == 202, answer.text
    return bool(answer.json()["accepted"][0]["duplicate"])


async def handle(service: Service, store: MemoryStore, handled: list[str], until: int) -> None:
    """Be the user's page until it has handled so many events in all its lives."""
    async with delivery.Client(service.url, service.token("ada"), store=store) as client:
        while len(handled) < until:
            handled.append((await anext(client)).id)


async def test_a_restored_backup_replays_what_it_knows_and_takes_again_what_it_lost(
    start: Start, postgres_url: str, restored_url: str, tmp_path: Path
) -> None:
    ids = [str(uuid_utils.uuid7()) for _ in range(5)]
    store, handled = MemoryStore(), list[str]()
    service = start(ack_timeout=60.0, DATABASE_URL=postgres_url)
    for number, event_id in enumerate(ids[:3]):
        await asyncio.to_thread(emit, service, event_id, number)
    await handle(service, store, handled, until=2)
    await eventually(lambda: service.states(ids[:2]), lambda s: set(s) == {"confirmed"})

    tool("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", plain(postgres_url))

    # The hour that will be lost: two more events, and the user handles all there is.
    for number, event_id in enumerate(ids[3:], start=3):
        await asyncio.to_thread(emit, service, event_id, number)
    await handle(service, store, handled, until=5)
    await eventually(lambda: service.states(ids), lambda s: set(s) == {"confirmed"})
    assert handled == ids
    service.process.kill()

    tool("pg_restore", "--exit-on-error", f"--dbname={plain(restored_url)}", f"{tmp_path / 'dump'}")
    service = start(ack_timeout=60.0, DATABASE_URL=restored_url)

    # The cursor names an unknown event, and the page is told so.
    token = service.token("ada")
    async with listening(service.url, token, acks=False, cursor=ids[4]) as page:
        assert page.welcome["recovered"] is False
        await page.receive(1)
        assert page.ids == [ids[2]], "its ack is lost; what was confirmed before the dump is not"

    # The producer repeats what it has no confirmation of; what survived is a duplicate.
    repeated = [await asyncio.to_thread(emit, service, e, n) for n, e in enumerate(ids)]
    assert repeated == [True, True, True, False, False]
    listening_again = asyncio.create_task(handle(service, store, handled, until=6))
    await eventually(lambda: service.states(ids), lambda s: set(s) == {"confirmed"})
    last = str(uuid_utils.uuid7())
    await asyncio.to_thread(emit, service, last, 5)
    await asyncio.wait_for(listening_again, 15)
    assert handled == [*ids, last], "acknowledged again, and handled once by each client"
    settings = {"DATABASE_URL": restored_url}
    verified = await asyncio.to_thread(
        run_command, "audit", "verify", cwd=tmp_path, settings=settings
    )
    assert verified.returncode == 0, verified.stdout
