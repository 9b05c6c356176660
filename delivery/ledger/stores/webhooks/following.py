"""Messages for one endpoint, written from the outcomes of a span of time.

Owns: which outcomes an endpoint is told, and that none is told twice or missed. A span is read with
one statement for each kind of source, however many outcomes it holds; a row that is there is left.

A commit that began before another may end after it, with an earlier instant. So a span is read once
when it is new, with the last seconds before it, and once more when all its commits have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import State
from delivery.domain.webhooks.endpoints import Endpoint, WebhookKind
from delivery.ledger.sql.bisection import first_since
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.tables import confirmations, events
from delivery.ledger.sql.webhook_tables import outcomes, webhook_messages

OVERLAP = timedelta(seconds=5)
BUSY_OVERLAP = timedelta(seconds=0.5)
"""How much of what was read is read again with a new span; the second is for a full one."""
SETTLED = timedelta(seconds=60)
"""After which no commit adds to a span: each takes 10 s at most, and so does each wait in it."""

_ABOUT_EVENTS = frozenset(
    {WebhookKind.CONFIRMED, WebhookKind.PARKED, WebhookKind.DEAD, WebhookKind.EXPIRED}
)
_COLUMNS = ("webhook", "kind", "subject", "generation", "at", "state", "due_at", "created_at")
_ROWID: sa.ColumnElement[int] = sa.literal_column("confirmations.rowid", sa.BigInteger())


@dataclass(frozen=True, slots=True)
class Span:
    """Instants over ``after`` up to ``until``."""

    after: datetime
    until: datetime


def end_of_page(
    connection: Connection, endpoint: Endpoint, span: Span, limit: int
) -> tuple[datetime, bool]:
    """Where to end, so that about ``limit`` outcomes are read, and whether there are more."""
    ends = []
    for at, order, where in _sources(connection, endpoint, span):
        page = sa.select(at.label("at")).where(where).order_by(order).limit(limit).subquery()
        newest, count = connection.execute(sa.select(sa.func.max(page.c.at), sa.func.count())).one()
        if count >= limit:
            ends.append(newest)
    end = min(ends, default=span.until)
    return end, end < span.until


def _sources(
    connection: Connection, endpoint: Endpoint, span: Span
) -> Iterator[tuple[sa.Column[datetime], Any, sa.ColumnElement[bool]]]:
    """The instants of each source that the endpoint wants, their order, and those of the span."""
    if WebhookKind.CONFIRMED in endpoint.events:
        order = _ROWID if _is_sqlite(connection) else confirmations.c.at
        yield confirmations.c.at, order, _confirmed_in(connection, span)
    if endpoint.events - {WebhookKind.CONFIRMED}:
        yield outcomes.c.at, outcomes.c.at, _within(outcomes.c.at, span)


def write(connection: Connection, endpoint: Endpoint, span: Span, now: datetime) -> int:
    """Write the messages about the outcomes of a span, unless they are there."""
    kinds = [kind.value for kind in sorted(endpoint.events & _ABOUT_EVENTS)]
    about_contacts = [kind.value for kind in sorted(endpoint.events - _ABOUT_EVENTS)]
    written = 0
    if WebhookKind.CONFIRMED in endpoint.events:
        written += _insert(connection, endpoint, _confirmed(connection, endpoint, span), now)
    if kinds:
        written += _insert(connection, endpoint, _ended(endpoint, span, kinds), now)
    if about_contacts:
        written += _insert(connection, endpoint, _contacts(span, about_contacts), now)
    return written


def _within(at: sa.Column[datetime], span: Span) -> sa.ColumnElement[bool]:
    return sa.and_(at > span.after, at <= span.until)


def _confirmed_in(connection: Connection, span: Span) -> sa.ColumnElement[bool]:
    """The confirmations of a span. SQLite numbers rows in order of time, so no index is needed."""
    within = _within(confirmations.c.at, span)
    if not _is_sqlite(connection):
        return within
    # Two statements: for both in one, SQLite reads the whole table.
    first, last = (
        connection.execute(sa.select(sa.func.coalesce(end(_ROWID), -1)).select_from(confirmations))
        for end in (sa.func.min, sa.func.max)
    )
    candidates = range(first.scalar_one(), last.scalar_one() + 1)
    begin = first_since(connection, _ROWID, confirmations.c.at, span.after, candidates)
    return sa.and_(begin <= _ROWID, within)


def _is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


Outcome = sa.Select[tuple[str, str, int, datetime]]
"""Kind, subject, generation and instant of outcomes."""


def _confirmed(connection: Connection, endpoint: Endpoint, span: Span) -> Outcome:
    """First confirmations: those of the instant at which their event was confirmed."""
    return (
        sa.select(
            sa.literal(WebhookKind.CONFIRMED.value).label("kind"),
            _text(events.c.id).label("subject"),
            events.c.generation,
            confirmations.c.at,
        )
        .select_from(confirmations)
        .join(events, events.c.id == confirmations.c.event_id)
        .where(
            _confirmed_in(connection, span),
            events.c.state == State.CONFIRMED.value,
            events.c.confirmed_at == confirmations.c.at,
            *_chosen(endpoint),
        )
        .distinct()
    )


def _ended(endpoint: Endpoint, span: Span, kinds: Sequence[str]) -> Outcome:
    return (
        sa.select(
            outcomes.c.kind,
            _text(outcomes.c.event_id).label("subject"),
            outcomes.c.generation,
            outcomes.c.at,
        )
        .join(events, events.c.id == outcomes.c.event_id)
        .where(_within(outcomes.c.at, span), any_of(outcomes.c.kind, kinds), *_chosen(endpoint))
    )


def _contacts(span: Span, kinds: Sequence[str]) -> Outcome:
    return sa.select(
        outcomes.c.kind,
        _text(outcomes.c.id).label("subject"),
        outcomes.c.generation,
        outcomes.c.at,
    ).where(_within(outcomes.c.at, span), any_of(outcomes.c.kind, kinds))


def _chosen(endpoint: Endpoint) -> Iterator[sa.ColumnElement[bool]]:
    if endpoint.types:
        yield any_of(events.c.type, endpoint.types)
    if endpoint.classes:
        yield any_of(events.c["class"], endpoint.classes)


def _text(column: sa.Column[Any]) -> sa.ColumnElement[str]:
    return sa.cast(column, sa.String(36))


def _insert(connection: Connection, endpoint: Endpoint, which: Outcome, now: datetime) -> int:
    found = which.subquery()
    there = sa.exists().where(
        webhook_messages.c.webhook == endpoint.name,
        webhook_messages.c.subject == found.c.subject,
        webhook_messages.c.kind == found.c.kind,
        webhook_messages.c.generation == found.c.generation,
    )
    instant = sa.literal(now, UtcDateTime())
    fresh = (
        sa.select(
            sa.literal(endpoint.name),
            found.c.kind,
            found.c.subject,
            found.c.generation,
            found.c.at,
            sa.literal("pending"),
            instant,
            instant,
        )
        .where(~there)
        .order_by(found.c.at)
    )
    statement = insert(connection, webhook_messages).from_select(_COLUMNS, fresh)
    options = {"preserve_rowcount": True}
    done = connection.execute(statement.on_conflict_do_nothing(), execution_options=options)
    return max(0, done.rowcount)
