"""The ledger on each database that it supports, migrated as an operator would, and the one that
tests use in its place."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from delivery.ledger import SqlLedger, migrate
from delivery.ledger.sql.audit_tables import audit_log
from delivery.ledger.sql.database import Database
from delivery.testing import FakeClock, MemoryLedger
from tests import databases
from tests.ledger_clock import moved

AHEAD = timedelta(seconds=10)
"""Tests date their events by the wall clock, which runs on: none may lie in the future of a ledger
whose clock stands."""


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file; each test gets a copy, which is faster than migrating anew."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_admin: str) -> Iterator[str]:
    """The name of a migrated database; each test gets a copy."""
    with databases.created(postgres_admin) as url:
        migrate.upgrade(databases.text(url))
        yield str(url.database)


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def open_ledger(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[], SqlLedger]]:
    """Opens one empty ledger as often as it is called: each time as another process would. In
    memory there is one process, whose ledgers share its database."""
    with ExitStack() as stack:
        if request.param == "memory":
            opened = itertools.chain(
                [memory := MemoryLedger(FakeClock(datetime.now(UTC) + AHEAD))],
                (SqlLedger.on(memory.database) for _ in itertools.count()),
            )
        else:
            url = _sqlite(request) if request.param == "sqlite" else _postgres(request, stack)
            opened = (SqlLedger(url) for _ in itertools.count())

        def open_one() -> SqlLedger:
            ledger = next(opened)
            stack.callback(ledger.close)
            return ledger

        yield open_one


def _sqlite(request: pytest.FixtureRequest) -> str:
    path = request.getfixturevalue("tmp_path") / "ledger.db"
    shutil.copy(request.getfixturevalue("sqlite_template"), path)
    return f"sqlite:///{path}"


def _postgres(request: pytest.FixtureRequest, stack: ExitStack) -> str:
    template = request.getfixturevalue("postgres_template")
    admin = request.getfixturevalue("postgres_admin")
    return databases.text(stack.enter_context(databases.created(admin, template)))


@pytest.fixture
def ledger(open_ledger: Callable[[], SqlLedger]) -> SqlLedger:
    """An empty ledger, closed after the test."""
    return open_ledger()


@pytest.fixture
def advance_databases(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the ledger's clock ahead by seconds, for every database of this process."""
    ahead = timedelta()

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += timedelta(seconds=seconds)

    for name, told in moved(lambda: ahead).items():
        monkeypatch.setattr(Database, name, told)
    return move


@pytest.fixture
def advance(ledger: SqlLedger, request: pytest.FixtureRequest) -> Callable[[float], None]:
    """Moves the clock of this test's ledger ahead by seconds, however often it is open."""
    if isinstance(ledger, MemoryLedger):
        return ledger.advance
    move: Callable[[float], None] = request.getfixturevalue("advance_databases")
    return move


@pytest.fixture
def audited(ledger: SqlLedger) -> Callable[[], list[tuple[str, str]]]:
    """Rows of the audit log: (kind, event id), in order."""

    def read() -> list[tuple[str, str]]:
        wanted = sa.select(audit_log.c.kind, audit_log.c.event_id).order_by(audit_log.c.id)
        with ledger.database.read() as connection:
            return [(row.kind, row.event_id) for row in connection.execute(wanted)]

    return read
