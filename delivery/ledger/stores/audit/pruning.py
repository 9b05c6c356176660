"""Old rows leave the compliance log, and the log as documents.

Owns: which rows leave, what a pruned row states about them, the shape of an export. Pruning needs
the owner's role on PostgreSQL: the application's may only insert.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.audit import GENESIS
from delivery.domain.event import format_instant
from delivery.ledger.sql.audit_tables import audit_details, audit_log, audit_seals, audit_subjects
from delivery.ledger.sql.database import Database
from delivery.ledger.stores.audit import rows as audit_rows

PAGE = 20_000
"""Numbered rows that leave in one transaction."""


def count_before(connection: Connection, before: datetime) -> int:
    """How many rows a pruning would delete."""
    old = _old(_last_before(connection, before), before)
    return int(connection.execute(sa.select(sa.func.count()).where(old)).scalar_one())


def prune(connection: Connection, before: datetime) -> tuple[int, dict[str, Any]]:
    """Delete one page of the log's beginning: rows before the first that is not older than
    ``before``.

    The seal of the last deleted row stays: the rest hangs on it.

    Returns:
        The number of deleted rows, and the facts of the row that states it.
    """
    last = _last_before(connection, before)
    first = sa.select(sa.func.min(audit_log.c.number))
    through = min(last, int(connection.execute(first).scalar_one() or 0) + PAGE - 1)
    deleted = connection.execute(sa.delete(audit_log).where(_old(through, before))).rowcount
    if not deleted:
        return 0, {}
    connection.execute(sa.delete(audit_details).where(audit_details.c.number <= through))
    connection.execute(sa.delete(audit_seals).where(audit_seals.c.number < through))
    if through == last:
        used = sa.select(audit_log.c.user_id)
        connection.execute(sa.delete(audit_subjects).where(audit_subjects.c.subject.notin_(used)))
    return deleted, {
        "through": through,
        "hash": audit_rows.seal_of(connection, through),
        "rows": deleted,
        "before": format_instant(before),
        "unkeyed": audit_rows.unkeyed(connection),
    }


def _old(through: int, before: datetime) -> sa.ColumnElement[bool]:
    is_unkeyed = sa.and_(audit_log.c.number.is_(None), audit_log.c.at < before)
    return sa.or_(audit_log.c.number <= through, is_unkeyed)


def _last_before(connection: Connection, before: datetime) -> int:
    """The last sealed row before the first that stays; 0 if none leaves."""
    stays = sa.select(sa.func.min(audit_log.c.number)).where(audit_log.c.at >= before)
    first: int | None = connection.execute(stays).scalar_one_or_none()
    query = sa.select(sa.func.max(audit_seals.c.number))
    if first is not None:
        query = query.where(audit_seals.c.number < first)
    return int(connection.execute(query).scalar_one_or_none() or 0)


def export(database: Database, after: int) -> Iterator[dict[str, Any]]:
    """Every row as a document: unkeyed ones first, then numbered ones with their seals."""
    with database.read() as connection:
        if not database.is_sqlite:  # one snapshot, as SQLite gives by itself
            connection.execute(sa.text("set transaction isolation level repeatable read"))
        names = {row.subject: row.user_id for row in connection.execute(sa.select(audit_subjects))}
        for row in audit_rows.unnumbered(connection) if after == 0 else ():
            yield {
                "type": "unkeyed",
                "id": row.id,
                "at": format_instant(row.at),
                "kind": row.kind,
                "event_id": str(row.event_id),
                "user_id": row.user_id,
                "facts": json.loads(row.facts),
            }
        base = audit_rows.seal_of(connection, after) if after else _base(connection)
        for sealed in audit_rows.numbered(connection, after):
            yield {
                "type": "row",
                **msgspec.structs.asdict(sealed.row),
                "user_id": names.get(sealed.row.subject),
                "details": None if sealed.details is None else json.loads(sealed.details),
                "previous": base,
                "hash": sealed.hash,
            }
            base = sealed.hash


def _base(connection: Connection) -> str:
    """The hash that the first row hangs on."""
    first = sa.select(sa.func.min(audit_log.c.number)).where(audit_log.c.number.isnot(None))
    query = sa.select(audit_seals.c.hash).where(audit_seals.c.number < first.scalar_subquery())
    found = connection.execute(query.order_by(audit_seals.c.number.desc()).limit(1))
    return found.scalar_one_or_none() or GENESIS
