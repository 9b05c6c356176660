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
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.tables import audit_details, audit_log, audit_seals, audit_subjects
from delivery.ledger.stores import audit_rows


def prune(connection: Connection, before: datetime, *, dry_run: bool) -> tuple[int, dict[str, Any]]:
    """Delete the beginning of the log: all rows before the first that is not older than ``before``.

    The seal of the last deleted row stays: the rest hangs on it.

    Returns:
        The number of deleted rows, and the facts of the row that states it.
    """
    through = _last_before(connection, before)
    old = sa.or_(
        audit_log.c.number <= through,
        sa.and_(audit_log.c.number.is_(None), audit_log.c.at < before),
    )
    count = connection.execute(sa.select(sa.func.count()).where(old)).scalar_one()
    if dry_run or not count:
        return int(count), {}
    connection.execute(sa.delete(audit_log).where(old))
    connection.execute(sa.delete(audit_details).where(audit_details.c.number <= through))
    used = sa.select(audit_log.c.user_id)
    connection.execute(sa.delete(audit_subjects).where(audit_subjects.c.subject.notin_(used)))
    connection.execute(sa.delete(audit_seals).where(audit_seals.c.number < through))
    return int(count), {
        "through": through,
        "hash": audit_rows.seal_of(connection, through),
        "rows": int(count),
        "before": format_instant(before),
        "unkeyed": audit_rows.unkeyed(connection),
    }


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
