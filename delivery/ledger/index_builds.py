"""Indexes on large tables, built on PostgreSQL beside the processes that read and write them.

Owns: which indexes a migration leaves for later, the lease of the one that builds them, and what
an interrupted build left. Never does: build one inside a migration's transaction, which would hold
up every write until it commits.

A migration's transaction only notes the index, by name, in ``index_builds``. After the commit the
same command builds what is noted, each outside of a transaction, and waits for the end of those
that another command builds. A build that is cut off leaves an index that PostgreSQL marks as
invalid, and its row; the next command drops the index and builds it anew.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateIndex

from delivery.errors import LedgerError, LedgerUnavailable
from delivery.ledger.sql.columns import metadata
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.tables import index_builds
from delivery.ledger.sql.url import parse_url, split_options

logger = logging.getLogger(__name__)

SMALL = 1_000
"""Rows up to which a table's index is built within the migration: it takes milliseconds."""
LEASE = 30.0
"""Seconds after which the builds of a command that has ended are another one's."""
RENEW_EVERY = 10.0
LOOK_EVERY = 0.5
_NOTED = "delivery_index_builds"


def create_index(
    name: str,
    table: str,
    columns: Sequence[str],
    *,
    unique: bool = False,
    where: sa.TextClause | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Create an index in a revision: at once, or on a large table of PostgreSQL after the commit.

    Args:
        name: as ``delivery/ledger/sql/tables.py`` has it, which a later build takes it from.
        where: the condition of a partial index.
        options: of PostgreSQL alone, as ``postgresql_using``.
    """
    context = op.get_context()
    if context.dialect.name == "postgresql" and not context.as_sql and _is_large(table):
        op.get_bind().info.setdefault(_NOTED, []).append(
            (name, table, tuple(columns), unique, where, options)
        )
    else:
        _create(name, table, columns, unique, where, options)


def drop_index(name: str, table: str) -> None:
    """Drop an index in a revision, built or not."""
    op.drop_index(name, table, if_exists=True)
    is_offline = op.get_context().as_sql
    if not is_offline and sa.inspect(op.get_bind()).has_table(index_builds.name):
        op.execute(sa.delete(index_builds).where(index_builds.c.name == name))


def _create(
    name: str,
    table: str,
    columns: Sequence[str],
    unique: bool,
    where: sa.TextClause | None,
    options: Mapping[str, Any] | None,
) -> None:
    op.create_index(
        name,
        table,
        list(columns),
        unique=unique,
        postgresql_where=where,
        sqlite_where=where,
        **(options or {}),
    )


def _is_large(table: str) -> bool:
    rows = sa.select(sa.literal(1)).select_from(sa.table(table)).limit(SMALL + 1).subquery()
    return int(op.get_bind().execute(sa.select(sa.func.count()).select_from(rows)).scalar_one()) > (
        SMALL
    )


def settle(connection: Connection) -> None:
    """Note in the migration's transaction what is to be built after it."""
    noted: list[Any] = connection.info.pop(_NOTED, [])
    if not noted:
        return
    if sa.inspect(connection).has_table(index_builds.name):
        rows = [{"name": name} for name, *_ in noted]
        connection.execute(sa.insert(index_builds), rows)
        return
    for one in noted:  # a revision before that table's own was asked for
        _create(*one)


def build(url: str) -> None:
    """Build the indexes that migrations noted, one after another; wait for those that another
    command builds.

    Args:
        url: the database as the owner of its tables, without a pooler between.

    Raises:
        LedgerUnavailable: the database cannot be reached.

    Effect: creates indexes. Safe to repeat, and after an interrupted build.
    """
    if parse_url(url).get_backend_name() != "postgresql":
        return
    database = Database(url, pool_size=2)
    holder = f"{socket.gethostname()[:40]}:{os.getpid()}:{threading.get_ident() % 10**6}"
    told = float("-inf")
    try:
        while waiting := _waiting(database):
            name = _claim(database, holder)
            if name is not None:
                with _renewing(database, name, holder):
                    _build(url, name)
                _finish(database, name, holder)
                continue
            if time.monotonic() - told > 60.0:
                told = time.monotonic()
                logger.info("indexes are being built by another command: %s", ", ".join(waiting))
            time.sleep(LOOK_EVERY)
    finally:
        database.close()


def _waiting(database: Database) -> list[str]:
    with database.read() as connection:
        if not sa.inspect(connection).has_table(index_builds.name):
            return []
        rows = connection.execute(sa.select(index_builds.c.name).order_by(index_builds.c.name))
        return list(rows.scalars())


def _claim(database: Database, holder: str) -> str | None:
    """Lease the next build; ``None`` while another command builds: two on one table would wait for
    each other until PostgreSQL ends one of them."""
    with database.write() as connection:
        now = database.now(connection)
        rows = connection.execute(
            sa.select(index_builds.c.name, index_builds.c.claimed_until)
            .order_by(index_builds.c.name)
            .with_for_update()
        ).all()
        if any(row.claimed_until is not None and row.claimed_until >= now for row in rows):
            return None
        row = next(iter(rows), None)
        if row is None:
            return None
        connection.execute(
            sa.update(index_builds)
            .where(index_builds.c.name == row.name)
            .values(holder=holder, claimed_until=now + timedelta(seconds=LEASE))
        )
        return str(row.name)


def _finish(database: Database, name: str, holder: str) -> None:
    with database.write() as connection:
        connection.execute(sa.delete(index_builds).where(_is_held(name, holder)))


def _is_held(name: str, holder: str) -> sa.ColumnElement[bool]:
    return sa.and_(index_builds.c.name == name, index_builds.c.holder == holder)


@contextmanager
def _renewing(database: Database, name: str, holder: str) -> Iterator[None]:
    """Renew the lease in a thread; give it back at once when the build fails."""
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(RENEW_EVERY):
            try:
                _extend(database, name, holder, LEASE)
            except LedgerError as error:
                logger.warning("lease of index %s not renewed: %s", name, error)

    thread = threading.Thread(target=renew, name="index-lease", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        is_over.set()
        try:
            _extend(database, name, holder, 0.0)
        except LedgerError as error:
            logger.warning("lease of index %s not given back: %s", name, error)
        raise
    finally:
        is_over.set()
        thread.join()


def _extend(database: Database, name: str, holder: str, seconds: float) -> None:
    with database.write() as connection:
        until = database.now(connection) + timedelta(seconds=seconds)
        connection.execute(
            sa.update(index_builds).where(_is_held(name, holder)).values(claimed_until=until)
        )


def _build(url: str, name: str) -> None:
    found = {str(one.name): one for table in metadata.tables.values() for one in table.indexes}
    index = found.get(name)
    if index is None:
        logger.warning("index %s is not one of this version: not built", name)
        return
    # Without the limits of a transaction: it lasts, and waits for every older transaction.
    engine = sa.create_engine(
        split_options(parse_url(url))[0],
        poolclass=sa.NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"application_name": "delivery index build"},
    )
    try:
        with engine.connect() as connection:
            _build_on(connection, index)
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).partition("\n")[0]
        raise LedgerUnavailable(
            f"index {name} was not built: {reason}; run `delivery migrate` again"
        ) from error
    finally:
        engine.dispose()


def _build_on(connection: Connection, index: sa.Index) -> None:
    table = index.table.name if index.table is not None else ""
    for setting in ("statement_timeout", "lock_timeout"):
        connection.exec_driver_sql(f"SET {setting} = 0")
    if (connection.dialect.server_version_info or (0,)) >= (14,):
        # A build whose command was killed must not go on for hours.
        connection.exec_driver_sql("SET client_connection_check_interval = '5s'")
    if _is_valid(connection, str(index.name)):
        return
    began = time.monotonic()
    logger.info("index %s on %s: building beside running processes", index.name, table)
    statement = str(CreateIndex(index).compile(dialect=connection.dialect))
    if _partitions(connection, table, ""):
        _build_on_partitions(connection, str(index.name), table, statement)
    else:
        _build_concurrently(connection, str(index.name), statement)
    logger.info("index %s on %s: built in %.1f s", index.name, table, time.monotonic() - began)


def _build_concurrently(connection: Connection, name: str, statement: str) -> None:
    is_valid = _is_valid(connection, name)
    if is_valid:
        return
    if is_valid is not None:
        logger.warning("index %s: an interrupted build is dropped", name)
        quoted = connection.dialect.identifier_preparer.quote(name)
        connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {quoted}")
    before, after = statement.split(" INDEX ", 1)
    connection.exec_driver_sql(f"{before} INDEX CONCURRENTLY {after}")


def _build_on_partitions(connection: Connection, name: str, table: str, statement: str) -> None:
    """Build an index on each partition, and join them. It is valid once all have it; partitions
    made meanwhile get theirs as they are attached.

    Source: PostgreSQL manual, CREATE INDEX, on ``CONCURRENTLY`` and partitioned tables.
    """
    quote = connection.dialect.identifier_preparer.quote
    head, tail = statement.split(f" ON {table} ", 1)
    if _is_valid(connection, name) is None:
        connection.exec_driver_sql(f"{head} ON ONLY {table} {tail}")
    for partition in _partitions(connection, table, name):
        one = f"{name[:40]}_{partition}"[:63]
        built = head.replace(quote(name), quote(one), 1)
        _build_concurrently(connection, one, f"{built} ON {quote(partition)} {tail}")
        connection.exec_driver_sql(f"ALTER INDEX {quote(name)} ATTACH PARTITION {quote(one)}")


def _partitions(connection: Connection, table: str, index: str) -> list[str]:
    """Partitions of a table that lack a part of this index; none if it is not partitioned."""
    asked = sa.text(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid "
        "join pg_class p on p.oid = i.inhparent and p.relkind = 'p' "
        "where p.oid = to_regclass(:table) and not exists (select 1 from pg_index x "
        "join pg_inherits h on h.inhrelid = x.indexrelid "
        "where x.indrelid = c.oid and h.inhparent = to_regclass(nullif(:index, ''))) "
        "order by c.relname"
    )
    return list(connection.execute(asked, {"table": table, "index": index}).scalars())


def _is_valid(connection: Connection, name: str) -> bool | None:
    """Whether the index is complete; ``None`` where there is none."""
    asked = sa.text(
        "select i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid "
        "where c.relname = :name and c.relnamespace = current_schema()::regnamespace"
    )
    found = connection.execute(asked, {"name": name}).scalar_one_or_none()
    return None if found is None else bool(found)
