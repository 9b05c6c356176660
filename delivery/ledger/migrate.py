"""Moves a database between revisions of the schema; one history serves SQLite and PostgreSQL.

Owns: the transaction, its lock and the limits under which ``migrations/`` runs, and which schemas
this package may run on. A migration is all or nothing, and two at once take turns: the second finds
nothing left to do. Indexes of large tables are built after it, see ``index_builds``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from delivery import resources
from delivery.errors import ConfigError
from delivery.ledger import index_builds
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import MIGRATION, lock
from delivery.ledger.sql.tables import schema_compatibility
from delivery.ledger.sql.url import parse_url

logger = logging.getLogger(__name__)

TURN_TIMEOUT = 120
"""Seconds to wait for another migration to end."""
LOCK_TIMEOUT = 5
"""Seconds to wait for a table: a queued migration blocks every later statement on it."""


def upgrade(url: str, revision: str = "head") -> None:
    """Move the database up to ``revision``; one of a newer package on which this one may run stays
    as it is.

    Raises:
        ConfigError: no such revision, or the database has one that this package cannot run on.
        LedgerUnavailable: the database cannot be reached, or a table stayed locked.

    Effect: creates and alters tables, and builds indexes. Safe to repeat.
    """
    with transaction(url) as connection:
        found = _schema(connection)
        if found.is_newer and found.fits:
            logger.info(
                "tables are at %s, of a newer version, and serve this one: nothing to migrate",
                found.revision,
            )
            return
        with _translated():
            command.upgrade(_config(connection), revision)
    index_builds.build(url)


def downgrade(url: str, revision: str) -> None:
    """Move the database down to ``revision``; ``base`` drops every table, with what is in them.

    Raises:
        ConfigError: no such revision, or it is not below the present one.
        LedgerUnavailable: the database cannot be reached, or a table stayed locked.
    """
    with transaction(url) as connection, _translated():
        command.downgrade(_config(connection), revision)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database says of its tables.

    Attributes:
        revision: ``None`` if it was never migrated.
        oldest: the newest revision of the oldest release that may run on them; ``None`` where the
            tables do not say.
    """

    revision: str | None
    oldest: str | None = None

    @property
    def is_newer(self) -> bool:
        """Whether a newer package made them."""
        return self.revision is not None and self.revision not in _known()

    @property
    def fits(self) -> bool:
        """Whether this package may run on them."""
        if self.is_newer:
            return self.oldest in _known()
        return self.revision == head()


def look(url: str) -> Schema:
    """The database's revision, and whom it serves. Creates nothing.

    Raises:
        LedgerUnavailable: the database cannot be reached.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return Schema(None)  # looking must not create the file
    database = Database(url, pool_size=1)
    try:
        with database.read() as connection:
            return _schema(connection)
    finally:
        database.close()


def _schema(connection: Connection) -> Schema:
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None or revision in _known():
        return Schema(revision)
    if not sa.inspect(connection).has_table(schema_compatibility.name):
        return Schema(revision)
    oldest = connection.execute(sa.select(schema_compatibility.c.oldest)).scalar_one_or_none()
    return Schema(revision, oldest)


def current(url: str) -> str | None:
    """The database's revision; ``None`` if it was never migrated."""
    return look(url).revision


@functools.cache
def head() -> str:
    """The newest revision that this package knows."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise ConfigError("the installed package has no migrations: install delivery again")
    return newest


@functools.cache
def _known() -> frozenset[str]:
    """The revisions that this package has."""
    return frozenset(
        one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions()
    )


def mark(context: MigrationContext, heads: Any) -> None:
    """Write which releases may run on the tables, after a step that reached the revision ``heads``.

    Effect: a row of ``schema_compatibility``, which is not there below its own revision.
    """
    script = context.script
    if script is None or not heads:
        return
    marks = [
        str(one.module.oldest_compatible)
        for one in script.iterate_revisions(tuple(heads), "base")
        if hasattr(one.module, "oldest_compatible")
    ]
    if marks:
        context.impl.execute(sa.delete(schema_compatibility))
        # The newest revision's word counts: it may serve fewer releases than those before it.
        context.impl.execute(sa.insert(schema_compatibility).values(id=1, oldest=marks[0]))


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
