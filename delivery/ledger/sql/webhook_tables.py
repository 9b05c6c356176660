"""The tables of webhooks out. Private to the ledger; migrations build the same schema.

Owns: names, types and indexes, as ``tables`` does for the rest.
"""

from __future__ import annotations

import sqlalchemy as sa

from delivery.ledger.sql.columns import Big, ForeignText, Id, Name, UtcDateTime, metadata
from delivery.ledger.sql.tables import confirmations

# What messages are made of beside confirmations: ends of events without one, and what became of
# users' addresses. Written in the transaction of the change, while there are endpoints.
outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("event_id", Id),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("user_id", Name, nullable=False),
    # JSON, about contacts only: what an event is stands with the event.
    sa.Column("facts", ForeignText),
    sa.Column("at", UtcDateTime(), nullable=False),
)
sa.Index("ix_outcomes_at", outcomes.c.at)
sa.Index("ix_outcomes_user_id", outcomes.c.user_id)

# Confirmations by time, for the same readers. A summary of pages, which costs the live path next to
# nothing; SQLite, whose rows are numbered in order of time, needs none.
sa.Index(
    "ix_confirmations_at",
    confirmations.c.at,
    postgresql_using="brin",
    postgresql_with={"pages_per_range": 32, "autosummarize": True},
).ddl_if(dialect="postgresql")

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("is_on", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("reason", ForeignText),
    sa.Column("changed_at", UtcDateTime(), nullable=False),
    # When a worker last had it in its file.
    sa.Column("seen_at", UtcDateTime(), nullable=False),
    # Outcomes up to here have their messages; up to ``settled_at`` also those that were committed
    # late, with an earlier instant.
    sa.Column("followed_at", UtcDateTime(), nullable=False),
    sa.Column("settled_at", UtcDateTime(), nullable=False),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failing_since", UtcDateTime()),
    sa.Column("paused_until", UtcDateTime()),
    sa.Column("token", Big, nullable=False, server_default="0"),
    sa.Column("claimed_until", UtcDateTime()),
    # JSON: its address without the query, and what it is told; for processes without the file.
    sa.Column("facts", ForeignText),
    sa.Column("last_error", ForeignText),
    sa.Column("last_error_at", UtcDateTime()),
)

webhook_messages = sa.Table(
    "webhook_messages",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("webhook", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    # The event's id, or the outcome's: the message's content is read when it is sent.
    sa.Column("subject", sa.String(36), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("at", UtcDateTime(), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("due_at", UtcDateTime()),
    sa.Column("number", sa.Integer, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", UtcDateTime(), nullable=False),
    sa.Column("ended_at", UtcDateTime()),
    sa.UniqueConstraint("webhook", "subject", "kind", "generation"),
)
sa.Index("ix_webhook_messages_at", webhook_messages.c.at)
sa.Index("ix_webhook_messages_subject", webhook_messages.c.subject)
_waits = webhook_messages.c.due_at.isnot(None)
sa.Index(
    "ix_webhook_messages_due",
    webhook_messages.c.webhook,
    webhook_messages.c.due_at,
    postgresql_where=_waits,
    sqlite_where=_waits,
)

webhook_attempts = sa.Table(
    "webhook_attempts",
    metadata,
    sa.Column("message_id", Big, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", ForeignText),
    sa.Column("started_at", UtcDateTime(), nullable=False),
    sa.Column("ended_at", UtcDateTime()),
)
