"""The audit log: append-only rows that one sealer chains by hash.

Owns: the hash of a row and the findings of ``verify``. Never does: change a row except to seal it.
Two limits: a row deleted between its commit and its seal (about a second) leaves no trace, and
write access to the database is enough to recompute every hash: keep copies of the chain's head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import EventClass, format_instant
from delivery.domain.foreign_text import storable
from delivery.ledger.sql import rows
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import SEALER, try_lock
from delivery.ledger.sql.tables import audit_head, audit_log

GENESIS = "0" * 64
"""The hash before the first sealed row."""
TOLERANCE = timedelta(minutes=1)
"""How far rows may be out of order; a transaction lasts seconds at most."""
PAGE = 1_000
MAX_FINDINGS = 100
HEAD = 1


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One fact about one event, to be appended to the log."""

    kind: str
    event_id: str
    user_id: str
    facts: Mapping[str, Any]
    at: datetime


class Subject(NamedTuple):
    """An event and the facts to record about it."""

    event_id: str
    user_id: str
    event_class: str
    facts: Mapping[str, Any]


def is_audited(event_class: str) -> bool:
    """Whether the log records events of this class: sign-in events only."""
    return event_class == EventClass.AUTH


def record(connection: Connection, kind: str, at: datetime, subjects: Iterable[Subject]) -> None:
    """Append a row about each event of an audited class, in the transaction of the change that it
    records."""
    _append(
        connection,
        [
            AuditRow(kind, one.event_id, one.user_id, one.facts, at)
            for one in subjects
            if is_audited(one.event_class)
        ],
    )


def _append(connection: Connection, entries: Sequence[AuditRow]) -> None:
    if not entries:
        return
    connection.execute(
        sa.insert(audit_log),
        [
            {
                "at": entry.at,
                "kind": entry.kind,
                "event_id": entry.event_id,
                "user_id": entry.user_id,
                "facts": storable(
                    json.dumps(dict(entry.facts), sort_keys=True, ensure_ascii=False)
                ),
            }
            for entry in entries
        ],
    )


class AuditSql:
    """``AuditStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, kind: str, event_id: str, user_id: str, facts: Mapping[str, Any]) -> None:
        """Append one row in a transaction of its own."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            _append(connection, [AuditRow(kind, event_id, user_id, facts, now)])

    def seal(self, limit: int = 1_000) -> int:
        """Number and chain at most ``limit`` rows that have no seal yet, in order of their ids.

        Returns:
            The number of sealed rows; 0 also while another process seals.
        """
        with self._database.write() as connection:
            if not try_lock(connection, SEALER):
                return 0
            waiting = connection.execute(
                sa.select(audit_log)
                .where(audit_log.c.seal.is_(None))
                .order_by(audit_log.c.id)
                .limit(limit)
            ).all()
            if not waiting:
                return 0
            seal, previous = _head(connection)
            sealed = []
            for row in waiting:
                seal += 1
                digest = _hash(previous, seal, row)
                sealed.append({"row": row.id, "s": seal, "before": previous, "own": digest})
                previous = digest
            connection.execute(
                sa.update(audit_log)
                .where(audit_log.c.id == sa.bindparam("row"))
                .values(
                    seal=sa.bindparam("s"),
                    previous_hash=sa.bindparam("before"),
                    hash=sa.bindparam("own"),
                ),
                sealed,
            )
            _set_head(connection, seal, previous)
            return len(sealed)

    def verify(self) -> list[str]:
        """Check the whole chain; returns at most ``MAX_FINDINGS`` findings as sentences."""
        findings: list[str] = []
        with self._database.read() as connection:
            if not self._database.is_sqlite:  # one snapshot, as SQLite gives by itself
                connection.execute(sa.text("set transaction isolation level repeatable read"))
            for finding in self._findings(connection):
                findings.append(finding)
                if len(findings) >= MAX_FINDINGS:
                    findings.append(f"and more: only the first {MAX_FINDINGS} findings are listed")
                    break
        return findings

    def _findings(self, connection: Connection) -> Iterator[str]:
        expected, previous, latest = 0, GENESIS, None
        for row in _sealed(connection):
            expected += 1
            name = f"row {row.id} (seal {row.seal})"
            if row.seal != expected:
                yield f"missing: seals {expected} to {row.seal - 1} are not there"
                expected, previous = row.seal, row.previous_hash
            if row.previous_hash != previous:
                yield f"changed: {name} does not follow the row before it"
            if row.hash != _hash(row.previous_hash, row.seal, row):
                yield f"changed: {name} does not match its hash"
            if latest is not None and row.at < latest - TOLERANCE:
                yield f"inserted: {name} is dated {format_instant(row.at)}, long before its seal"
            previous = row.hash
            latest = row.at if latest is None else max(latest, row.at)
        yield from self._tail(connection, expected, previous)

    def _tail(self, connection: Connection, seal: int, last_hash: str) -> Iterator[str]:
        head_seal, head_hash = _head(connection)
        if seal < head_seal:
            yield f"missing: seals {seal + 1} to {head_seal} are not there"
        elif seal > head_seal:
            yield f"inserted: the chain was sealed up to {head_seal}, rows go up to {seal}"
        elif last_hash != head_hash:
            yield "changed: the last row is not the one that was sealed last"
        newest = sa.select(sa.func.max(audit_log.c.id)).where(audit_log.c.seal.isnot(None))
        late = sa.select(audit_log.c.id).where(
            audit_log.c.seal.is_(None),
            audit_log.c.id < newest.scalar_subquery(),
            audit_log.c.at < self._database.now(connection) - TOLERANCE,
        )
        for row_id in connection.execute(late.order_by(audit_log.c.id)).scalars():
            yield f"inserted: row {row_id} stands below sealed rows without a seal of its own"


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


def _head(connection: Connection) -> tuple[int, str]:
    row = connection.execute(sa.select(audit_head).where(audit_head.c.id == HEAD)).one_or_none()
    return (0, GENESIS) if row is None else (row.seal, row.hash)


def _set_head(connection: Connection, seal: int, digest: str) -> None:
    moved = connection.execute(
        sa.update(audit_head).where(audit_head.c.id == HEAD).values(seal=seal, hash=digest)
    )
    if moved.rowcount == 0:
        connection.execute(sa.insert(audit_head).values(id=HEAD, seal=seal, hash=digest))


def _sealed(connection: Connection) -> Iterator[rows.AnyRow]:
    """All sealed rows in order, a page at a time."""
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
