"""The ledger's tables, as SQLAlchemy Core. Private to the ledger; migrations build the same schema.

Owns: names, types and indexes. ``ix_events_due`` is partial, so the cost of a sweep depends on the
number of due events and not on the number of ended ones.
"""

from __future__ import annotations

import sqlalchemy as sa

from delivery.domain.inputs.trace_context import MAX_TRACEPARENT
from delivery.domain.limits import MAX_CLOUD_NAME
from delivery.ledger.sql.columns import (
    MAX_FOREIGN_NAME,
    Big,
    ForeignName,
    ForeignText,
    Id,
    Name,
    UtcDateTime,
    created,
    metadata,
)

position_seq = sa.Sequence("events_position_seq", metadata=metadata)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", Id, primary_key=True),
    # Order of recording. PostgreSQL takes it from the sequence, the one SQLite writer counts on.
    sa.Column("position", Big, nullable=False),
    sa.Column("type", Name, nullable=False),
    sa.Column("user_id", Name, nullable=False),
    sa.Column("run_id", Name, nullable=False),
    sa.Column("thread_id", Name),
    sa.Column("seq", Big),
    created("at"),
    sa.Column("class", sa.String(16), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("meta", sa.Text),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("step", sa.String(16)),
    sa.Column("due_at", UtcDateTime()),
    sa.Column("publishes", sa.Integer, nullable=False, server_default="0"),
    # Class and step of an event that waits for its turn; see ``stores/fallback/shares.py``.
    sa.Column("turn", sa.String(40)),
    created("expires_at"),
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Column("token", Big, nullable=False, server_default="0"),
    sa.Column("claimed_until", UtcDateTime()),
    sa.Column("digest_id", Id),
    sa.Column("handed_over_at", UtcDateTime()),
    created("recorded_at"),
    sa.Column("confirmed_at", UtcDateTime()),
    # What the caller chose; NULL where it chose nothing, as in rows of the first release.
    sa.Column("class_chosen", sa.Boolean),
    sa.Column("ttl_ms", Big),
    sa.Column("group_key", Name),
    sa.Column("not_before", UtcDateTime()),
    # The span that caused it.
    sa.Column("traceparent", sa.String(MAX_TRACEPARENT)),
)
sa.Index(
    "ix_events_due",
    events.c.due_at,
    postgresql_where=events.c.due_at.isnot(None),
    sqlite_where=events.c.due_at.isnot(None),
)
# Literals, and the same terms in queries: SQLite uses a partial index for nothing else.
PUBLISHED = sa.and_(events.c.publishes > sa.literal_column("0"), events.c.due_at.isnot(None))
"""The event's step is with the broker, or a worker has claimed it."""
sa.Index(
    "ix_events_published",
    events.c.user_id,
    events.c["class"],
    events.c.step,
    postgresql_where=PUBLISHED,
    sqlite_where=PUBLISHED,
)
WAITS_FOR_TURN = sa.and_(events.c.turn.isnot(None), events.c.due_at.isnot(None))
"""The event waits for its turn."""
sa.Index(
    "ix_events_turn",
    events.c.user_id,
    events.c.turn,
    events.c.position,
    postgresql_where=WAITS_FOR_TURN,
    sqlite_where=WAITS_FOR_TURN,
)
_unconfirmed = events.c.state.notin_(["confirmed", "expired"])
sa.Index(
    "ix_events_unconfirmed",
    events.c.user_id,
    events.c.position,
    postgresql_where=_unconfirmed,
    sqlite_where=_unconfirmed,
)
sa.Index("ix_events_user_id_position", events.c.user_id, events.c.position)
sa.Index("ix_events_position", events.c.position)
# Members of a digest or a firing alert, few among millions of ended events.
sa.Index(
    "ix_events_digest_id",
    events.c.digest_id,
    postgresql_where=events.c.digest_id.isnot(None),
    sqlite_where=events.c.digest_id.isnot(None),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("user_id", Name, primary_key=True),
    sa.Column("run_id", Name, primary_key=True),
    sa.Column("last_seq", Big, nullable=False),
    created("started_at"),
    created("updated_at"),
    # Sums of the run's events of the type ``token_metrics``; NULL before the first.
    sa.Column("input_tokens", Big),
    sa.Column("output_tokens", Big),
    sa.Column("cost_micros", Big),
)
# A run of which only the id is known: its user, whose events are indexed.
sa.Index("ix_runs_run_id", runs.c.run_id)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("event_id", Id, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("retryable", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("error", ForeignText),
    sa.Column("provider_id", ForeignName(MAX_FOREIGN_NAME)),
    sa.Column("digest_id", Id),
    sa.Column("token", Big, nullable=False, server_default="0"),
    sa.Column("retry_after_ms", sa.Integer),
    created("started_at"),
    sa.Column("ended_at", UtcDateTime()),
    # The status of the provider's receipt by which the attempt failed after its end.
    sa.Column("receipt", sa.String(16)),
    # The step's name where it is not its channel's; so in ``digests``.
    sa.Column("step", sa.String(16)),
    # Of the step's providers, the one that did it.
    sa.Column("provider", sa.String(32)),
    sa.UniqueConstraint("event_id", "generation", "channel", "number"),
)
sa.Index(
    "ix_attempts_digest_id",
    attempts.c.digest_id,
    postgresql_where=attempts.c.digest_id.isnot(None),
    sqlite_where=attempts.c.digest_id.isnot(None),
)
sa.Index("ix_attempts_started_at", attempts.c.started_at)

confirmations = sa.Table(
    "confirmations",
    metadata,
    sa.Column("event_id", Id, primary_key=True),
    sa.Column("channel", sa.String(16), primary_key=True),
    sa.Column("by", ForeignName(MAX_FOREIGN_NAME), primary_key=True),
    sa.Column("evidence", ForeignName(MAX_FOREIGN_NAME), primary_key=True),
    created("at"),
)

digests = sa.Table(
    "digests",
    metadata,
    sa.Column("id", Id, primary_key=True),
    # Alert groups are digests for operators: channel ``alert``, user ``*``, one per class.
    sa.Column("user_id", Name, nullable=False),
    sa.Column("run_id", Name),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("class", sa.String(16)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("due_at", UtcDateTime()),
    sa.Column("number", sa.Integer, nullable=False, server_default="0"),
    sa.Column("message_id", sa.String(255), nullable=False),
    sa.Column("provider_id", ForeignName(MAX_FOREIGN_NAME)),
    sa.Column("error", ForeignText),
    sa.Column("token", Big, nullable=False, server_default="0"),
    sa.Column("claimed_until", UtcDateTime()),
    created("created_at"),
    sa.Column("sent_at", UtcDateTime()),
    sa.Column("notified_at", UtcDateTime()),
    sa.Column("ended_at", UtcDateTime()),
    # JSON lists, of alert groups only: figures out of their limits, internal errors.
    sa.Column("conditions", sa.Text),
    sa.Column("faults", sa.Text),
    # The group of its events, in place of a run.
    sa.Column("group_key", Name),
    sa.Column("step", sa.String(16)),
)
_live = digests.c.state.in_(["open", "firing"])
sa.Index(
    "ix_digests_live",
    digests.c.user_id,
    digests.c.channel,
    postgresql_where=_live,
    sqlite_where=_live,
)
sa.Index(
    "ix_digests_user_id_channel_sent_at", digests.c.user_id, digests.c.channel, digests.c.sent_at
)
sa.Index("ix_digests_provider_id", digests.c.provider_id)

contacts = sa.Table(
    "contacts",
    metadata,
    sa.Column("user_id", Name, primary_key=True),
    sa.Column("email", sa.String(320)),
    sa.Column("phone", sa.String(20)),
    sa.Column("push", sa.Text, nullable=False, server_default="[]"),
    sa.Column("locale", sa.String(35)),
    sa.Column("time_zone", sa.String(64)),
    sa.Column("quiet_from", sa.String(5)),
    sa.Column("quiet_to", sa.String(5)),
    sa.Column("opt_out", sa.Text, nullable=False, server_default="[]"),
    created("updated_at"),
    # A JSON list of addresses; NULL: all of the row's addresses are verified.
    sa.Column("verified", sa.Text),
    # A JSON list of browsers' subscriptions; a change of the contact's fields leaves it alone.
    sa.Column("web_push", sa.Text, nullable=False, server_default="[]"),
)

# Messages that ask the owner of an address whether it may get messages, until they are sent.
verifications = sa.Table(
    "verifications",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("user_id", Name, nullable=False, index=True),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    created("asked_at"),
    created("due_at", index=True),
)

# When the last such message was asked for: a row for each address, and three for each user. The
# keys are hashes: they outlive a contact for a day, so that its deletion does not undo a limit.
verification_limits = sa.Table(
    "verification_limits",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    created("at", index=True),
)

# What users read and archived of their inboxes.
inbox_marks = sa.Table(
    "inbox_marks",
    metadata,
    sa.Column("event_id", Id, primary_key=True),
    sa.Column("read_at", UtcDateTime()),
    sa.Column("archived_at", UtcDateTime()),
)

# What providers reported about messages: the first report of each status.
receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("digest_id", Id, primary_key=True),
    sa.Column("status", sa.String(16), primary_key=True),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("provider", sa.String(32), nullable=False),
    sa.Column("code", ForeignName(64)),
    created("at"),
    created("recorded_at"),
)

# Tokens of callbacks whose signature does not cover their body, so that none serves twice.
callback_tokens = sa.Table(
    "callback_tokens",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("body", sa.String(64), nullable=False),
    created("at", index=True),
)

suppressions = sa.Table(
    "suppressions",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("address", ForeignName(320), nullable=False),
    sa.Column("reason", sa.String(16), nullable=False),
    sa.Column("provider", sa.String(32), nullable=False),
    sa.Column("code", ForeignName(64)),
    # Soft bounces so far: each one makes the next suppression longer.
    sa.Column("times", sa.Integer, nullable=False),
    created("since"),
    sa.Column("expires_at", UtcDateTime()),
    sa.UniqueConstraint("address", "channel"),
)

# Events that came as CloudEvents, by what identifies them there.
cloud_events = sa.Table(
    "cloud_events",
    metadata,
    sa.Column("source", sa.String(MAX_CLOUD_NAME), primary_key=True),
    sa.Column("id", sa.String(MAX_CLOUD_NAME), primary_key=True),
    sa.Column("event_id", Id, nullable=False),
    created("recorded_at"),
)
sa.Index("ix_cloud_events_event_id", cloud_events.c.event_id)
sa.Index("ix_cloud_events_recorded_at", cloud_events.c.recorded_at)

breakers = sa.Table(
    "breakers",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    created("since"),
)

# Until when the rate of a provider is used up.
provider_rates = sa.Table(
    "provider_rates",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    created("next_at"),
)


# The table keeps the name that it had in the first release.
queue_copies = sa.Table(
    "mailbox",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("user_id", Name, nullable=False),
    sa.Column("event_id", Id, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    created("at"),
    sa.UniqueConstraint("user_id", "event_id"),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("node", sa.String(255), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    created("started_at"),
    created("seen_at"),
    sa.Column("connections", sa.Integer, nullable=False, server_default="0"),
    sa.Column("info", sa.Text, nullable=False, server_default="{}"),
)

# Figures over time: a row for each minute and each hour.
figures = sa.Table(
    "figures",
    metadata,
    sa.Column("step_s", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", UtcDateTime(), primary_key=True),
    sa.Column("events", Big, nullable=False),
    sa.Column("delivery_rate", sa.Float),
    sa.Column("fallback_share", sa.Float),
    sa.Column("ack_p50_ms", sa.Float),
    sa.Column("ack_p99_ms", sa.Float),
    sa.Column("connections", Big, nullable=False),
    sa.Column("dead", Big, nullable=False),
    sa.Column("open_breakers", sa.Integer, nullable=False),
)

# Messages as they were handed to a provider, without the tokens in their links.
sent_messages = sa.Table(
    "sent_messages",
    metadata,
    sa.Column("id", Big, primary_key=True, autoincrement=True),
    sa.Column("digest_id", Id, nullable=False, index=True),
    sa.Column("user_id", Name, nullable=False, index=True),
    sa.Column("channel", sa.String(16), nullable=False),
    sa.Column("to", ForeignText, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("subject", ForeignText, nullable=False),
    sa.Column("text", ForeignText, nullable=False),
    sa.Column("html", ForeignText),
    created("at", index=True),
)

# Tokens that are refused: one by its ``jti``, or all that a user was issued before an instant.
revocations = sa.Table(
    "revocations",
    metadata,
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("subject", sa.String(255), primary_key=True),
    sa.Column("before", UtcDateTime()),
    created("expires_at"),
    created("recorded_at"),
)
sa.Index("ix_revocations_recorded_at", revocations.c.recorded_at)
sa.Index("ix_revocations_expires_at", revocations.c.expires_at)

# One row: the newest revision of the oldest release that may run on these tables.
schema_compatibility = sa.Table(
    "schema_compatibility",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("oldest", sa.String(32), nullable=False),
)

# Indexes of large tables that ``delivery migrate`` builds beside running processes.
index_builds = sa.Table(
    "index_builds",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(64)),
    sa.Column("claimed_until", UtcDateTime()),
)
