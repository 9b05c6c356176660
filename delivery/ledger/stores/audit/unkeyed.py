"""The first release's chain of plain hashes, as it stood when the keyed chain began.

Owns: its findings. Write access to the database was enough to recompute it: it shows accidents
only, and a switch row keeps the result for later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.audit import GENESIS
from delivery.domain.event import format_instant
from delivery.ledger.sql import rows
from delivery.ledger.sql.audit_tables import audit_head, audit_log
from delivery.ledger.stores.audit.rows import PAGE

TOLERANCE = timedelta(minutes=1)
"""How far rows may be out of order; a transaction lasts seconds at most."""
HEAD = 1


def findings(connection: Connection) -> Iterator[str]:
    """What is wrong in the chain of plain hashes."""
    expected, previous, latest = 0, GENESIS, None
    for row in _sealed(connection):
        expected += 1
        name = f"unkeyed row {row.id} (seal {row.seal})"
        if row.seal != expected:
            yield f"missing: unkeyed seals {expected} to {row.seal - 1} are not there"
            expected, previous = row.seal, row.previous_hash
        if row.previous_hash != previous:
            yield f"changed: {name} does not follow the row before it"
        if row.hash != _hash(row.previous_hash, row.seal, row):
            yield f"changed: {name} does not match its hash"
        if latest is not None and row.at < latest - TOLERANCE:
            yield f"inserted: {name} is dated {format_instant(row.at)}, long before its seal"
        previous = row.hash
        latest = row.at if latest is None else max(latest, row.at)
    seal, digest = head(connection)
    if expected < seal:
        yield f"missing: unkeyed seals {expected + 1} to {seal} are not there"
    elif expected > seal:
        yield f"inserted: the unkeyed chain was sealed up to {seal}, rows go up to {expected}"
    elif previous != digest:
        yield "changed: the last unkeyed row is not the one that was sealed last"


def head(connection: Connection) -> tuple[int, str]:
    """Seal and hash of the chain's last row."""
    row = connection.execute(sa.select(audit_head).where(audit_head.c.id == HEAD)).one_or_none()
    return (0, GENESIS) if row is None else (row.seal, row.hash)


def _hash(previous: str | None, seal: int, row: rows.AnyRow) -> str:
    """SHA-256 over the hash before and the row's fields as canonical JSON."""
    fields = {
        "seal": seal,
        "id": row.id,
        "at": format_instant(row.at),
        "kind": row.kind,
        "event_id": row.event_id,
        "user_id": row.user_id,
        "facts": row.facts,
    }
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{previous}{text}".encode()).hexdigest()


def _sealed(connection: Connection) -> Iterator[rows.AnyRow]:
    """All rows that the first release sealed in order, a page at a time."""
    last = 0
    while True:
        page = connection.execute(
            sa.select(audit_log)
            .where(audit_log.c.seal > last)
            .order_by(audit_log.c.seal)
            .limit(PAGE)
        ).all()
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1].seal
