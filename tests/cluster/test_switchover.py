"""A PostgreSQL switchover: the old primary stays up as a standby, and connections leave it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from delivery.bench.faults import replication
from delivery.errors import ConfigError, LedgerReadOnly, LedgerUnavailable
from delivery.ledger.sql.database import Database
from tests import servers
from tests.processes import SECRET, run_command

pytestmark = pytest.mark.timeout(180)


@contextmanager
def pair() -> Iterator[tuple[servers.Server, servers.Server]]:
    """A primary and its standby."""
    with servers.postgres() as primary, replication.standby_of(primary) as standby:
        yield primary, standby


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[servers.Server, servers.Server]]:
    """The pair of this module, whose roles no test changes."""
    with pair() as made:
        yield made


def server_of(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.text("select inet_server_port()")).scalar_one())


def port(server: servers.Server) -> int:
    return make_url(server.url).port or 0


def hosts(*found: servers.Server) -> str:
    return ",".join(f"127.0.0.1:{port(server)}" for server in found)


def test_a_standby_answers_and_the_ping_says_that_it_takes_no_writes(
    two: tuple[servers.Server, servers.Server],
) -> None:
    primary, standby = two
    with closing(Database(standby.url)) as database:
        assert server_of(database) == port(standby)
        with pytest.raises(LedgerReadOnly, match="standby"):
            database.ping()
        with pytest.raises(LedgerReadOnly, match="read-only"):
            run(database, "create table never (id int)")
    with closing(Database(primary.url)) as database:
        database.ping()


@pytest.mark.parametrize("form", ["libpq", "sqlalchemy"])
def test_of_several_hosts_the_one_that_takes_writes_is_used(
    two: tuple[servers.Server, servers.Server], form: str
) -> None:
    primary, standby = two
    url = f"postgresql://postgres@{hosts(standby, primary)}/postgres"
    if form == "sqlalchemy":
        query = "&".join(f"host=127.0.0.1:{port(server)}" for server in (standby, primary))
        url = f"postgresql+psycopg://postgres@/postgres?{query}"
    with closing(Database(url)) as database:
        run(database, "create table if not exists marks (at timestamptz)")
        assert server_of(database) == port(primary)


def test_without_a_server_that_takes_writes_the_error_says_so(
    two: tuple[servers.Server, servers.Server],
) -> None:
    _, standby = two
    url = f"postgresql://postgres@{hosts(standby, standby)}/postgres"
    with closing(Database(url)) as database, pytest.raises(LedgerReadOnly, match="read-only"):
        database.ping()


def test_one_refused_write_discards_every_connection_that_was_opened_before(
    postgres_url: str,
) -> None:
    with closing(Database(postgres_url, pool_size=3)) as database:
        before = backends(database)
        with pytest.raises(LedgerReadOnly):
            run(database, "set transaction read only", "create table never (id int)")
        assert not before & backends(database)


def test_a_session_that_the_server_ends_takes_its_siblings_along(postgres_url: str) -> None:
    with closing(Database(postgres_url, pool_size=3)) as database:
        before = backends(database)
        with pytest.raises(LedgerUnavailable):
            run(database, "select pg_terminate_backend(pg_backend_pid())")
        assert not before & backends(database)


@pytest.mark.parametrize(
    "statements",
    [
        ("set local statement_timeout = 1", "select pg_sleep(5)"),
        ("select * from no_such_table",),
        ("select 1 / 0",),
    ],
)
def test_an_error_of_a_statement_costs_no_connection(
    postgres_url: str, statements: tuple[str, ...]
) -> None:
    with closing(Database(postgres_url, pool_size=3)) as database:
        before = backends(database)
        with pytest.raises((LedgerUnavailable, sa.exc.DBAPIError)):
            run(database, *statements)
        assert before == backends(database)


def test_a_copy_that_is_refused_counts_like_any_statement(postgres_url: str) -> None:
    def copy(database: Database) -> None:
        with database.write() as connection:
            connection.execute(sa.text("set transaction read only"))
            with connection.connection.cursor().copy("copy lines from stdin") as copying:
                copying.write("x\n")

    with closing(Database(postgres_url, pool_size=3)) as database:
        run(database, "create table lines (line text)")
        before = backends(database)
        with pytest.raises(LedgerReadOnly):
            copy(database)
        assert not before & backends(database)


def run(database: Database, *statements: str) -> None:
    with database.write() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def backends(database: Database) -> set[int]:
    """The servers' processes behind all connections of the pool."""
    with ExitStack() as stack:
        used = [stack.enter_context(database.read()) for _ in range(3)]
        question = sa.text("select pg_backend_pid()")
        return {int(one.execute(question).scalar_one()) for one in used}


@pytest.mark.parametrize("attrs", ["standby", "read-only", "prefer-standby", "nonsense"])
def test_a_url_that_asks_for_a_server_without_writes_is_refused(attrs: str) -> None:
    with pytest.raises(ConfigError, match="target_session_attrs"):
        Database(f"postgresql://u@h/d?target_session_attrs={attrs}")


def test_check_says_that_the_database_is_a_standby(
    two: tuple[servers.Server, servers.Server], tmp_path: Path
) -> None:
    primary, standby = two
    settings = {"JWT_SECRET": SECRET, "BROKER_URL": "memory://", "DATABASE_URL": primary.url}
    assert run_command("migrate", cwd=tmp_path, settings=settings).returncode == 0
    replication.caught_up(primary, standby)
    settings["DATABASE_URL"] = standby.url
    done = run_command("check", cwd=tmp_path, settings=settings)
    assert done.returncode == 3, done.stdout
    assert "the server is a standby" in done.stdout
    assert "h1,h2" in done.stdout
