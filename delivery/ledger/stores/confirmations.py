"""Storing confirmations: the first one confirms its event, later ones add rows.

Owns: the check that a confirmation is of the event's own user, and the changes that it makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.inputs.foreign_text import is_storable, storable
from delivery.domain.lifecycle import Cause, Confirmation, State, sources
from delivery.domain.records import Confirmed, First
from delivery.ledger import counting
from delivery.ledger.sql import bulk
from delivery.ledger.sql.columns import MAX_FOREIGN_NAME
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, array
from delivery.ledger.sql.rows import is_id
from delivery.ledger.sql.tables import events
from delivery.ledger.stores.audit import audit
from delivery.ledger.stores.fallback.digests import listed

_FROM = sorted(
    state.value for state in sources(Cause.CONFIRMATION) - {State.CONFIRMED, State.EXPIRED}
)

_OPEN = frozenset(_FROM)

# Locked in id order, as by every writer of many events: no two can wait for each other. One
# statement, because confirmations are the most frequent write after inserts.
_POSTGRESQL = """
WITH confirmation AS (
    SELECT p.id, p.user_id FROM unnest(%(ids)s::uuid[], %(users)s::text[]) AS p (id, user_id)
), found AS (
    SELECT e.id, e.user_id, e.state, e.class FROM events e
    WHERE e.id = ANY (%(ids)s::uuid[]) ORDER BY e.id FOR UPDATE
), confirmed AS (
    UPDATE events e SET state = %(to)s, confirmed_at = %(now)s, due_at = NULL, step = NULL
    FROM found f JOIN (SELECT DISTINCT id, user_id FROM confirmation) p USING (id, user_id)
    WHERE e.id = f.id AND f.state = ANY (%(from)s::text[])
)
SELECT id, user_id, state, class FROM found
"""
_LOOK_SQLITE = (
    "SELECT id, user_id, state, class FROM events WHERE id IN (SELECT value FROM json_each(?))"
)
_PROVE_SQLITE = (
    "UPDATE events SET state = ?, confirmed_at = ?, due_at = NULL, step = NULL "
    "WHERE id IN (SELECT value FROM json_each(?)) "
    "AND state IN (SELECT value FROM json_each(?))"
)
Owner = tuple[str, str, str, str]
"""Id, user, state and class of an event as it was found."""


class ConfirmationSql:
    """``ConfirmationStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def confirm(
        self, confirmations: Sequence[Confirmation], *, digest_id: str | None = None
    ) -> Confirmed:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            if digest_id is not None:
                answer = _confirm_listed(connection, confirmations, digest_id, now)
            else:
                answer = store_confirmations(connection, confirmations, now)
        counting.confirmed(answer.first)
        return answer


def _confirm_listed(
    connection: Connection, confirmations: Sequence[Confirmation], digest_id: str, now: datetime
) -> Confirmed:
    # Locked in order of ids, as by every writer of many events: none is replayed meanwhile.
    given = [one.event_id for one in confirmations if is_id(one.event_id)]
    connection.execute(
        sa.select(events.c.id)
        .where(any_of(events.c.id, given))
        .order_by(events.c.id)
        .with_for_update()
    ).all()
    present = set(listed(connection, digest_id))
    answer = store_confirmations(
        connection, [one for one in confirmations if one.event_id in present], now
    )
    stale = [one.event_id for one in confirmations if one.event_id not in present]
    return Confirmed(answer.confirmed, (*answer.unknown, *stale), answer.first)


def store_confirmations(
    connection: Connection, confirmations: Sequence[Confirmation], now: datetime
) -> Confirmed:
    """See the port ``ConfirmationStore.confirm``; inside the caller's transaction."""
    confirmations = as_stored(confirmations)
    named = [p for p in confirmations if is_id(p.event_id) and is_storable(p.user_id)]
    found = {row[0]: row for row in _confirm_one(connection, named, now)} if named else {}
    valid: list[Confirmation] = []
    unknown: list[str] = []
    for confirmation in confirmations:
        row = found.get(confirmation.event_id)
        if row is None or row[1] != confirmation.user_id:
            unknown.append(confirmation.event_id)
        else:
            valid.append(confirmation)
    if not valid:
        return Confirmed((), tuple(unknown))
    bulk.insert_confirmations(connection, valid, now)
    audit.record(connection, "confirmed", now, _subjects(valid, found))
    ids = dict.fromkeys(confirmation.event_id for confirmation in valid)
    confirmed = [i for i in ids if found[i][2] != State.EXPIRED.value]
    return Confirmed(tuple(confirmed), tuple(unknown), _first(valid, found))


def _first(confirmations: Sequence[Confirmation], found: Mapping[str, Owner]) -> tuple[First, ...]:
    """Which of them confirmed their event; the first one of each, if there are several."""
    states = {p.event_id: (p.channel, found[p.event_id][2]) for p in reversed(confirmations)}
    return tuple((i, channel, was) for i, (channel, was) in states.items() if was in _OPEN)


def as_stored(confirmations: Sequence[Confirmation]) -> Sequence[Confirmation]:
    """The confirmations as the columns hold them; their names are clients' and providers' texts."""
    # Few different ones: all events of a connection have the same.
    names = {p.by for p in confirmations}
    names.update([p.evidence for p in confirmations])
    if all(name.isprintable() and len(name) <= MAX_FOREIGN_NAME for name in names):
        return confirmations
    return [
        msgspec.structs.replace(
            p,
            by=storable(p.by, MAX_FOREIGN_NAME),
            evidence=storable(p.evidence, MAX_FOREIGN_NAME),
        )
        for p in confirmations
    ]


def _confirm_one(
    connection: Connection, confirmations: Sequence[Confirmation], now: datetime
) -> Iterable[Owner]:
    """Confirm events whose user the confirmation names, unless confirmed already; returns all
    events that were found, as they were before."""
    with bulk.cursor_of(connection) as cursor:
        if bulk.is_postgresql(connection):
            cursor.execute(
                _POSTGRESQL,
                {
                    "ids": array(confirmation.event_id for confirmation in confirmations),
                    "users": array(confirmation.user_id for confirmation in confirmations),
                    "to": State.CONFIRMED.value,
                    "from": array(_FROM),
                    "now": now,
                },
            )
            return list(cursor.fetchall())
        found: list[Owner] = cursor.execute(
            _LOOK_SQLITE, [json.dumps([confirmation.event_id for confirmation in confirmations])]
        ).fetchall()
        users = {(confirmation.event_id, confirmation.user_id) for confirmation in confirmations}
        own = [row[0] for row in found if (row[0], row[1]) in users]
        at = bulk.stamp(connection, now)
        cursor.execute(
            _PROVE_SQLITE, [State.CONFIRMED.value, at, json.dumps(own), json.dumps(_FROM)]
        )
        return found


def _subjects(
    confirmations: Sequence[Confirmation], found: Mapping[str, Owner]
) -> Iterable[audit.Subject]:
    for confirmation in confirmations:
        event_class = found[confirmation.event_id][3]
        if audit.is_audited(event_class):  # most are not, and this is the most frequent write
            facts = {
                "channel": confirmation.channel,
                "by": confirmation.by,
                "evidence": confirmation.evidence,
            }
            yield audit.Subject(confirmation.event_id, confirmation.user_id, event_class, facts)
