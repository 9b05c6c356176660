"""Moves a database between revisions of the schema; one history serves SQLite and PostgreSQL.

Owns: the transaction, its lock and the limits under which ``migrations/`` runs. A migration is all
or nothing, and two at once take turns: the second finds nothing left to do.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from delivery import resources
from delivery.errors import ConfigError
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import MIGRATION, lock
from delivery.ledger.sql.url import parse_url

TURN_TIMEOUT = 120
"""Seconds to wait for another migration to end."""
LOCK_TIMEOUT = 5
"""Seconds to wait for a table: a queued migration blocks every later statement on it."""


def upgrade(url: str, revision: str = "head") -> None:
    """Move the database up to ``revision``.

    Raises:
        ConfigError: no such revision, or the database has one that this package lacks.
        LedgerUnavailable: the database cannot be reached, or a table stayed locked.

    Effect: creates and alters tables. Safe to repeat.
    """
    with transaction(url) as connection, _translated():
        command.upgrade(_config(connection), revision)


def downgrade(url: str, revision: str) -> None:
    """Move the database down to ``revision``; ``base`` drops every table, with what is in them.

    Raises:
        ConfigError: no such revision, or it is not below the present one.
        LedgerUnavailable: the database cannot be reached, or a table stayed locked.
    """
    with transaction(url) as connection, _translated():
        command.downgrade(_config(connection), revision)


def current(url: str) -> str | None:
    """The database's revision; ``None`` if it was never migrated."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return None  # looking must not create the file
    database = Database(url, pool_size=1)
    try:
        with database.read() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        database.close()


@functools.cache
def head() -> str:
    """The newest revision that this package knows."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise ConfigError("the installed package has no migrations: install delivery again")
    return newest


def is_current(url: str) -> bool:
    """Whether the database has the newest revision."""
    return current(url) == head()


@contextmanager
def transaction(url: str) -> Iterator[Connection]:
    """The transaction in which migrations run, one process at a time."""
    database = Database(url, pool_size=1, answer_timeout=None)
    try:
        with database.write() as connection:
            if not database.is_sqlite:
                _limit(connection, "statement_timeout", 0)
                _limit(connection, "lock_timeout", TURN_TIMEOUT)
                lock(connection, MIGRATION)
                _limit(connection, "lock_timeout", LOCK_TIMEOUT)
            yield connection
    finally:
        database.close()


def _limit(connection: Connection, setting: str, seconds: int) -> None:
    connection.execute(
        sa.text("select set_config(:setting, :value, true)"),
        {"setting": setting, "value": f"{seconds}s"},
    )


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    # A percent sign in the path would be taken for an interpolation.
    folder = str(resources.folder("migrations")).replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    return config


@contextmanager
def _translated() -> Iterator[None]:
    """Translate Alembic's errors; the usual one is a database of a newer package."""
    try:
        yield
    except CommandError as error:
        raise ConfigError(
            f"cannot migrate: {error}; use the version of this package that the database is at, "
            "or a newer one"
        ) from error
