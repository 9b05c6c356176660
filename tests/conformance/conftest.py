"""The ledger on each database that it supports, migrated as an operator would."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from delivery.ledger import SqlLedger, migrate
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.tables import audit_log
from tests import databases
from tests.ledger_clock import moved


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


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty, migrated database."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    template = request.getfixturevalue("postgres_template")
    with databases.created(request.getfixturevalue("postgres_admin"), template) as url:
        yield databases.text(url)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[SqlLedger]:
    """A ledger, closed after the test."""
    opened = SqlLedger(ledger_url)
    yield opened
    opened.close()


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the ledger's clock ahead by seconds, for every database of this test."""
    ahead = timedelta()

    def move(seconds: float) -> None:
        nonlocal ahead
        ahead += timedelta(seconds=seconds)

    for name, told in moved(lambda: ahead).items():
        monkeypatch.setattr(Database, name, told)
    return move


@pytest.fixture
def audited(ledger_url: str) -> Callable[[], list[tuple[str, str]]]:
    """What stands in the audit log: (kind, event id), in order."""

    def read() -> list[tuple[str, str]]:
        database = Database(ledger_url)
        wanted = sa.select(audit_log.c.kind, audit_log.c.event_id).order_by(audit_log.c.id)
        with database.read() as connection:
            found = [(row.kind, row.event_id) for row in connection.execute(wanted)]
        database.close()
        return found

    return read
