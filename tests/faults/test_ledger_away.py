"""The database full, read-only, or locked by another process; and then the spool full, too.

Whole processes. What was answered with 202 is there afterwards, what was refused is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
import uuid_utils
from sqlalchemy import make_url

from tests import databases, servers
from tests.acceptance.conftest import Service, Start
from tests.wire import Listener, eventually, listening

pytestmark = pytest.mark.timeout(120)

# One transaction waits five seconds for SQLite's lock, a connection to PostgreSQL three.
LONG_WAIT = 30.0


def post(service: Service, size: int) -> tuple[str, httpx.Response]:
    """Emit one event of about ``size`` bytes under an id of our own."""
    event_id = str(uuid_utils.uuid7())
    event = {
        "id": event_id,
        "type": "note",
        "user_id": "ada",
        "run_id": "r",
        "data": {"text": "x" * size},
    }
    return event_id, service.http.post("/v1/events", json=event, timeout=LONG_WAIT)


def status(service: Service, event_id: str) -> int:
    return service.http.get(f"/v1/events/{event_id}", timeout=LONG_WAIT).status_code


def recorded(service: Service, ids: list[str]) -> list[int]:
    return [status(service, event_id) for event_id in ids]


async def test_a_full_spool_refuses_with_a_time_to_come_back_and_loses_nothing_it_took(
    start: Start,
) -> None:
    service = start(ack_timeout=60.0, SPOOL_BYTES="65536")
    file = f"file:{service.data_dir / 'delivery.sqlite3'}?mode=rw"
    taken: list[str] = []
    with contextlib.closing(sqlite3.connect(file, uri=True)) as intruder:
        intruder.isolation_level = None
        intruder.execute("BEGIN EXCLUSIVE")  # another process holds the database
        for _ in range(20):
            event_id, answer = await asyncio.to_thread(post, service, 10_000)
            if answer.status_code != 202:
                break
            taken.append(event_id)
        assert taken, "the spool takes what fits"
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        refused = [event_id, post(service, 10_000)[0]]
        intruder.execute("ROLLBACK")
    await eventually(lambda: recorded(service, taken), lambda seen: set(seen) == {200}, LONG_WAIT)
    _, again = await asyncio.to_thread(post, service, 10_000)
    assert again.status_code == 202, "and is empty again"
    assert recorded(service, refused) == [404, 404]
    async with listening(service.url, service.token("ada")) as page:
        await page.until(lambda: len(page.ids) > len(taken))
        assert page.ids[: len(taken)] == taken, "in order"


async def test_a_full_disk_under_the_spool_is_a_503_and_no_refused_event_appears(
    start: Start,
) -> None:
    service = start(ack_timeout=60.0)
    file = f"file:{service.data_dir / 'delivery.sqlite3'}?mode=rw"
    answers: dict[str, httpx.Response] = {}
    # No file of the service grows beyond this; its database is locked, and its log is longer.
    limit = 64 * 1024
    _, most = resource.prlimit(service.process.process.pid, resource.RLIMIT_FSIZE)
    with contextlib.closing(sqlite3.connect(file, uri=True)) as intruder:
        intruder.isolation_level = None
        intruder.execute("BEGIN EXCLUSIVE")
        resource.prlimit(service.process.process.pid, resource.RLIMIT_FSIZE, (limit, most))
        for number in range(14):
            size = 9_000 if number % 2 else 100  # small ones fit where a large one does not
            event_id, answer = await asyncio.to_thread(post, service, size)
            answers[event_id] = answer
        resource.prlimit(service.process.process.pid, resource.RLIMIT_FSIZE, (most, most))
        intruder.execute("ROLLBACK")
    taken = [one for one, answer in answers.items() if answer.status_code == 202]
    refused = [one for one in answers if one not in taken]
    assert taken
    assert refused
    for event_id in refused:
        assert answers[event_id].status_code == 503, answers[event_id].text
        assert answers[event_id].json()["type"] == "/problems/spool-full"
        assert int(answers[event_id].headers["Retry-After"]) >= 1
    await eventually(lambda: recorded(service, taken), lambda seen: set(seen) == {200}, LONG_WAIT)
    assert recorded(service, refused) == [404] * len(refused)


@contextlib.contextmanager
def small_disk() -> Iterator[Path | None]:
    """A tmpfs of 40 MiB, for PostgreSQL to keep tables in; ``None`` where mounting is not
    allowed."""
    with servers.server_folder("disk") as folder:
        # As root, the server runs as another user and wants its folder to be its own.
        owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
        options = f"size=40m,mode=0700,uid={owner}"
        mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            yield None
            return
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left within the block."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(url: str) -> Iterator[None]:
    """No write succeeds within the block, as on a server that was demoted to a replica."""
    name = make_url(url).database
    leave = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )
    setting = f"ALTER DATABASE {name} SET default_transaction_read_only"
    administer(url, f"{setting} = on", leave)
    try:
        yield
    finally:
        administer(url, "SET default_transaction_read_only = off", f"{setting} = off", leave)


def administer(url: str, *statements: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


async def emitted_through(
    service: Service,
    page: Listener,
    trouble: contextlib.AbstractContextManager[None],
    count: int,
    said: str,
) -> None:
    """What is emitted during the trouble, until the service has said what it is, reaches its user
    live, and the ledger afterwards."""
    already = len(page.events)
    ids = []

    def emitted() -> str:
        event_id, answer = post(service, 10_000)
        assert answer.status_code == 202, answer.text
        ids.append(event_id)
        return service.process.tail(20_000)

    with trouble:
        await eventually(emitted, lambda log: len(ids) >= count and re.search(said, log), LONG_WAIT)
        await page.until(lambda: len(page.ids) >= already + len(ids), LONG_WAIT)
    await eventually(lambda: recorded(service, ids), lambda s: set(s) == {200}, LONG_WAIT)
    assert page.ids[already:] == ids, "in order, and once"
    await page.send({"type": "ack", "upto": len(page.events)})
    await eventually(
        lambda: service.states(ids), lambda seen: set(seen) == {"confirmed"}, LONG_WAIT
    )


async def test_a_database_that_cannot_be_written_is_a_ledger_that_is_away(start: Start) -> None:
    with small_disk() as disk, servers.postgres() as server:
        create = "CREATE DATABASE small"
        if disk is not None:
            administer(server.url, f"CREATE TABLESPACE small LOCATION '{disk}'")
            create += " TABLESPACE small"
        administer(server.url, create)
        url = databases.text(make_url(server.url).set(database="small"))
        service = start(ack_timeout=60.0, DATABASE_URL=url)
        async with listening(service.url, service.token("ada"), acks=False) as page:
            await asyncio.to_thread(post, service, 10)
            await page.receive(1)
            if disk is not None:
                await emitted_through(service, page, full(disk), 40, "DiskFull|No space left")
            await emitted_through(service, page, read_only(url), 10, "ReadOnly|read-only")
        service.process.kill()
