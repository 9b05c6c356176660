"""The compliance log: numbered, append-only rows that one sealer chains under a key.

Owns: writing rows, numbers and seals. Never does: change or delete a row; pruning does, under the
owner's role. See docs/compliance-log.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.audit import AuditKeys, Checkpoint, LogRow, Verified, sign, split
from delivery.domain.event import EventClass, format_instant
from delivery.ledger.sql.audit_tables import (
    audit_counter,
    audit_details,
    audit_log,
    audit_seals,
    audit_subjects,
)
from delivery.ledger.sql.database import Database, at_the_end
from delivery.ledger.sql.dialect import SEALER, any_of, insert, try_lock
from delivery.ledger.stores.audit import rows as audit_rows
from delivery.ledger.stores.audit import unkeyed as audit_unkeyed
from delivery.ledger.stores.audit.pruning import count_before, export, prune
from delivery.ledger.stores.audit.verify import verify

logger = logging.getLogger(__name__)

UPGRADE_WINDOW = timedelta(days=1)
"""How long after the switch rows of processes of the first release are taken over."""


SEAL_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One fact, to be appended to the log.

    Attributes:
        user_id: whom it is about; empty for no user.
        forgets: the user's name and details are deleted with this row.
    """

    kind: str
    event_id: str | None
    user_id: str
    facts: Mapping[str, Any]
    at: datetime
    forgets: bool = False


class Subject(NamedTuple):
    """An event and the facts to record about it."""

    event_id: str
    user_id: str
    event_class: str
    facts: Mapping[str, Any]


def is_audited(event_class: str) -> bool:
    """Whether the log records each step of events of this class: sign-in events only."""
    return event_class == EventClass.AUTH


def record(connection: Connection, kind: str, at: datetime, subjects: Iterable[Subject]) -> None:
    """Append a row about each event of an audited class, in the transaction of the change that it
    records."""
    append(
        connection,
        [
            AuditRow(kind, one.event_id, one.user_id, one.facts, at)
            for one in subjects
            if is_audited(one.event_class)
        ],
    )


def append(connection: Connection, entries: Sequence[AuditRow]) -> None:
    """Append rows at the end of this transaction.

    Their numbers have no gap, so writers take turns at one counter row until they commit. Only
    transactions with something to log touch it, and they do so last: the holder of the counter
    waits for nothing else, so that its turn is one commit long and no two wait for each other.
    """
    if entries:
        at_the_end(connection, entries)


class AuditSql:
    """``AuditStore`` over SQL.

    Args:
        keys: ``None`` for a ledger whose codes show accidents only.

    Attributes:
        keys: what its rows and pseudonyms are made with.
    """

    def __init__(self, database: Database, keys: AuditKeys | None = None) -> None:
        self._database = database
        self.keys = self._keys = keys or AuditKeys.unkeyed()
        self._upgrade: tuple[datetime, int] | None = None
        self._is_upgrade_over = False
        database.last_writes = self._write

    def append(
        self, kind: str, event_id: str | None, user_id: str, facts: Mapping[str, Any]
    ) -> None:
        """Append one row in a transaction of its own."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            append(connection, [AuditRow(kind, event_id, user_id, facts, now)])

    def _write(self, connection: Connection, entries: Sequence[AuditRow]) -> None:
        counter = audit_rows.counter(connection, lock=True)
        last, doubt = self._last_number(counter)
        if doubt:
            logger.error("audit counter is wrong (%s); numbers go on after %d", doubt, last)
            facts = {"what": doubt, "found": counter.number, "last": last}
            entries = [
                AuditRow(audit_rows.RECOVERED, None, "", facts, entries[0].at),
                *entries,
            ]
        rows, details, names = self._made(entries, last)
        connection.execute(sa.insert(audit_log), rows)
        if details:
            connection.execute(sa.insert(audit_details), details)
        if names:
            statement = insert(connection, audit_subjects).on_conflict_do_nothing()
            connection.execute(statement, [{"subject": s, "user_id": u} for s, u in names.items()])
        for entry in entries:
            if entry.forgets:
                self._forget(connection, entry.user_id)
        last += len(rows)
        key = self._keys.current
        _set_counter(
            connection,
            counter,
            {"number": last, "mac": key.counter("number", last), "key": key.id},
        )

    def _last_number(self, counter: audit_rows.Counter) -> tuple[int, str]:
        """The number to go on after, and why the counter is not believed (empty: it is).

        A writer goes on with a counter that was tampered with: events must not fail for it. The row
        that it adds is found by every later verification.
        """
        newest = max(counter.newest_row, counter.newest_seal, counter.newest_detail)
        last = max(counter.number, newest)
        key = self._keys.get(counter.key)
        if not counter.is_there:
            return last, "the counter's row was deleted"
        if newest > counter.number:
            return last, "the counter was set back"
        if counter.number == 0 and counter.mac is None:
            return last, ""
        if counter.mac is None or (
            key is not None and counter.mac != key.counter("number", counter.number)
        ):
            return last, "the counter does not match its code"
        return last, ""

    def _made(
        self, entries: Sequence[AuditRow], number: int
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
        rows, details, names = [], [], {}
        key = self._keys.current
        for entry in entries:
            number += 1
            facts, detail = split(entry.facts)
            subject = key.pseudonym(entry.user_id)
            made = LogRow(
                number,
                format_instant(entry.at),
                entry.kind,
                entry.event_id,
                subject,
                facts,
                None if detail is None else key.commitment(number, detail),
                key.id,
            )
            values = {
                "number": number,
                "at": entry.at,
                "kind": entry.kind,
                "event_id": entry.event_id or audit_rows.NO_EVENT,
                "user_id": subject,
                "facts": facts,
                "commitment": made.commitment,
                "key": key.id,
                "mac": key.row(made),
            }
            rows.append(values)
            if detail is not None:
                details.append({"number": number, "subject": subject, "details": detail})
            if subject and not entry.forgets:
                names[subject] = entry.user_id
        return rows, details, names

    def _forget(self, connection: Connection, user_id: str) -> None:
        subjects = self._keys.pseudonyms(user_id)
        for table in (audit_subjects, audit_details):
            connection.execute(sa.delete(table).where(any_of(table.c.subject, subjects)))

    def seal(self, limit: int = 1_000) -> int:
        """Chain at most ``limit`` rows that have no seal yet, in order of their numbers.

        Returns:
            The number of sealed rows; 0 also while another process seals.
        """
        with self._database.write() as connection:
            if not try_lock(connection, SEALER):
                return 0
            return self._seal(connection, limit)

    def _seal(self, connection: Connection, limit: int) -> int:
        counter = audit_rows.counter(connection)
        before = self._before_sealing(connection, counter)
        if before:
            self._write(connection, before)
        last, previous = audit_rows.last_seal(connection)
        key, seals = self._keys.current, []
        for sealed in audit_rows.numbered(connection, last, limit=limit):
            row = sealed.row
            previous = row.sealed_after(previous)
            last = row.number
            mac = key.seal(last, previous)
            seals.append({"number": last, "hash": previous, "mac": mac, "key": key.id})
        if not seals:
            return 0
        connection.execute(sa.insert(audit_seals), seals)
        _set_counter(
            connection,
            counter,
            {"sealed": last, "sealed_mac": key.counter("sealed", last), "sealed_key": key.id},
        )
        return len(seals)

    def _before_sealing(
        self, connection: Connection, counter: audit_rows.Counter
    ) -> list[AuditRow]:
        """Rows of the sealer's own: the switch, what was taken over, what is missing."""
        now = self._database.now(connection)
        if counter.sealed == 0 and counter.newest_seal == 0:
            return [AuditRow(audit_rows.SWITCHED, None, "", _switch(connection, counter), now)]
        rows = []
        if counter.newest_seal < counter.sealed:
            what = "seals were deleted"
            logger.error("%s: up to %d, not %d", what, counter.newest_seal, counter.sealed)
            facts = {"what": what, "found": counter.newest_seal, "last": counter.sealed}
            rows.append(AuditRow(audit_rows.RECOVERED, None, "", facts, now))
        if counter.is_upgraded and not self._is_upgrade_over:
            rows += self._taken_over(connection, now)
        return rows

    def _taken_over(self, connection: Connection, now: datetime) -> list[AuditRow]:
        """Rows that processes of the first release wrote after the switch, during an upgrade."""
        query = sa.select(sa.func.count()).where(audit_log.c.number.is_(None))
        count = connection.execute(query).scalar_one()
        if self._upgrade is None or self._upgrade[1] != count:
            self._upgrade = _stated(connection)
        until, known = self._upgrade
        self._is_upgrade_over = now > until
        if self._is_upgrade_over or known == count:
            return []
        facts = {"unkeyed": audit_rows.unkeyed(connection)}
        return [AuditRow(audit_rows.ADOPTED, None, "", facts, now)]

    def head(self) -> Checkpoint | None:
        """A signed checkpoint of the last seal; ``None`` before the first."""
        with self._database.read() as connection:
            number, digest = audit_rows.last_seal(connection)
            now = self._database.now(connection)
        return None if number == 0 else sign(self._keys.current, number, digest, now)

    def follows(self, checkpoint: Checkpoint) -> bool:
        """See the port."""
        with self._database.read() as connection:
            digest = audit_rows.seal_of(connection, checkpoint.number)
            first = connection.execute(sa.select(sa.func.min(audit_seals.c.number))).scalar_one()
        was_pruned = digest is None and first is not None and first > checkpoint.number
        return digest == checkpoint.hash or was_pruned

    def verify(self, checkpoints: Sequence[Checkpoint] = ()) -> Verified:
        """See the port."""
        return verify(self._database, self._keys, checkpoints, UPGRADE_WINDOW)

    def export(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """See the port."""
        return export(self._database, after)

    def prune(self, before: datetime, *, dry_run: bool = False) -> int:
        """See the port. A page is a transaction of its own, with a row that states it."""
        if dry_run:
            with self._database.read() as connection:
                return count_before(connection, before)
        total = 0
        while count := self._prune_page(before):
            total += count
        return total

    def _prune_page(self, before: datetime) -> int:
        with self._database.write() as connection:
            while self._seal(connection, SEAL_PAGE):
                pass  # whatever is kept hangs on a seal
            count, facts = prune(connection, before)
            if count:
                now = self._database.now(connection)
                self._write(connection, [AuditRow(audit_rows.PRUNED, None, "", facts, now)])
                self._seal(connection, SEAL_PAGE)
            return count


def instant_of(row: LogRow) -> datetime:
    """When a row was written."""
    return msgspec.convert(row.at, datetime)


def _stated(connection: Connection) -> tuple[datetime, int]:
    """When the upgrade's window ends, and how many unkeyed rows the log vouches for."""
    switched = list(audit_rows.of_kinds(connection, (audit_rows.SWITCHED,)))
    # The switch row keeps what the migration found: the counter's own column has no code.
    if not switched or not audit_rows.facts_of(switched[0]).get("upgraded"):
        return datetime.min.replace(tzinfo=UTC), 0
    stated = audit_rows.stated(connection) or {}
    return instant_of(switched[0]) + UPGRADE_WINDOW, int(stated.get("rows", 0))


def _switch(connection: Connection, counter: audit_rows.Counter) -> dict[str, Any]:
    seal, digest = audit_unkeyed.head(connection)
    return {
        "unkeyed": audit_rows.unkeyed(connection),
        "chain": {"seal": seal, "hash": digest},
        "faults": sum(1 for _ in audit_unkeyed.findings(connection)),
        "upgraded": counter.is_upgraded,
    }


def _set_counter(
    connection: Connection, counter: audit_rows.Counter, values: dict[str, Any]
) -> None:
    ours = audit_counter.c.id == audit_rows.COUNTER
    moved = connection.execute(sa.update(audit_counter).where(ours).values(values))
    if moved.rowcount == 0:
        fresh = {"number": counter.number, "sealed": 0, "upgraded": False}
        connection.execute(
            sa.insert(audit_counter).values({"id": audit_rows.COUNTER} | fresh | values)
        )


__all__ = ["AuditRow", "AuditSql", "Subject", "append", "is_audited", "record"]
