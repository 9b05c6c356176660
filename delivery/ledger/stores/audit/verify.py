"""The verification of the compliance log.

Owns: the findings. Whatever a writer without the key does to the tables must show in one of them;
what shows only from outside (tables set back to an earlier state as a whole) shows against a
checkpoint that was kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.audit import GENESIS, AuditKeys, Checkpoint, LogRow, Verified
from delivery.domain.event import EventClass
from delivery.ledger.sql.audit_tables import audit_log, audit_subjects
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.tables import events
from delivery.ledger.stores.audit import rows as audit_rows
from delivery.ledger.stores.audit import unkeyed as audit_unkeyed

MAX_FINDINGS = 100


def verify(
    database: Database, keys: AuditKeys, checkpoints: Sequence[Checkpoint], window: timedelta
) -> Verified:
    """Check the whole log, and that it goes on from each checkpoint.

    Args:
        window: how long after the switch unkeyed rows may still come.

    Returns:
        At most ``MAX_FINDINGS`` findings.
    """
    findings: list[str] = []
    with database.read() as connection:
        if not database.is_sqlite:  # one snapshot, as SQLite gives by itself
            connection.execute(sa.text("set transaction isolation level repeatable read"))
        look = _Look(connection, keys, window, database.now(connection))
        for finding in look.findings(checkpoints):
            findings.append(finding)
            if len(findings) >= MAX_FINDINGS:
                findings.append(f"and more: only the first {MAX_FINDINGS} findings are listed")
                break
    return Verified(tuple(findings), tuple(look.notes), look.rows, look.last, look.hash)


@dataclass
class _Special:
    """Rows that change what the others must look like; those with a right code only."""

    switches: list[LogRow] = field(default_factory=list)
    pruned: dict[str, Any] | None = None
    unkeyed: dict[str, Any] | None = None
    erased: dict[str, int] = field(default_factory=dict)
    recovered: list[LogRow] = field(default_factory=list)


class _Look:
    """One verification."""

    def __init__(
        self, connection: Connection, keys: AuditKeys, window: timedelta, now: datetime
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._window = window
        self._now = now
        self._special = _Special()
        self.notes: list[str] = []
        self.rows = 0
        self.last = 0
        self.hash = GENESIS

    def findings(self, checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
        self._read_special()
        yield from self._base()
        counter = audit_rows.counter(self._connection)
        for sealed in audit_rows.numbered(self._connection, -1):
            yield from self._row(sealed, counter.newest_seal)
        yield from self._end(counter)
        yield from self._switches(counter)
        yield from self._unkeyed()
        yield from self._names()
        yield from self._events()
        for row in self._special.recovered:
            facts = audit_rows.facts_of(row)
            yield (
                f"changed: row {row.number} of {row.at} records that {facts.get('what')} "
                f"(found {facts.get('found')}, known {facts.get('last')})"
            )
        for checkpoint in checkpoints:
            yield from self._checkpoint(checkpoint)

    def _is_genuine(self, row: LogRow) -> bool:
        key = self._keys.get(row.key)
        return key is not None and row.mac == key.row(row)

    def _read_special(self) -> None:
        kinds = (*audit_rows.STATEMENTS, audit_rows.RECOVERED)
        for row in audit_rows.of_kinds(self._connection, kinds):
            if not self._is_genuine(row):
                continue
            facts = audit_rows.facts_of(row)
            if "unkeyed" in facts:
                self._special.unkeyed = facts["unkeyed"]
            if row.kind == audit_rows.SWITCHED:
                self._special.switches.append(row)
            elif row.kind == audit_rows.PRUNED:
                self._special.pruned = facts
            elif row.kind == audit_rows.ERASED:
                for subject in facts.get("subjects", (row.subject,)):
                    self._special.erased[subject] = row.number
            elif row.kind == audit_rows.RECOVERED:
                self._special.recovered.append(row)

    def _base(self) -> Iterator[str]:
        """Where the log begins: at 1, or after what was pruned."""
        pruned = self._special.pruned
        if pruned is None or not pruned["through"]:
            return
        self.last, self.hash = pruned["through"], pruned["hash"]
        if audit_rows.seal_of(self._connection, self.last) != self.hash:
            yield f"missing: seal {self.last}, on which the log hangs since it was pruned"

    def _row(self, sealed: audit_rows.Sealed, newest_seal: int) -> Iterator[str]:
        row, name = sealed.row, f"row {sealed.row.number}"
        self.rows += 1
        if row.number <= self.last:
            yield f"inserted: {name} was pruned before, or stands below the first number"
            return
        if row.number > self.last + 1:
            yield _missing(self.last + 1, row.number - 1)
            # The chain goes on from the missing row's seal, where that was left.
            self.hash = audit_rows.seal_of(self._connection, row.number - 1) or self.hash
        if self._keys.get(row.key) is None:
            yield f"unknown: {name} has a code of key {row.key[:16] or 'none'}, not known here"
        elif not self._is_genuine(row):
            yield f"changed: {name} does not match its code"
        yield from self._details(sealed)
        expected = row.sealed_after(self.hash)
        if sealed.hash is None:
            if row.number <= newest_seal:
                yield f"missing: the seal of {name}"
            self.hash = expected
        else:
            yield from self._seal(sealed, expected)
            self.hash = sealed.hash
        self.last = row.number

    def _seal(self, sealed: audit_rows.Sealed, expected: str) -> Iterator[str]:
        name = f"row {sealed.row.number}"
        if sealed.hash != expected:
            yield f"changed: {name} does not match its seal, or does not follow the row before it"
        key = self._keys.get(sealed.seal_key)
        if key is None:
            yield f"unknown: the seal of {name} was made with a key that is not known here"
        elif sealed.seal_mac != key.seal(sealed.row.number, sealed.hash or ""):
            yield f"changed: the seal of {name} does not match its code"

    def _details(self, sealed: audit_rows.Sealed) -> Iterator[str]:
        row, details = sealed.row, sealed.details
        key = self._keys.get(row.key)
        if details is None:
            is_erased = self._special.erased.get(row.subject, 0) > row.number
            if row.commitment is not None and not is_erased:
                yield f"missing: the details of row {row.number}, whose user was not erased"
        elif row.commitment is None:
            yield f"inserted: row {row.number} was written without details"
        elif key is not None and row.commitment != key.commitment(row.number, details):
            yield f"changed: the details of row {row.number} do not match their code"

    def _end(self, counter: audit_rows.Counter) -> Iterator[str]:
        """The end of the log against the counter's row, each number of which has a code."""
        if not counter.is_there:
            yield "missing: the counter's row"
            return
        end = max(counter.number, counter.newest_seal, counter.sealed)
        if end > self.last:
            yield _missing(self.last + 1, end)
        elif counter.number < self.last:
            yield f"changed: the counter was set back to {counter.number}; rows go to {self.last}"
        if counter.newest_seal < counter.sealed:
            yield f"missing: seals {counter.newest_seal + 1} to {counter.sealed}"
        elif counter.newest_seal > counter.sealed:
            yield f"changed: sealed up to {counter.sealed} by the counter, seals go further"
        yield from self._code("number", counter.number, counter.mac, counter.key)
        yield from self._code("sealed", counter.sealed, counter.sealed_mac, counter.sealed_key)

    def _code(self, use: str, number: int, mac: str | None, key_id: str | None) -> Iterator[str]:
        if number == 0 and mac is None:
            return  # as the migration wrote it; rows above 0 were found already
        key = self._keys.get(key_id)
        if key is None:
            yield f"unknown: the counter's {use} has a code of a key that is not known here"
        elif mac != key.counter(use, number):
            yield f"changed: the counter's {use} does not match its code"

    def _switches(self, counter: audit_rows.Counter) -> Iterator[str]:
        switches = self._special.switches
        if not switches and not self._special.pruned and counter.newest_seal:
            yield "missing: the row of the switch to the keyed chain"
        for row in switches[1:]:
            yield f"inserted: row {row.number} is a second switch: the log was begun anew"
        if switches:
            facts = audit_rows.facts_of(switches[0])
            if facts.get("faults"):
                yield (
                    f"changed: the unkeyed rows had {facts['faults']} findings when the keyed "
                    f"chain began, at {switches[0].at}"
                )

    def _unkeyed(self) -> Iterator[str]:
        """Rows of the first release against the last statement about them."""
        stated = self._special.unkeyed
        if stated is None:
            query = sa.select(sa.func.count()).where(audit_log.c.number.is_(None))
            count = self._connection.execute(query).scalar_one()
            if count:
                yield (
                    f"unkeyed: {count} rows and no switch to the keyed chain yet; a worker's "
                    "sealer records it within seconds of its start"
                )
                yield from audit_unkeyed.findings(self._connection)
            return
        found = audit_rows.unkeyed(self._connection, stated["last"])
        if found["rows"] != stated["rows"]:
            yield f"missing: {stated['rows']} unkeyed rows were stated, {found['rows']} are there"
        elif found != stated:
            yield "changed: the unkeyed rows are not those that were stated"
        elif found["rows"]:
            self.notes.append(f"{found['rows']} unkeyed rows of an earlier release, as stated")
        yield from self._late(stated)

    def _late(self, stated: dict[str, Any]) -> Iterator[str]:
        query = sa.select(audit_log.c.id).where(
            audit_log.c.number.is_(None), audit_log.c.id > stated["last"]
        )
        late = self._connection.execute(query.order_by(audit_log.c.id).limit(MAX_FINDINGS)).all()
        if late and self._is_upgrading():
            self.notes.append(f"{len(late)} rows of a process of the earlier release wait")
            return
        for row in late:
            yield f"inserted: the row with id {row.id} has no number"

    def _is_upgrading(self) -> bool:
        if not self._special.switches:
            return False
        row = self._special.switches[0]
        begun = msgspec.convert(row.at, datetime)
        return bool(audit_rows.facts_of(row).get("upgraded")) and self._now < begun + self._window

    def _names(self) -> Iterator[str]:
        """Names behind pseudonyms: each must be its own, none may lack without an erasure."""
        for row in self._connection.execute(sa.select(audit_subjects)):
            if row.subject not in self._keys.pseudonyms(row.user_id):
                yield f"changed: the name behind {row.subject} is not its own"
        used = (
            sa.select(audit_log.c.user_id)
            .where(audit_log.c.number.isnot(None), audit_log.c.user_id != "")
            .distinct()
            .subquery()
        )
        # An outer join: both databases hash it, where NOT IN or NOT EXISTS suit one each.
        named = used.outerjoin(audit_subjects, audit_subjects.c.subject == used.c.user_id)
        nameless = (
            sa.select(used.c.user_id)
            .select_from(named)
            .where(audit_subjects.c.subject.is_(None))
            .order_by(used.c.user_id)
        )
        for subject in self._connection.execute(nameless).scalars():
            if subject not in self._special.erased:
                yield f"missing: the name behind {subject}, which was not erased"

    def _events(self) -> Iterator[str]:
        """Sign-in events of the ledger that the log does not know."""
        known = (
            sa.select(audit_log.c.event_id)
            .where(audit_log.c.event_id != audit_rows.NO_EVENT)
            .distinct()
            .subquery()
        )
        query = (
            sa.select(events.c.id)
            .select_from(events.outerjoin(known, known.c.event_id == events.c.id))
            .where(events.c["class"] == EventClass.AUTH.value, known.c.event_id.is_(None))
        )
        if self._special.pruned is not None:
            before = msgspec.convert(self._special.pruned["before"], datetime)
            query = query.where(events.c.recorded_at >= before)
        for event_id in self._connection.execute(query.limit(MAX_FINDINGS)).scalars():
            yield f"missing: sign-in event {event_id} is in the ledger and not in the log"

    def _checkpoint(self, checkpoint: Checkpoint) -> Iterator[str]:
        name = f"the checkpoint of {checkpoint.at} (row {checkpoint.number})"
        if not checkpoint.is_signed:
            yield f"changed: {name} does not match its signature"
            return
        if checkpoint.public_key not in self._keys.public:
            yield f"unknown: {name} is signed with a key that is not this installation's"
            return
        digest = audit_rows.seal_of(self._connection, checkpoint.number)
        pruned = self._special.pruned
        if digest == checkpoint.hash:
            self.notes.append(f"{name} holds")
        elif digest is None and pruned is not None and checkpoint.number < pruned["through"]:
            self.notes.append(f"{name} lies in what was pruned")
        elif digest is None:
            yield f"missing: {name} is signed and the log ends before it, or lacks its seal"
        else:
            yield f"changed: {name} is signed with another hash: the log was rewritten"


def _missing(first: int, last: int) -> str:
    return f"missing: row {first}" if first == last else f"missing: rows {first} to {last}"
