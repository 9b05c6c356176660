"""Indexes of large tables: built beside running processes, by one command at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from delivery.errors import LedgerUnavailable
from delivery.ledger import migrate
from delivery.ledger.index_builds import SMALL
from tests.waiting import until_blocking

INDEXES = {"ix_events_published", "ix_events_turn"}
ROWS = f"""
INSERT INTO events (id, position, type, user_id, run_id, at, class, data, state, expires_at,
  recorded_at)
SELECT gen_random_uuid(), nextval('events_position_seq'), 't', 'u' || n, 'r', now(), 'standard',
  '{{}}', 'accepted', now() + interval '1 day', now() FROM generate_series(1, {SMALL + 1}) n
"""


@pytest.fixture
def server(postgres_url: str) -> Iterator[psycopg.Connection]:
    """A connection to a database of the first release with many events."""
    migrate.upgrade(postgres_url, "0001")
    url = postgres_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(ROWS)
        yield connection


def indexes(server: psycopg.Connection) -> dict[str, bool]:
    """Which of them there are, and whether each is valid."""
    rows = server.execute(
        "select c.relname, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid"
    )
    return {name: valid for name, valid in rows if name in INDEXES}


def noted(server: psycopg.Connection) -> int:
    row = server.execute("select count(*) from index_builds").fetchone()
    assert row is not None
    return int(row[0])


def building(server: psycopg.Connection) -> list[int]:
    """Process ids of servers' sessions that build an index now."""
    rows = server.execute(
        "select pid from pg_stat_progress_create_index where command = 'CREATE INDEX CONCURRENTLY'"
    )
    return [pid for (pid,) in rows]


def hold(connection: psycopg.Connection) -> None:
    """Hold up every build at its end, which waits for snapshots that are older than it."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.execute("select txid_current()")


def test_an_interrupted_build_is_dropped_and_built_anew_while_events_are_written(
    postgres_url: str, server: psycopg.Connection
) -> None:
    with (
        ThreadPoolExecutor() as pool,
        psycopg.connect(postgres_url.replace("+psycopg", "")) as writer,
    ):
        hold(writer)
        first = pool.submit(migrate.upgrade, postgres_url)
        until_blocking(lambda: building(server) != [] or first.done(), 60)
        assert not first.done()
        assert migrate.is_current(postgres_url), "processes may start meanwhile"
        server.execute(ROWS)
        [session] = building(server)
        server.execute("select pg_terminate_backend(%s)", [session])
        with pytest.raises(LedgerUnavailable, match="migrate"):
            first.result(60)
        assert False in indexes(server).values()
        assert noted(server) == len(INDEXES)
    migrate.upgrade(postgres_url)
    assert indexes(server) == dict.fromkeys(INDEXES, True)
    assert noted(server) == 0


def test_of_two_commands_one_builds_and_the_other_waits_for_it(
    postgres_url: str, server: psycopg.Connection
) -> None:
    ended = threading.Event()
    with (
        ThreadPoolExecutor() as pool,
        psycopg.connect(postgres_url.replace("+psycopg", "")) as writer,
    ):
        hold(writer)
        commands = [pool.submit(migrate.upgrade, postgres_url) for _ in range(2)]
        for command in commands:
            command.add_done_callback(lambda _: ended.set())
        until_blocking(lambda: building(server) != [] or ended.is_set(), 60)
        assert len(building(server)) == 1
        assert not ended.is_set()
        writer.commit()
        for command in commands:
            command.result(60)
    assert indexes(server) == dict.fromkeys(INDEXES, True)


def test_a_small_table_has_its_indexes_at_once(postgres_url: str) -> None:
    migrate.upgrade(postgres_url)
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as server:
        assert indexes(server) == dict.fromkeys(INDEXES, True)
        assert noted(server) == 0
