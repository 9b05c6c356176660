"""The first schema: events, their chain, and the small tables beside them.

Revision ID: 0001
Revises:
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ID = sa.Uuid(as_uuid=False).with_variant(sa.String(36), "sqlite")
NAME = sa.String(128)
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)
WORD = sa.String(16)


def upgrade() -> None:
    is_postgresql = op.get_context().dialect.name == "postgresql"
    if is_postgresql:
        op.execute(sa.schema.CreateSequence(sa.Sequence("events_position_seq")))
    _create_events(is_postgresql)
    _create_attempts_and_confirmations()
    _create_digests()
    _create_audit()
    _create_small_tables()


def downgrade() -> None:
    for table in (
        "nodes",
        "mailbox",
        "audit_head",
        "audit_log",
        "breakers",
        "contacts",
        "digests",
        "confirmations",
        "attempts",
        "runs",
        "events",
    ):
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute(sa.schema.DropSequence(sa.Sequence("events_position_seq")))


def _create_events(is_postgresql: bool) -> None:
    # COPY leaves the column out and the server numbers the rows; on SQLite the one writer does.
    position = sa.text("nextval('events_position_seq')") if is_postgresql else None
    op.create_table(
        "events",
        sa.Column("id", ID, nullable=False),
        sa.Column("position", BIG, server_default=position, nullable=False),
        sa.Column("type", NAME, nullable=False),
        sa.Column("user_id", NAME, nullable=False),
        sa.Column("run_id", NAME, nullable=False),
        sa.Column("thread_id", NAME),
        sa.Column("seq", BIG),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("class", WORD, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("meta", sa.Text),
        sa.Column("state", WORD, nullable=False),
        sa.Column("step", WORD),
        sa.Column("due_at", INSTANT),
        sa.Column("publishes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
        sa.Column("token", BIG, nullable=False, server_default="0"),
        sa.Column("claimed_until", INSTANT),
        sa.Column("digest_id", ID),
        sa.Column("handed_over_at", INSTANT),
        sa.Column("recorded_at", INSTANT, nullable=False),
        sa.Column("confirmed_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    _partial_index("ix_events_due", "events", ["due_at"], "due_at IS NOT NULL")
    _partial_index(
        "ix_events_unconfirmed",
        "events",
        ["user_id", "position"],
        "state NOT IN ('confirmed', 'expired')",
    )
    op.create_index("ix_events_user_id_position", "events", ["user_id", "position"])
    op.create_index("ix_events_position", "events", ["position"])
    _partial_index("ix_events_digest_id", "events", ["digest_id"], "digest_id IS NOT NULL")
    op.create_table(
        "runs",
        sa.Column("user_id", NAME, nullable=False),
        sa.Column("run_id", NAME, nullable=False),
        sa.Column("last_seq", BIG, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "run_id", name="pk_runs"),
    )


def _create_attempts_and_confirmations() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("channel", WORD, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("outcome", WORD, nullable=False),
        sa.Column("retryable", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("error", sa.Text),
        sa.Column("provider_id", sa.String(255)),
        sa.Column("digest_id", ID),
        sa.Column("token", BIG, nullable=False, server_default="0"),
        sa.Column("retry_after_ms", sa.Integer),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sa.UniqueConstraint(
            "event_id",
            "generation",
            "channel",
            "number",
            name="uq_attempts_event_id_generation_channel_number",
        ),
    )
    _partial_index("ix_attempts_digest_id", "attempts", ["digest_id"], "digest_id IS NOT NULL")
    op.create_index("ix_attempts_started_at", "attempts", ["started_at"])
    op.create_table(
        "confirmations",
        sa.Column("event_id", ID, nullable=False),
        sa.Column("channel", WORD, nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("evidence", sa.String(255), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("event_id", "channel", "by", "evidence", name="pk_confirmations"),
    )


def _create_digests() -> None:
    op.create_table(
        "digests",
        sa.Column("id", ID, nullable=False),
        sa.Column("user_id", NAME, nullable=False),
        sa.Column("run_id", NAME),
        sa.Column("channel", WORD, nullable=False),
        sa.Column("class", WORD),
        sa.Column("state", WORD, nullable=False),
        sa.Column("due_at", INSTANT),
        sa.Column("number", sa.Integer, nullable=False, server_default="0"),
        sa.Column("message_id", sa.String(255), nullable=False),
        sa.Column("provider_id", sa.String(255)),
        sa.Column("error", sa.Text),
        sa.Column("token", BIG, nullable=False, server_default="0"),
        sa.Column("claimed_until", INSTANT),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("sent_at", INSTANT),
        sa.Column("notified_at", INSTANT),
        sa.Column("ended_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_digests"),
    )
    _partial_index(
        "ix_digests_live", "digests", ["user_id", "channel"], "state IN ('open', 'firing')"
    )
    op.create_index(
        "ix_digests_user_id_channel_sent_at", "digests", ["user_id", "channel", "sent_at"]
    )
    op.create_index("ix_digests_provider_id", "digests", ["provider_id"])


def _create_audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("user_id", NAME, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("seal", BIG),
        sa.Column("previous_hash", sa.String(64)),
        sa.Column("hash", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sa.UniqueConstraint("seal", name="uq_audit_log_seal"),
    )
    _partial_index("ix_audit_log_unsealed", "audit_log", ["id"], "seal IS NULL")
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("seal", BIG, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )


def _create_small_tables() -> None:
    op.create_table(
        "contacts",
        sa.Column("user_id", NAME, nullable=False),
        sa.Column("email", sa.String(320)),
        sa.Column("phone", sa.String(20)),
        sa.Column("push", sa.Text, nullable=False, server_default="[]"),
        sa.Column("locale", sa.String(35)),
        sa.Column("time_zone", sa.String(64)),
        sa.Column("quiet_from", sa.String(5)),
        sa.Column("quiet_to", sa.String(5)),
        sa.Column("opt_out", sa.Text, nullable=False, server_default="[]"),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_contacts"),
    )
    op.create_table(
        "breakers",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_breakers"),
    )
    op.create_table(
        "mailbox",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("user_id", NAME, nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_mailbox"),
        sa.UniqueConstraint("user_id", "event_id", name="uq_mailbox_user_id_event_id"),
    )
    op.create_table(
        "nodes",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("kind", WORD, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("connections", sa.Integer, nullable=False, server_default="0"),
        sa.Column("info", sa.Text, nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("node", name="pk_nodes"),
    )


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where: Any = sa.text(condition)
    op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
