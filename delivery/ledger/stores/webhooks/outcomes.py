"""Outcomes that webhooks tell, written in the transaction of the change: ends of events without a
confirmation, and what became of users' addresses.

Owns: these rows, and what goes with an event or a user. Never does: touch the live path: a
confirmation is its own record, and is found by its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import State
from delivery.domain.webhooks.endpoints import WebhookKind
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.rows import dump
from delivery.ledger.sql.tables import events
from delivery.ledger.sql.webhook_tables import (
    outcomes,
    webhook_attempts,
    webhook_messages,
    webhooks,
)

KINDS = {
    State.PARKED: WebhookKind.PARKED,
    State.DEAD: WebhookKind.DEAD,
    State.EXPIRED: WebhookKind.EXPIRED,
}
_HAS_ENDPOINTS = sa.exists(sa.select(sa.literal(1)).select_from(webhooks))
_COLUMNS = ("kind", "event_id", "generation", "user_id", "facts", "at")


def record_ended(connection: Connection, ids: Sequence[str], state: State, at: datetime) -> None:
    """Record that events have just got this state; nothing while there is no endpoint."""
    if not ids:
        return
    found = sa.select(
        sa.literal(KINDS[state].value),
        events.c.id,
        events.c.generation,
        events.c.user_id,
        sa.null(),
        sa.literal(at, UtcDateTime()),
    ).where(any_of(events.c.id, ids), events.c.state == state.value, _HAS_ENDPOINTS)
    connection.execute(sa.insert(outcomes).from_select(_COLUMNS, found))


def record_contact(
    connection: Connection, kind: WebhookKind, user_id: str, facts: Mapping[str, Any], at: datetime
) -> None:
    """Record what became of a user's addresses; nothing while there is no endpoint."""
    found = sa.select(
        sa.literal(kind.value),
        sa.cast(sa.null(), outcomes.c.event_id.type),
        sa.literal(0),
        sa.literal(user_id),
        sa.literal(dump(dict(facts))),
        sa.literal(at, UtcDateTime()),
    ).where(_HAS_ENDPOINTS)
    connection.execute(sa.insert(outcomes).from_select(_COLUMNS, found))


def forget_events(connection: Connection, ids: Sequence[str]) -> None:
    """Delete the messages about events that are deleted."""
    _forget(connection, any_of(webhook_messages.c.subject, ids))


def forget_user(connection: Connection, user_id: str) -> None:
    """Delete what is recorded about a user, and the messages about the user's addresses."""
    own = sa.select(sa.cast(outcomes.c.id, sa.String(36))).where(outcomes.c.user_id == user_id)
    _forget(connection, webhook_messages.c.subject.in_(own))
    connection.execute(sa.delete(outcomes).where(outcomes.c.user_id == user_id))


def _forget(connection: Connection, which: sa.ColumnElement[bool]) -> None:
    messages = sa.select(webhook_messages.c.id).where(which)
    ours = webhook_attempts.c.message_id.in_(messages)
    connection.execute(sa.delete(webhook_attempts).where(ours))
    connection.execute(sa.delete(webhook_messages).where(which))
