"""What a ledger call does when PostgreSQL stops answering: it ends, in time, as unavailable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
import sqlalchemy as sa

from delivery.errors import LedgerUnavailable
from delivery.ledger.sql.database import CONNECT_TIMEOUT, Database
from tests import servers

ANSWER_TIMEOUT = 0.5


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[servers.Server]:
    """A PostgreSQL of this test's own."""
    with servers.postgres() as server:
        yield server


@pytest.fixture
def database(own_postgres: servers.Server) -> Iterator[Database]:
    """A connected handle with a short answer timeout."""
    with closing(Database(own_postgres.url, answer_timeout=ANSWER_TIMEOUT)) as database:
        assert database.now()
        yield database


@contextmanager
def frozen(server: servers.Server) -> Iterator[None]:
    """The server answers nothing within the block, however it ends."""
    server.stop()
    try:
        yield
    finally:
        server.cont()


def test_a_statement_on_a_server_that_freezes_midway_is_given_up(
    own_postgres: servers.Server, database: Database
) -> None:
    def ask() -> None:
        with database.write() as connection:
            connection.execute(sa.text("select 1"))
            with frozen(own_postgres):
                connection.execute(sa.text("select 2"))

    begun = time.monotonic()
    with pytest.raises(LedgerUnavailable, match="did not answer"):
        ask()
    assert ANSWER_TIMEOUT <= time.monotonic() - begun < ANSWER_TIMEOUT + 3.0
    assert database.now(), "the next call has a connection of its own"


def test_a_copy_into_a_server_that_freezes_midway_is_given_up(
    own_postgres: servers.Server, database: Database
) -> None:
    def ask() -> None:
        with database.write() as connection:
            connection.execute(sa.text("create temporary table t (line text)"))
            cursor = connection.connection.cursor()
            with frozen(own_postgres), cursor.copy("copy t from stdin") as copy:
                for _ in range(200):
                    copy.write("x" * 65_536 + "\n")

    begun = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        ask()
    assert time.monotonic() - begun < 3 * ANSWER_TIMEOUT + 3.0


def test_a_pooled_connection_to_a_frozen_server_is_asked_only_shortly(
    own_postgres: servers.Server, database: Database
) -> None:
    begun = time.monotonic()
    with frozen(own_postgres), pytest.raises(LedgerUnavailable):
        database.now()
    # Once for the question whether it lives, once for a new one.
    assert time.monotonic() - begun < 2 * CONNECT_TIMEOUT + 3.0
    assert database.now()


def test_the_servers_own_limit_comes_first_while_it_answers(own_postgres: servers.Server) -> None:
    def ask(database: Database) -> None:
        with database.read() as connection:
            connection.execute(sa.text("set local statement_timeout = 200"))
            connection.execute(sa.text("select pg_sleep(30)"))

    with closing(Database(own_postgres.url)) as database:
        with pytest.raises(LedgerUnavailable, match="statement timeout"):
            ask(database)
        assert database.now()


def test_a_slow_answer_within_the_limit_is_taken(database: Database) -> None:
    with database.read() as connection:
        asked = connection.execute(sa.text("select pg_sleep(0.3), 7"))
        assert asked.one()[1] == 7


def test_migrations_may_take_their_time(own_postgres: servers.Server) -> None:
    forever = Database(own_postgres.url, answer_timeout=None)
    with closing(forever) as database, database.write() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.answer_timeout is None
