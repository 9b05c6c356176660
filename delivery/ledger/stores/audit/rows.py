"""Reading the compliance log's tables: rows, seals, the counter, unkeyed rows.

Owns: the queries. Never does: judge what they give.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.audit import GENESIS, LogRow, canonical
from delivery.domain.event import format_instant
from delivery.ledger.sql.audit_tables import audit_counter, audit_details, audit_log, audit_seals
from delivery.ledger.sql.rows import AnyRow

PAGE = 1_000
COUNTER = 1
NO_EVENT = "00000000-0000-0000-0000-000000000000"

SWITCHED = "switched"
ADOPTED = "adopted"
ERASED = "erased"
PRUNED = "pruned"
RECOVERED = "recovered"
STATEMENTS = (SWITCHED, ADOPTED, ERASED, PRUNED)
"""Kinds whose ``facts.unkeyed`` states all unkeyed rows; the last one counts."""


class Counter(NamedTuple):
    """The counter's row, and the last numbers that the other tables show."""

    is_there: bool
    number: int
    mac: str | None
    key: str | None
    sealed: int
    sealed_mac: str | None
    sealed_key: str | None
    is_upgraded: bool
    newest_row: int
    newest_seal: int
    newest_detail: int


def counter(connection: Connection, *, lock: bool = False) -> Counter:
    """Read it, and with ``lock`` hold its row until the transaction ends."""
    newest = [
        sa.select(sa.func.coalesce(sa.func.max(table.c.number), 0)).scalar_subquery().label(name)
        for name, table in (("row", audit_log), ("seal", audit_seals), ("detail", audit_details))
    ]
    query = sa.select(audit_counter, *newest).where(audit_counter.c.id == COUNTER)
    if lock:
        query = query.with_for_update(of=audit_counter)
    row = connection.execute(query).one_or_none()
    if row is None:
        seen = connection.execute(sa.select(*newest)).one()
        return Counter(False, 0, None, None, 0, None, None, False, *seen)
    return Counter(
        True,
        row.number,
        row.mac,
        row.key,
        row.sealed,
        row.sealed_mac,
        row.sealed_key,
        bool(row.upgraded),
        *row[-3:],
    )


def log_row(row: AnyRow) -> LogRow:
    """A numbered row as its code covers it."""
    return LogRow(
        number=row.number,
        at=format_instant(row.at),
        kind=row.kind,
        event_id=None if row.event_id == NO_EVENT else str(row.event_id),
        subject=row.user_id,
        facts=row.facts,
        commitment=row.commitment,
        key=row.key or "",
        mac=row.mac or "",
    )


def facts_of(row: LogRow) -> dict[str, Any]:
    """The row's facts; empty for a text that is no JSON object."""
    try:
        found = json.loads(row.facts)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Sealed(NamedTuple):
    """A row with its details and its seal, ``None`` where there is none."""

    row: LogRow
    details: str | None
    hash: str | None
    seal_mac: str | None
    seal_key: str | None


def numbered(connection: Connection, after: int, *, limit: int | None = None) -> Iterator[Sealed]:
    """Rows in order of their numbers, a page at a time."""
    query = (
        sa.select(
            audit_log,
            audit_details.c.details,
            audit_seals.c.hash.label("seal_hash"),
            audit_seals.c.mac.label("seal_mac"),
            audit_seals.c.key.label("seal_key"),
        )
        .select_from(audit_log)
        .outerjoin(audit_details, audit_details.c.number == audit_log.c.number)
        .outerjoin(audit_seals, audit_seals.c.number == audit_log.c.number)
        .order_by(audit_log.c.number)
    )
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        page = connection.execute(query.where(audit_log.c.number > after).limit(size)).all()
        for row in page:
            yield Sealed(log_row(row), row.details, row.seal_hash, row.seal_mac, row.seal_key)
        if len(page) < size:
            return
        after = page[-1].number
        left = None if left is None else left - size


def seal_of(connection: Connection, number: int) -> str | None:
    """The hash of a sealed row, whether or not the row itself is still there."""
    found = connection.execute(sa.select(audit_seals.c.hash).where(audit_seals.c.number == number))
    digest: str | None = found.scalar_one_or_none()
    return digest


def last_seal(connection: Connection) -> tuple[int, str]:
    """Number and hash of the last seal; 0 before the first."""
    query = sa.select(audit_seals.c.number, audit_seals.c.hash)
    row = connection.execute(query.order_by(audit_seals.c.number.desc()).limit(1)).one_or_none()
    return (0, GENESIS) if row is None else (row.number, row.hash)


def of_kinds(connection: Connection, kinds: tuple[str, ...]) -> Iterator[LogRow]:
    """Numbered rows of these kinds, in order."""
    query = sa.select(audit_log).where(audit_log.c.number.isnot(None), audit_log.c.kind.in_(kinds))
    for row in connection.execute(query.order_by(audit_log.c.number)):
        yield log_row(row)


def stated(connection: Connection) -> dict[str, Any] | None:
    """The last statement about unkeyed rows."""
    found = [facts_of(row).get("unkeyed") for row in of_kinds(connection, STATEMENTS)]
    known = [one for one in found if isinstance(one, dict)]
    return known[-1] if known else None


def unnumbered(connection: Connection) -> Iterator[AnyRow]:
    """Rows of the first release, in order of their ids."""
    after = -1
    while True:
        query = sa.select(audit_log).where(audit_log.c.number.is_(None), audit_log.c.id > after)
        page = connection.execute(query.order_by(audit_log.c.id).limit(PAGE)).all()
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].id


def unkeyed(connection: Connection, up_to: int | None = None) -> dict[str, Any]:
    """What a statement says of all unkeyed rows: their count, the last id, a hash of all.

    Args:
        up_to: leave out rows with a higher id.
    """
    digest, count, last = hashlib.sha256(), 0, 0
    for row in unnumbered(connection):
        if up_to is not None and row.id > up_to:
            break
        fields = [row.id, format_instant(row.at), row.kind, str(row.event_id)]
        fields += [row.user_id, row.facts]
        digest.update(canonical(fields).encode() + b"\n")
        count, last = count + 1, row.id
    return {"rows": count, "last": last, "digest": digest.hexdigest()}
