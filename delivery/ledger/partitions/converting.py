"""The conversion of ``events`` into a partitioned table, beside the processes that use it.

Owns: its three steps, each of which may be the last one of an interrupted command; the next command
goes on from there.

1. In milliseconds under a lock: ``events_default`` becomes a child of ``events``, in which all
   queries see its rows; rows dated outside of the first partition move into it, and a trigger sends
   later ones there; a check that is not valid yet says that no other are left.
2. Beside everything else: the check is made valid, by a scan that locks no reader and no writer.
3. In milliseconds under a lock: the table is renamed and becomes the first partition of a new
   ``events``. The valid check proves that its rows belong there.

Source: PostgreSQL manual, "Table Partitioning", on ATTACH PARTITION and CHECK constraints.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.errors import ConfigError
from delivery.ledger.partitions import layout
from delivery.ledger.partitions.layout import DEFAULT, FIRST, RANGE, TABLE, Period
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import MIGRATION, lock

logger = logging.getLogger(__name__)

_TRIGGER = "delivery_events_outside"
_FUNCTION = f"""
CREATE FUNCTION {_TRIGGER}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT
AS $$ BEGIN INSERT INTO {DEFAULT} VALUES (NEW.*); RETURN NULL; END $$
"""  # noqa: S608 - constants
_INDEXES = f"""
SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition, i.indisprimary AS is_key
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = '{TABLE}'::regclass
"""  # noqa: S608
LOCK_TIMEOUT = 5
"""Seconds to wait for the table: a queued lock holds up every later statement on it."""
MARGIN = timedelta(days=1)
"""The first partition ends at least so long ahead: events that are made now belong into it."""


def convert(database: Database, period: Period) -> None:
    """Make ``events`` a partitioned table.

    Args:
        database: as the owner of its tables, without a limit on answers.

    Raises:
        ConfigError: SQLite, or a role that does not own the table.
        LedgerUnavailable: the table stayed locked; another command goes on from there.

    Effect: see above. Safe to repeat.
    """
    if database.is_sqlite:
        raise ConfigError("SQLite has no partitions: they are for PostgreSQL")
    _step(database, lambda connection: _divert(database, connection, period))
    _step(database, _validate)
    _step(database, lambda connection: _attach(connection, period))


def _step(database: Database, work: Any) -> None:
    with database.write() as connection:
        limit(connection, "statement_timeout", 0)
        limit(connection, "lock_timeout", 120)
        limit(connection, "idle_in_transaction_session_timeout", 0)
        lock(connection, MIGRATION)
        limit(connection, "lock_timeout", LOCK_TIMEOUT)
        if layout.look(connection) is None:
            work(connection)


def limit(connection: Connection, setting: str, seconds: int) -> None:
    """Set a limit of PostgreSQL for this transaction; 0 for none."""
    connection.execute(
        sa.text("select set_config(:setting, :value, true)"),
        {"setting": setting, "value": f"{seconds}s"},
    )


def _check(connection: Connection) -> Any:
    """The range check of an earlier step: its definition and whether it is valid."""
    asked = sa.text(
        "select pg_get_constraintdef(oid) as definition, convalidated as is_valid "
        "from pg_constraint where conname = :name and conrelid = to_regclass('events')"
    )
    return connection.execute(asked, {"name": RANGE}).one_or_none()


def _divert(database: Database, connection: Connection, period: Period) -> None:
    owns = "select pg_has_role(current_user, relowner, 'USAGE') from pg_class where oid = 'events'"
    if not connection.exec_driver_sql(f"{owns}::regclass").scalar_one():
        raise ConfigError(
            "this role does not own the tables: set DELIVERY_MIGRATE_DATABASE_URL to the owner's"
        )
    if _check(connection) is not None:
        return
    connection.exec_driver_sql(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
    start, end = _range(database.now(connection), connection, period)
    lower, upper = layout.first_id(start), layout.first_id(end)
    outside = "{0}id < '" + lower + "' OR {0}id >= '" + upper + "'"
    for statement in (
        f"CREATE TABLE {DEFAULT} (LIKE {TABLE} INCLUDING ALL) INHERITS ({TABLE})",
        # Under the owner's rights: the application's role knows ``events`` alone.
        _FUNCTION,
        f"CREATE TRIGGER {_TRIGGER} BEFORE INSERT ON {TABLE} FOR EACH ROW "
        f"WHEN ({outside.format('NEW.')}) EXECUTE FUNCTION {_TRIGGER}()",
        f"ALTER TABLE {TABLE} ADD CONSTRAINT {RANGE} "
        f"CHECK (id >= '{lower}' AND id < '{upper}') NO INHERIT NOT VALID",
    ):
        connection.exec_driver_sql(statement)
    moving = f"DELETE FROM ONLY {TABLE} WHERE {outside.format('')} RETURNING *"  # noqa: S608
    moved = connection.exec_driver_sql(
        f"WITH moved AS ({moving}) INSERT INTO {DEFAULT} SELECT * FROM moved"  # noqa: S608
    ).rowcount
    logger.info("events from %s to %s are the first partition", start.date(), end.date())
    logger.info("%d events with ids of another time moved into %s", moved, DEFAULT)


def _range(now: datetime, connection: Connection, period: Period) -> tuple[datetime, datetime]:
    oldest = connection.exec_driver_sql(
        f"SELECT recorded_at FROM {TABLE} ORDER BY position LIMIT 1"  # noqa: S608
    ).scalar_one_or_none()
    start = period.start(min(now, oldest or now) - MARGIN)
    end = period.next(period.start(now))
    return start, end if end - now >= MARGIN else period.next(end)


def _validate(connection: Connection) -> None:
    if not _check(connection).is_valid:
        connection.exec_driver_sql(f"ALTER TABLE {TABLE} VALIDATE CONSTRAINT {RANGE}")


def _attach(connection: Connection, period: Period) -> None:
    connection.exec_driver_sql(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
    lower, upper = map(layout.first_id, layout.bounds(_check(connection).definition) or ())
    rights = _rights(connection)
    indexes = connection.exec_driver_sql(_INDEXES).all()
    quote = connection.dialect.identifier_preparer.quote
    key = next(one.name for one in indexes if one.is_key)
    statements = [
        f"ALTER TABLE {DEFAULT} NO INHERIT {TABLE}",
        f"DROP TRIGGER {_TRIGGER} ON {TABLE}",
        f"DROP FUNCTION {_TRIGGER}()",
        *(f"ALTER INDEX {quote(i.name)} RENAME TO {quote(i.name + '_first')}" for i in indexes),
        f"ALTER TABLE {TABLE} RENAME TO {FIRST}",
        f"CREATE TABLE {TABLE} (LIKE {FIRST} INCLUDING DEFAULTS) PARTITION BY RANGE (id)",
        f"COMMENT ON TABLE {TABLE} IS '{layout.comment(period)}'",
        f"ALTER TABLE {TABLE} ADD CONSTRAINT {quote(key)} PRIMARY KEY (id)",
        # Indexes of the same kind on a partition become parts of these as it is attached.
        *(one.definition for one in indexes if not one.is_key),
        f"ALTER TABLE {TABLE} ATTACH PARTITION {DEFAULT} DEFAULT",
        f"ALTER TABLE {TABLE} ATTACH PARTITION {FIRST} FOR VALUES FROM ('{lower}') TO ('{upper}')",
        f"ALTER TABLE {FIRST} DROP CONSTRAINT {RANGE}",
        *rights,
    ]
    for statement in statements:
        connection.exec_driver_sql(statement)
    logger.info("events is partitioned by %s", period)


def _rights(connection: Connection) -> list[str]:
    """The grants on ``events``, as statements."""
    asked = sa.text(
        "select case when r.grantee = 0 then 'PUBLIC' else quote_ident(a.rolname) end as role, "
        "r.privilege_type as may from pg_class c, aclexplode(c.relacl) r "
        "left join pg_roles a on a.oid = r.grantee "
        "where c.oid = to_regclass('events') and r.grantee <> c.relowner"
    )
    return [f"GRANT {one.may} ON {TABLE} TO {one.role}" for one in connection.execute(asked)]
