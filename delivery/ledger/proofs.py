"""Storing proofs: an event is confirmed by the first, later ones add rows.

Owns: who may confirm (only the event's own user) and what a proof changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import EventClass
from delivery.domain.lifecycle import Cause, Confirmation, State, sources
from delivery.domain.records import Confirmed
from delivery.ledger import bulk, edges
from delivery.ledger.among import among
from delivery.ledger.audit import AuditRow, audit_rows
from delivery.ledger.models import events
from delivery.ledger.rows import is_id

_FROM = sources(Cause.PROOF) - {State.CONFIRMED, State.EXPIRED}


def store_proofs(
    connection: Connection, proofs: Sequence[Confirmation], now: datetime
) -> Confirmed:
    """See the port ``EventStore.confirm``; inside the caller's transaction."""
    found = _owners(connection, sorted({p.event_id for p in proofs if is_id(p.event_id)}))
    valid: list[Confirmation] = []
    unknown: list[str] = []
    for proof in proofs:
        row = found.get(proof.event_id)
        if row is None or row.user_id != proof.user_id:
            unknown.append(proof.event_id)
        else:
            valid.append(proof)
    ids = list(dict.fromkeys(proof.event_id for proof in valid))
    if not ids:
        return Confirmed((), tuple(unknown))
    for page in bulk.pages(ids):
        connection.execute(
            sa.update(events)
            .where(among(events.c.id, page), edges.is_one_of(_FROM))
            .values(state=State.CONFIRMED.value, confirmed_at=now, due_at=None, step=None)
        )
    bulk.insert_confirmations(connection, valid, now)
    audit_rows(connection, list(_audited(valid, found, now)))
    confirmed = [i for i in ids if found[i].state != State.EXPIRED.value]
    return Confirmed(tuple(confirmed), tuple(unknown))


def _owners(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for page in bulk.pages(ids):
        # Locked in id order, as every writer of many events does: no two can wait for each other.
        query = (
            sa.select(events.c.id, events.c.user_id, events.c.state, events.c["class"])
            .where(among(events.c.id, page))
            .order_by(events.c.id)
        )
        if bulk.is_postgresql(connection):
            query = query.with_for_update()
        found.update((row.id, row) for row in connection.execute(query))
    return found


def _audited(
    proofs: Sequence[Confirmation], found: dict[str, Any], now: datetime
) -> Iterable[AuditRow]:
    for proof in proofs:
        if found[proof.event_id]._mapping["class"] == EventClass.AUTH.value:
            facts = {"channel": proof.channel, "by": proof.by, "evidence": proof.evidence}
            yield AuditRow("confirmed", proof.event_id, proof.user_id, facts, now)
