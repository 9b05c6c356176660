"""Endpoints of webhooks: who sends to one now, what is due, and how attempts ended.

Owns: every change of an endpoint and of a message. One sender at a time has an endpoint; its token
fences what it writes, so that a sender whose lease has ended changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from delivery.domain.lifecycle import LOST_WORKER, Outcome
from delivery.domain.webhooks.endpoints import Endpoint
from delivery.domain.webhooks.messages import (
    FAILING_FOR,
    FIRST_SPAN,
    KEPT,
    LONGEST_SPAN,
    MAX_WAITING,
    PAUSE,
    TROUBLED_AFTER,
    UNSEEN,
    EndpointLease,
    EndpointState,
    Followed,
    Replayed,
    WebhookAnswer,
    WebhookMessage,
    WebhookRow,
    facts_of,
    next_wait,
)
from delivery.ledger.sql import rows
from delivery.ledger.sql.columns import UtcDateTime
from delivery.ledger.sql.database import Database
from delivery.ledger.sql.dialect import any_of, insert
from delivery.ledger.sql.webhook_tables import (
    outcomes,
    webhook_attempts,
    webhook_messages,
    webhooks,
)
from delivery.ledger.stores.webhooks import reading
from delivery.ledger.stores.webhooks.following import (
    BUSY_OVERLAP,
    OVERLAP,
    SETTLED,
    Span,
    end_of_page,
    write,
)

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"
GONE = "410 Gone: the endpoint wants no more messages"
MAX_PAUSE = 3_600.0
"""Seconds for which an endpoint that asks for a pause gets none of its messages."""
STARTING = timedelta(seconds=60)
"""How far back a new endpoint is told: gateways and workers do not start at the same instant."""
SEEN_EVERY = timedelta(hours=1)


class WebhookSql:
    """``WebhookStore`` over SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, names: Sequence[str]) -> None:
        """See the port."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            known = {
                row.name: row
                for row in connection.execute(
                    sa.select(webhooks).where(any_of(webhooks.c.name, names))
                )
            }
        old = now - SEEN_EVERY
        late = [name for name, row in known.items() if row.seen_at < old or _has_failed(row, now)]
        fresh = [name for name in names if name not in known]
        if not fresh and not late:
            return
        with self._database.write() as connection:
            now = self._database.now(connection)
            for name in fresh:
                values = _new(name, now) | {
                    "followed_at": now - STARTING,
                    "settled_at": now - STARTING,
                }
                connection.execute(
                    insert(connection, webhooks).values(values).on_conflict_do_nothing()
                )
            if late:
                ours = any_of(webhooks.c.name, late)
                connection.execute(sa.update(webhooks).where(ours).values(seen_at=now))
                failed = sa.and_(
                    ours, webhooks.c.is_on, webhooks.c.failing_since <= now - FAILING_FOR
                )
                connection.execute(sa.update(webhooks).where(failed).values(_off(_long(), now)))

    def describe(self, endpoints: Sequence[Endpoint]) -> None:
        """See the port."""
        told = {one.name: rows.dump(facts_of(one)) for one in endpoints}
        with self._database.read() as connection:
            query = sa.select(webhooks.c.name, webhooks.c.facts)
            known = {
                row.name: row.facts
                for row in connection.execute(query.where(any_of(webhooks.c.name, list(told))))
            }
        news = [name for name in known if known[name] != told[name]]
        if not news:
            return
        with self._database.write() as connection:
            for name in news:
                ours = webhooks.c.name == name
                connection.execute(sa.update(webhooks).where(ours).values(facts=told[name]))

    def follow(self, endpoint: Endpoint, span: timedelta, limit: int = 1_000) -> Followed:
        """See the port."""
        idle = Followed(0, is_behind=False, span=FIRST_SPAN)
        with self._database.write() as connection:
            row = _locked(connection, endpoint.name, webhooks.c.is_on)
            if row is None or _waiting(connection, endpoint.name, MAX_WAITING) >= MAX_WAITING:
                return idle
            now = self._database.now(connection)
            new = Span(row.followed_at, min(now, row.followed_at + span))
            end, is_full = end_of_page(connection, endpoint, new, limit)
            again = BUSY_OVERLAP if is_full else OVERLAP
            written = write(connection, endpoint, Span(row.followed_at - again, end), now)
            late = Span(row.settled_at, min(end, now - SETTLED, row.settled_at + span))
            settled = row.settled_at
            if late.until > late.after:
                settled, _ = end_of_page(connection, endpoint, late, limit)
                written += write(connection, endpoint, Span(row.settled_at, settled), now)
            values = {"followed_at": max(end, row.followed_at), "settled_at": settled}
            ours = webhooks.c.name == endpoint.name
            connection.execute(sa.update(webhooks).where(ours).values(values))
        wider = max(FIRST_SPAN, span / 4) if is_full else min(span * 4, LONGEST_SPAN)
        return Followed(written, is_behind=end < now, span=wider)

    def lease(self, name: str, seconds: float) -> EndpointLease | None:
        """See the port."""
        with self._database.read() as connection:
            now = self._database.now(connection)
            if not reading.is_due(connection, name, now):
                return None
        with self._database.write() as connection:
            now = self._database.now(connection)
            row = _locked(
                connection,
                name,
                webhooks.c.is_on,
                sa.or_(webhooks.c.claimed_until.is_(None), webhooks.c.claimed_until <= now),
                sa.or_(webhooks.c.paused_until.is_(None), webhooks.c.paused_until <= now),
            )
            if row is None:
                return None
            until = now + timedelta(seconds=seconds)
            connection.execute(
                sa.update(webhooks)
                .where(webhooks.c.name == name)
                .values(token=row.token + 1, claimed_until=until)
            )
            _end_lost(connection, name, now)
            return EndpointLease(name, row.token + 1, until, row.failures >= TROUBLED_AFTER)

    def due(self, lease: EndpointLease, limit: int) -> list[WebhookMessage]:
        """See the port."""
        with self._database.read() as connection:
            return reading.due(connection, lease.name, self._database.now(connection), limit)

    def begin(self, lease: EndpointLease, messages: Sequence[WebhookMessage]) -> bool:
        """See the port."""
        with self._database.write() as connection:
            if not _holds(connection, lease):
                return False
            now = self._database.now(connection)
            connection.execute(
                sa.update(webhook_messages)
                .where(any_of(webhook_messages.c.id, [one.id for one in messages]))
                .values(
                    number=webhook_messages.c.number + 1,
                    tries=webhook_messages.c.tries + 1,
                    due_at=lease.until,
                )
            )
            started = [
                {
                    "message_id": one.id,
                    "number": one.number + 1,
                    "outcome": Outcome.STARTED.value,
                    "started_at": now,
                }
                for one in messages
            ]
            connection.execute(sa.insert(webhook_attempts), started)
        return True

    def end(
        self, lease: EndpointLease, message: WebhookMessage, answer: WebhookAnswer, jitter: float
    ) -> str | None:
        """See the port."""
        with self._database.write() as connection:
            row = _holds(connection, lease)
            if row is None:
                return None
            now = self._database.now(connection)
            connection.execute(
                sa.update(webhook_attempts)
                .where(
                    webhook_attempts.c.message_id == message.id,
                    webhook_attempts.c.number == message.number + 1,
                )
                .values(
                    outcome=answer.outcome.value,
                    status=answer.status,
                    error=answer.error,
                    ended_at=now,
                )
            )
            connection.execute(
                sa.update(webhook_messages)
                .where(webhook_messages.c.id == message.id)
                .values(_next(message, answer, jitter, now))
            )
            changes, reason = _endpoint_after(row, answer, now)
            connection.execute(
                sa.update(webhooks).where(webhooks.c.name == lease.name).values(changes)
            )
        return reason

    def drop(self, lease: EndpointLease, messages: Sequence[WebhookMessage]) -> None:
        """See the port."""
        with self._database.write() as connection:
            if _holds(connection, lease):
                connection.execute(
                    sa.update(webhook_messages)
                    .where(any_of(webhook_messages.c.id, [one.id for one in messages]))
                    .values(state=FAILED, due_at=None, ended_at=self._database.now(connection))
                )

    def release(self, lease: EndpointLease) -> None:
        """See the port."""
        with self._database.write() as connection:
            connection.execute(sa.update(webhooks).where(*_of(lease)).values(claimed_until=None))

    def enable(self, name: str) -> EndpointState | None:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            before = next((one for one in reading.states(connection) if one.name == name), None)
            if before is None or before.is_on:
                return before
            connection.execute(
                sa.update(webhooks)
                .where(webhooks.c.name == name)
                .values(_new(name, now) | {"token": webhooks.c.token + 1, "claimed_until": None})
            )
            connection.execute(
                sa.update(webhook_messages)
                .where(
                    webhook_messages.c.webhook == name,
                    webhook_messages.c.due_at.isnot(None),
                )
                .values(due_at=now, tries=0)
            )
        return before

    def disable(self, name: str, reason: str) -> bool:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            ours = sa.and_(webhooks.c.name == name, webhooks.c.is_on)
            connection.execute(sa.update(webhooks).where(ours).values(_off(reason, now)))
            return _locked(connection, name) is not None

    def replay(self, endpoint: Endpoint, since: datetime) -> int:
        """See the port."""
        return self.replay_for(endpoint, since, math.inf).messages

    def replay_for(self, endpoint: Endpoint, since: datetime, seconds: float) -> Replayed:
        """See the port. A page is a transaction of its own."""
        ends = time.monotonic() + seconds
        span, count = FIRST_SPAN, 0
        after = since - timedelta(microseconds=1)
        until = self._database.now()
        while after < until:
            with self._database.write() as connection:
                now = self._database.now(connection)
                page = Span(after, min(until, after + span))
                end, is_full = end_of_page(connection, endpoint, page, 1_000)
                page = Span(after, end)
                sent = _again(connection, endpoint, page, now)
                count += sent + write(connection, endpoint, page, now)
            after = end
            span = max(FIRST_SPAN, span / 4) if is_full else min(span * 4, LONGEST_SPAN)
            if after < until and time.monotonic() >= ends:
                return Replayed(count, after + timedelta(microseconds=1))
        return Replayed(count, None)

    def states(self) -> list[EndpointState]:
        """See the port."""
        with self._database.read() as connection:
            return reading.states(connection)

    def off(self) -> list[str]:
        """See the port."""
        query = sa.select(webhooks.c.name).where(~webhooks.c.is_on).order_by(webhooks.c.name)
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def has_any_on(self) -> bool:
        """See the port."""
        query = sa.select(webhooks.c.name).where(webhooks.c.is_on).limit(1)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def messages(self, name: str, *, limit: int = 20) -> list[WebhookRow]:
        """See the port."""
        with self._database.read() as connection:
            return reading.latest(connection, name, limit)

    def trim(self, limit: int = 1_000) -> int:
        """See the port."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            unseen = sa.select(webhooks.c.name).where(webhooks.c.seen_at < now - UNSEEN)
            stray = webhook_messages.c.webhook.notin_(sa.select(webhooks.c.name))
            old = webhook_messages.c.at < now - KEPT
            forgotten = connection.execute(sa.delete(webhooks).where(webhooks.c.name.in_(unseen)))
            found = list(
                connection.scalars(
                    sa.select(webhook_messages.c.id).where(sa.or_(old, stray)).limit(limit)
                )
            )
            for table, column in (
                (webhook_attempts, webhook_attempts.c.message_id),
                (webhook_messages, webhook_messages.c.id),
            ):
                connection.execute(sa.delete(table).where(any_of(column, found)))
            kept = sa.select(outcomes.c.id).where(outcomes.c.at < now - KEPT).limit(limit)
            past = connection.execute(sa.delete(outcomes).where(outcomes.c.id.in_(kept)))
            return forgotten.rowcount + len(found) + past.rowcount


def _new(name: str, now: datetime) -> dict[str, Any]:
    """The values of an endpoint that is told what happens from now on."""
    return {
        "name": name,
        "is_on": True,
        "reason": None,
        "changed_at": now,
        "seen_at": now,
        "followed_at": now,
        "settled_at": now,
        "failures": 0,
        "failing_since": None,
        "paused_until": None,
    }


def _off(reason: str, now: datetime) -> dict[str, Any]:
    return {"is_on": False, "reason": reason, "changed_at": now}


def _long() -> str:
    return f"no success for {FAILING_FOR // timedelta(hours=1)} hours"


def _has_failed(row: rows.AnyRow, now: datetime) -> bool:
    """Whether an endpoint that is on has failed for too long."""
    since = row.failing_since
    return bool(row.is_on) and since is not None and bool(since <= now - FAILING_FOR)


def _locked(
    connection: Connection, name: str, *where: sa.ColumnElement[bool]
) -> rows.AnyRow | None:
    query = sa.select(webhooks).where(webhooks.c.name == name, *where)
    return connection.execute(query.with_for_update(skip_locked=True)).one_or_none()


def _of(lease: EndpointLease) -> tuple[sa.ColumnElement[bool], ...]:
    """The fence: the endpoint, while the lease is the last one that was given."""
    return webhooks.c.name == lease.name, webhooks.c.token == lease.token


def _holds(connection: Connection, lease: EndpointLease) -> rows.AnyRow | None:
    """The endpoint's row, locked, if the lease is still the last one that was given."""
    query = sa.select(webhooks).where(*_of(lease))
    return connection.execute(query.with_for_update()).one_or_none()


def _waiting(connection: Connection, name: str, limit: int) -> int:
    page = (
        sa.select(webhook_messages.c.id)
        .where(webhook_messages.c.webhook == name, webhook_messages.c.due_at.isnot(None))
        .limit(limit)
        .subquery()
    )
    return connection.execute(sa.select(sa.func.count()).select_from(page)).scalar_one()


def _end_lost(connection: Connection, name: str, now: datetime) -> None:
    """End attempts of a sender that was lost; their messages are due again."""
    waits = sa.select(webhook_messages.c.id).where(
        webhook_messages.c.webhook == name, webhook_messages.c.due_at.isnot(None)
    )
    connection.execute(
        sa.update(webhook_attempts)
        .where(
            webhook_attempts.c.message_id.in_(waits),
            webhook_attempts.c.outcome == Outcome.STARTED.value,
        )
        .values(outcome=Outcome.UNKNOWN.value, ended_at=now, error=LOST_WORKER)
    )


def _next(
    message: WebhookMessage, answer: WebhookAnswer, jitter: float, now: datetime
) -> dict[str, Any]:
    """What a message is after an attempt."""
    if answer.is_success:
        return {"state": DELIVERED, "due_at": None, "ended_at": now}
    wait = next_wait(message.tries + 1, jitter, answer.retry_after)
    if wait is None:
        return {"state": FAILED, "due_at": None, "ended_at": now}
    return {"due_at": now + timedelta(seconds=wait)}


def _endpoint_after(
    row: rows.AnyRow, answer: WebhookAnswer, now: datetime
) -> tuple[dict[str, Any], str | None]:
    """What an endpoint is after an attempt, and why it is switched off, if it is."""
    if answer.is_success:
        return {"failures": 0, "failing_since": None, "paused_until": None}, None
    since = row.failing_since or now
    changes: dict[str, Any] = {
        "failures": row.failures + 1,
        "failing_since": since,
        "last_error": answer.error or f"status {answer.status}",
        "last_error_at": now,
    }
    pause = min(answer.retry_after or 0.0, MAX_PAUSE)
    if row.failures + 1 >= TROUBLED_AFTER:
        pause = max(pause, PAUSE)
    if pause:
        until = now + timedelta(seconds=pause)
        changes["paused_until"] = max(until, row.paused_until or until)
    reason = None
    if row.is_on and answer.is_gone:
        reason = GONE
    elif row.is_on and since <= now - FAILING_FOR:
        reason = _long()
    return changes | (_off(reason, now) if reason else {}), reason


def _again(connection: Connection, endpoint: Endpoint, span: Span, now: datetime) -> int:
    """Have messages of a span that have ended sent once more."""
    done = connection.execute(
        sa.update(webhook_messages)
        .where(
            webhook_messages.c.webhook == endpoint.name,
            webhook_messages.c.at > span.after,
            webhook_messages.c.at <= span.until,
            webhook_messages.c.state != PENDING,
            any_of(webhook_messages.c.kind, sorted(kind.value for kind in endpoint.events)),
        )
        .values(state=PENDING, due_at=sa.literal(now, UtcDateTime()), tries=0, ended_at=None)
    )
    return done.rowcount
