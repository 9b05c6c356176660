"""What is due for an endpoint, with its content, and how endpoints stand.

Owns: the data that a message tells, read from the event or the outcome when it is sent: a message
whose event was deleted has none. Never does: write.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.event import format_instant
from delivery.domain.webhooks.endpoints import WebhookKind
from delivery.domain.webhooks.messages import (
    EndpointState,
    WebhookAttempt,
    WebhookMessage,
    WebhookRow,
)
from delivery.ledger.sql import rows
from delivery.ledger.sql.dialect import any_of
from delivery.ledger.sql.tables import confirmations, events
from delivery.ledger.sql.webhook_tables import (
    outcomes,
    webhook_attempts,
    webhook_messages,
    webhooks,
)

Data = dict[str, Any]


def is_due(connection: Connection, name: str, now: datetime) -> bool:
    """Whether a message of the endpoint is due."""
    query = sa.select(webhook_messages.c.id).where(*_due(name, now)).limit(1)
    return connection.execute(query).first() is not None


def due(connection: Connection, name: str, now: datetime, limit: int) -> list[WebhookMessage]:
    """Messages that are due, the longest due first, with their content."""
    found = connection.execute(
        sa.select(webhook_messages)
        .where(*_due(name, now))
        .order_by(webhook_messages.c.due_at, webhook_messages.c.id)
        .limit(limit)
    ).all()
    told = _about_events(connection, found) | _about_contacts(connection, found)
    return [_message(row, *told.get(row.id, (None, None))) for row in found]


def states(connection: Connection) -> list[EndpointState]:
    """How every endpoint stands, by name."""
    counts = {
        (row.webhook, row.state): row
        for row in connection.execute(
            sa.select(
                webhook_messages.c.webhook,
                webhook_messages.c.state,
                sa.func.count().label("count"),
                sa.func.min(webhook_messages.c.at).label("oldest"),
            )
            .where(webhook_messages.c.state.in_(("pending", "failed")))
            .group_by(webhook_messages.c.webhook, webhook_messages.c.state)
        )
    }
    found = []
    for row in connection.execute(sa.select(webhooks).order_by(webhooks.c.name)):
        waiting, failed = (counts.get((row.name, state)) for state in ("pending", "failed"))
        found.append(
            EndpointState(
                row.name,
                bool(row.is_on),
                row.reason,
                row.changed_at,
                row.followed_at,
                row.failing_since,
                row.failures,
                waiting._mapping["count"] if waiting else 0,
                failed._mapping["count"] if failed else 0,
                waiting.oldest if waiting else None,
                rows.load(row.facts) if row.facts else None,
                row.last_error,
                row.last_error_at,
            )
        )
    return found


def latest(connection: Connection, name: str, limit: int) -> list[WebhookRow]:
    """An endpoint's latest messages, newest first, with their attempts."""
    found = connection.execute(
        sa.select(webhook_messages)
        .where(webhook_messages.c.webhook == name)
        .order_by(webhook_messages.c.id.desc())
        .limit(limit)
    ).all()
    tried: dict[int, list[WebhookAttempt]] = defaultdict(list)
    for row in connection.execute(
        sa.select(webhook_attempts)
        .where(any_of(webhook_attempts.c.message_id, [row.id for row in found]))
        .order_by(webhook_attempts.c.number)
    ):
        tried[row.message_id].append(
            WebhookAttempt(
                row.number, row.outcome, row.status, row.error, row.started_at, row.ended_at
            )
        )
    return [
        WebhookRow(_message(row, None, None), row.state, row.due_at, tuple(tried[row.id]))
        for row in found
    ]


def _due(name: str, now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (webhook_messages.c.webhook == name, webhook_messages.c.due_at <= now)


def _message(row: rows.AnyRow, data: Data | None, traceparent: str | None) -> WebhookMessage:
    return WebhookMessage(
        row.id,
        row.webhook,
        WebhookKind(row.kind),
        row.subject,
        row.generation,
        row.at,
        row.number,
        row.tries,
        data,
        traceparent,
    )


Told = dict[int, tuple[Data | None, str | None]]
"""Number of a message -> its data, and the span that caused it."""


def _about_events(connection: Connection, found: Sequence[rows.AnyRow]) -> Told:
    ids = sorted({row.subject for row in found if row.kind.startswith("event.")})
    if not ids:
        return {}
    query = sa.select(
        events.c.id,
        events.c.type,
        events.c.user_id,
        events.c.run_id,
        events.c.thread_id,
        events.c.seq,
        events.c.at,
        events.c["class"],
        events.c.confirmed_at,
        events.c.traceparent,
    ).where(any_of(events.c.id, ids))
    known = {row.id: row for row in connection.execute(query)}
    confirmed = [row.subject for row in found if row.kind == WebhookKind.CONFIRMED]
    first = _confirmations(connection, known, confirmed)
    told: Told = {}
    for row in found:
        event = known.get(row.subject)
        if event is not None:
            told[row.id] = _event_data(row, event, first.get(row.subject)), event.traceparent
    return told


def _confirmations(
    connection: Connection, known: Mapping[str, rows.AnyRow], ids: Sequence[str]
) -> dict[str, Data]:
    """The confirmation that confirmed each event."""
    found: dict[str, Data] = {}
    query = (
        sa.select(confirmations)
        .where(any_of(confirmations.c.event_id, ids))
        .order_by(confirmations.c.event_id, confirmations.c.channel, confirmations.c.by)
    )
    for row in connection.execute(query):
        event = known.get(row.event_id)
        if event is not None and row.at == event.confirmed_at:
            made = {"channel": row.channel, "by": row.by, "at": format_instant(row.at)}
            found.setdefault(row.event_id, made)
    return found


def _event_data(row: rows.AnyRow, event: rows.AnyRow, confirmation: Data | None) -> Data:
    told: Data = {
        "id": event.id,
        "user_id": event.user_id,
        "run_id": event.run_id,
        "thread_id": event.thread_id,
        "seq": event.seq,
        "type": event.type,
        "class": event._mapping["class"],
        "state": WebhookKind(row.kind).value.partition(".")[2],
        "generation": row.generation,
        "at": format_instant(event.at),
    }
    if event.thread_id is None:
        del told["thread_id"]
    return told | ({"confirmation": confirmation} if confirmation else {})


def _about_contacts(connection: Connection, found: Sequence[rows.AnyRow]) -> Told:
    wanted = {int(row.subject): row.id for row in found if row.kind.startswith("contact.")}
    if not wanted:
        return {}
    query = sa.select(outcomes).where(any_of(outcomes.c.id, sorted(wanted)))
    told: Told = {}
    for row in connection.execute(query):
        facts: Data = rows.load(row.facts or "{}")
        told[wanted[row.id]] = {"user_id": row.user_id, **facts, "at": format_instant(row.at)}, None
    return told
